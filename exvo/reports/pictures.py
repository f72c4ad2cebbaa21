"""Pictures of reports: bars with intervals, densities, confusions, histograms, curves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator

from exvo.reports.page import BLUE, INK, ORANGE, SMALL, WIDE, Picture, axes, picture

ROW = 0.3
"""Inches of a row of bars."""

CELLS = 32
"""Squares of a density along each axis."""

Numbers = npt.NDArray[np.float64]


def bars(name: str, caption: str, labels: pd.Series[str], table: pd.DataFrame, metric: str = "CCC") -> Picture:
    """A horizontal bar a row, the first on top, with intervals by clip and by speaker where they are known.

    Args:
        name, caption: of the picture.
        labels: (rows,).
        table: value, lo, hi, lo_by_speaker, hi_by_speaker, (rows,); an undefined value says so.
        metric: what the bars measure.
    """
    places = np.arange(len(table))
    with axes(WIDE, 0.9 + ROW * len(table)) as shown:
        shown.barh(places, table["value"].fillna(0), 0.7, color=BLUE, alpha=0.3)
        for unit, end, colour, shift in (("clip", "", BLUE, -0.14), ("speaker", "_by_speaker", ORANGE, 0.14)):
            low, high = table[f"lo{end}"], table[f"hi{end}"]
            if low.notna().any():
                shown.hlines(places + shift, low, high, color=colour, lw=2.2, label=f"95% by {unit}")
        for place in np.flatnonzero(table["value"].isna()).tolist():
            shown.text(0, place, " undefined", va="center")
        shown.axvline(0, color=INK, lw=0.8)
        shown.set_yticks(places, labels.tolist())
        shown.set_ylim(len(table) - 0.4, -0.6)
        shown.set_xlabel(metric)
        shown.grid(axis="x")
        shown.tick_params(axis="y", length=0)
        if shown.get_legend_handles_labels()[0]:
            shown.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderpad=0, borderaxespad=0.2)
    return picture(name, caption, shown)


def density(name: str, title: str, truth: Numbers, prediction: Numbers, means: pd.DataFrame) -> Picture:
    """Prediction against truth, (clips,) each: squares as dark as the logarithm of their clips, and means as points.

    Args:
        name, title: of the picture.
        truth, prediction: of one target.
        means: x and y, mean truth and mean prediction of bins.
    """
    low, high = min(truth.min(), prediction.min()), max(truth.max(), prediction.max())
    high = high if high > low else low + 1.0
    counts, _, _ = np.histogram2d(prediction, truth, bins=CELLS, range=[[low, high], [low, high]])
    colours = np.zeros((CELLS, CELLS, 4))
    colours[..., :3] = to_rgb(BLUE)
    colours[..., 3] = np.where(counts > 0, 0.15 + 0.85 * np.log1p(counts) / np.log1p(counts.max()), 0)
    with axes(SMALL, SMALL) as shown:
        shown.imshow(colours, origin="lower", extent=(low, high, low, high), interpolation="nearest", aspect="equal")
        shown.plot([low, high], [low, high], "--", color=INK, lw=0.8)
        shown.plot(means["x"], means["y"], "o-", color=ORANGE, ms=3.5, lw=1.2)
        shown.set_title(title)
        shown.set(xlabel="truth", ylabel="prediction")
        _few_ticks(shown)
    return picture(name, f"{title}: prediction against truth", shown)


def confusion(name: str, caption: str, shares: pd.DataFrame) -> Picture:
    """Shares of each row, (truth, prediction), as squares; the number is in those of 10% or more."""
    size = max(WIDE, 1.5 + 0.24 * len(shares))
    values = shares.to_numpy()
    colours = np.zeros((*values.shape, 4))
    colours[..., :3] = to_rgb(BLUE)
    colours[..., 3] = values
    with axes(size, size) as shown:
        shown.imshow(colours, interpolation="nearest")
        for row, column in zip(*np.nonzero(values >= 0.1), strict=True):
            text = f"{100 * values[row, column]:.0f}"
            shown.text(column, row, text, ha="center", va="center", fontsize=7)
        for set_ticks, labels, turned in ((shown.set_xticks, shares.columns, 90), (shown.set_yticks, shares.index, 0)):
            set_ticks(range(len(labels)), list(map(str, labels)), rotation=turned, fontsize=8)
        shown.tick_params(length=0)
        shown.set(xlabel="taken for", ylabel="truth")
        shown.spines[:].set_visible(False)
    return picture(name, caption, shown)


def histogram(name: str, caption: str, values: pd.Series[float], mark: float, metric: str = "CCC") -> Picture:
    """How many speakers have which score, with a line at `mark`."""
    with axes(WIDE, 2.4) as shown:
        shown.hist(values, bins=min(30, max(5, len(values) // 4)), color=BLUE, alpha=0.6)
        shown.axvline(mark, color=ORANGE, lw=2)
        shown.set(xlabel=metric, ylabel="speakers")
        shown.yaxis.set_major_locator(MaxNLocator(integer=True))
        shown.grid(axis="y")
    return picture(name, caption, shown)


def line(name: str, caption: str, label: str, table: pd.DataFrame) -> Picture:
    """Mean error (y) against x with its interval (lo, hi) as a band."""
    with axes(WIDE, 2.4) as shown:
        if "lo" in table:
            shown.fill_between(table["x"], table["lo"], table["hi"], color=BLUE, alpha=0.25, lw=0)
        shown.plot(table["x"], table["y"], "o-", color=BLUE, ms=4, lw=1.5)
        shown.set(xlabel=label, ylabel="absolute error")
        shown.grid()
    return picture(name, caption, shown)


def curve(name: str, caption: str, values: pd.Series[float]) -> Picture:
    """A metric of each epoch, (epochs,)."""
    with axes(WIDE, 2.4) as shown:
        shown.plot(values.index, values, "o-" if len(values) < 30 else "-", color=BLUE, ms=3, lw=1.5)
        shown.set(xlabel="epoch", ylabel=str(values.name))
        shown.xaxis.set_major_locator(MaxNLocator(integer=True))
        shown.grid()
    return picture(name, caption, shown)


def _few_ticks(shown: Axes) -> None:
    """As many numbers at the axes as a small picture has room for."""
    shown.xaxis.set_major_locator(MaxNLocator(3))
    shown.yaxis.set_major_locator(MaxNLocator(3))
