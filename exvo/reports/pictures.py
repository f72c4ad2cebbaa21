"""Pictures of reports: bars with intervals, densities, confusions, histograms, curves."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator

from exvo.config import FeatureConfig
from exvo.evaluation.groups import UNITS, Unit
from exvo.evaluation.metrics import FloatArray
from exvo.reports.page import BLUE, INK, ORANGE, SMALL, WIDE, Picture, axes, legend, make_picture

BAR_INCHES = 0.3
"""Height of a bar with the space around it."""

UNIT_COLOURS: dict[Unit, str] = dict(zip(UNITS, (BLUE, ORANGE), strict=True))
"""Of the intervals by clip and by speaker."""

NAMED, LONGEST_LABEL = 50, 20
"""Points of a ranking that are named at most, and the letters of a name that are shown."""

CELLS = 32
"""Squares of a density along each axis."""


def bars(name: str, caption: str, labels: pd.Series[str], table: pd.DataFrame, metric: str = "CCC") -> Picture:
    """A horizontal bar for each row, the first on top, with intervals by clip and by speaker where they are defined.

    Args:
        name, caption: of the picture.
        labels: (rows,).
        table: value and `groups.ENDS`, (rows,); the bar of an undefined value says so.
        metric: what the bars measure.
    """
    places = np.arange(len(table))
    with axes(WIDE, 0.9 + BAR_INCHES * len(table)) as ax:
        ax.barh(places, table["value"].fillna(0), 0.7, color=BLUE, alpha=0.3)
        for unit, shift in zip(UNITS, (-0.14, 0.14), strict=True):
            low, high = table[f"lo{unit.suffix}"], table[f"hi{unit.suffix}"]
            if low.notna().any():
                ax.hlines(places + shift, low, high, color=UNIT_COLOURS[unit], lw=2.2, label=f"95% by {unit.name}")
        for place in np.flatnonzero(table["value"].isna()).tolist():
            ax.text(0, place, " undefined", va="center")
        ax.axvline(0, color=INK, lw=0.8)
        ax.set_yticks(places, labels.tolist())
        ax.set_ylim(len(table) - 0.4, -0.6)
        ax.set_xlabel(metric)
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
        legend(ax)
    return make_picture(name, caption, ax)


def ranking(name: str, caption: str, labels: pd.Series[str], table: pd.DataFrame, metric: str, mark: float) -> Picture:
    """A point for each row in its order, however many there are, with its interval; named where there is room.

    Args:
        name, caption: of the picture.
        labels: (rows,).
        table: value, lo and hi, (rows,).
        metric: what the points measure.
        mark: where a dashed line lies; NaN: nowhere.
    """
    places = np.arange(len(table))
    with axes(WIDE, 3.2) as ax:
        ax.vlines(places, table["lo"], table["hi"], color=BLUE, alpha=0.4, lw=min(4.0, 200 / len(table)))
        ax.plot(places, table["value"], "o", color=BLUE, ms=min(5.0, 300 / len(table)))
        if not np.isnan(mark):
            ax.axhline(mark, ls="--", color=INK, lw=0.8)
        if len(table) <= NAMED:
            ax.set_xticks(places, [label[:LONGEST_LABEL] for label in labels], rotation=90, fontsize=8)
        ax.set(xlabel="" if len(table) <= NAMED else "speakers, the worst first", ylabel=metric)
        ax.grid(axis="y")
    return make_picture(name, caption, ax)


def density(name: str, title: str, truth: FloatArray, prediction: FloatArray, means: pd.DataFrame) -> Picture:
    """Prediction against truth: squares, the darker the more clips (on a logarithmic scale), and means as points.

    Args:
        name, title: of the picture.
        truth, prediction: (clips,), of one target.
        means: x and y, mean truth and mean prediction of bins.
    """
    low, high = min(truth.min(), prediction.min()), max(truth.max(), prediction.max())
    high = high if high > low else low + 1.0
    counts, _, _ = np.histogram2d(prediction, truth, bins=CELLS, range=[[low, high], [low, high]])
    colours = np.zeros((CELLS, CELLS, 4))
    colours[..., :3] = to_rgb(BLUE)
    colours[..., 3] = np.where(counts > 0, 0.15 + 0.85 * np.log1p(counts) / np.log1p(counts.max()), 0)
    with axes(SMALL, SMALL) as ax:
        ax.imshow(colours, origin="lower", extent=(low, high, low, high), interpolation="nearest", aspect="equal")
        ax.plot([low, high], [low, high], "--", color=INK, lw=0.8)
        ax.plot(means["x"], means["y"], "o-", color=ORANGE, ms=3.5, lw=1.2)
        ax.set_title(title)
        ax.set(xlabel="truth", ylabel="prediction")
        _few_ticks(ax)
    return make_picture(name, f"{title}: prediction against truth", ax)


def confusion(name: str, caption: str, shares: pd.DataFrame) -> Picture:
    """Shares of each row, (truth, prediction), as squares; those of 10% or more hold the number."""
    size = max(WIDE, 1.5 + 0.24 * len(shares))
    values = shares.to_numpy()
    colours = np.zeros((*values.shape, 4))
    colours[..., :3] = to_rgb(BLUE)
    colours[..., 3] = values
    with axes(size, size) as ax:
        ax.imshow(colours, interpolation="nearest")
        for row, column in zip(*np.nonzero(values >= 0.1), strict=True):
            text = f"{100 * values[row, column]:.0f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=7)
        for set_ticks, labels, turned in ((ax.set_xticks, shares.columns, 90), (ax.set_yticks, shares.index, 0)):
            set_ticks(range(len(labels)), list(map(str, labels)), rotation=turned, fontsize=8)
        ax.tick_params(length=0)
        ax.set(xlabel="taken for", ylabel="truth")
        ax.spines[:].set_visible(False)
    return make_picture(name, caption, ax)


def histogram(name: str, caption: str, values: pd.Series[float], mark: float, metric: str = "CCC") -> Picture:
    """How many speakers have which score, (speakers,), with a vertical line at `mark`."""
    with axes(WIDE, 2.4) as ax:
        ax.hist(values, bins=min(30, max(5, len(values) // 4)), color=BLUE, alpha=0.6)
        ax.axvline(mark, color=ORANGE, lw=2)
        ax.set(xlabel=metric, ylabel="speakers")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="y")
    return make_picture(name, caption, ax)


def line(name: str, caption: str, label: str, table: pd.DataFrame) -> Picture:
    """The mean error (column y) against x with its interval (lo, hi) as a band."""
    with axes(WIDE, 2.4) as ax:
        if "lo" in table:
            ax.fill_between(table["x"], table["lo"], table["hi"], color=BLUE, alpha=0.25, lw=0)
        ax.plot(table["x"], table["y"], "o-", color=BLUE, ms=4, lw=1.5)
        ax.set(xlabel=label, ylabel="absolute error")
        ax.grid()
    return make_picture(name, caption, ax)


def curve(name: str, caption: str, label: str, values: pd.Series[float]) -> Picture:
    """A metric of each epoch, (epochs,)."""
    with axes(WIDE, 2.4) as ax:
        ax.plot(values.index, values, "o-" if len(values) < 30 else "-", color=BLUE, ms=3, lw=1.5)
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid()
    return make_picture(name, caption, ax)


def spectrogram(name: str, caption: str, log_mel: FloatArray) -> Picture:
    """A log-mel, (frames, bands) in dB with a frame each 10 ms, over a range of 80 dB below its loudest."""
    loudest = float(log_mel.max())
    with axes(WIDE, 2.0) as ax:
        extent = (0.0, len(log_mel) * FeatureConfig.hop / FeatureConfig.sample_rate, 0.0, float(log_mel.shape[1]))
        ax.imshow(
            log_mel.T, origin="lower", aspect="auto", cmap="magma", vmin=loudest - 80, vmax=loudest, extent=extent
        )
        ax.set(xlabel="time (s)", ylabel="mel band")
    return make_picture(name, caption, ax)


def _few_ticks(ax: Axes) -> None:
    """As many numbers at the axes as a small picture has room for."""
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.yaxis.set_major_locator(MaxNLocator(3))
