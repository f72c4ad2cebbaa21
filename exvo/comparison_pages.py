"""Comparisons as pages and pictures: two runs score by score, many runs each with each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb

from exvo import comparison, matrix
from exvo.matrix import Matrix
from exvo.page import BLUE, INK, ORANGE, WIDE, Page, Picture, Section, axes, picture
from exvo.results import Condition, intervals, numbers, results_columns, target_columns, targets

ROW = 0.27
CELL = 0.5
"""Inches of a row of a forest plot, and of a square of the matrix."""

DIVERGING = LinearSegmentedColormap.from_list("diverging", ["#b35806", "#f7f7f7", "#2166ac"])
"""Negative, zero, positive: the ends of ColorBrewer's PuOr and RdBu, told apart by all eyes, on light and dark."""

LABEL = 30
"""Characters of a run's name beside the matrix."""


def two_page(
    condition: Condition,
    runs: pd.DataFrame,
    table: pd.DataFrame,
    clips: pd.DataFrame,
    warnings: Sequence[str],
    command: str,
) -> Page:
    """The paired difference of two runs.

    Args:
        condition, runs, table, clips, warnings: as `comparison.comparison_text` takes them.
        command: what repeats it.
    """
    head = table.iloc[0]
    metric = head["metric"]
    by, end = comparison.unit(metric)
    bounds = intervals([head[f"lo{end}"]], [head[f"hi{end}"]])[0]
    tiles = [
        (f"{side}: {system}", numbers([head[side]])[0], run)
        for side, system, run in zip("ab", runs["system"], runs["run"], strict=True)
    ]
    tiles.append((f"b - a, {metric}", numbers([head["value"]])[0], f"95% by {by} {bounds}"))
    errors = table["metric"].str.endswith("_mae")
    rest = table[~errors].iloc[1:]
    pictures = [forest("scores", rest)] if len(rest) else []
    pictures += [forest(table.loc[place, "metric"], table.loc[[place]]) for place in table.index[errors]]
    sections = [
        Section(
            "Difference",
            [comparison.conclusion(table), comparison.explanation(clips)],
            warnings,
            [forest(metric, table.iloc[:1])],
        ),
        Section("Scores", pictures=pictures, numbers=table),
        Section("Figures", table=comparison.difference_columns(table)),
        Section("Runs", table=comparison.about_columns(runs)),
        Section("Repeat", code=command),
    ]
    return Page("Comparison of two runs", [condition.heading], tiles, sections)


def forest(name: str, table: pd.DataFrame) -> Picture:
    """A row a score: the difference as a point, with its intervals by clip and by speaker.

    Args:
        name: of the picture.
        table: rows of `comparison.paired`, of one unit.
    """
    places = np.arange(len(table))
    with axes(WIDE, 1.1 + ROW * len(table)) as shown:
        shown.axvline(0, color=INK, lw=0.8)
        for unit, end, colour, shift in (("clip", "", BLUE, -0.13), ("speaker", "_by_speaker", ORANGE, 0.13)):
            low, high = table[f"lo{end}"], table[f"hi{end}"]
            if low.notna().any():
                shown.hlines(places + shift, low, high, color=colour, lw=2.2, label=f"95% by {unit}")
                shown.plot(table["value"].where(low.notna()), places + shift, "o", color=colour, ms=4)
        for place in places[table["value"].isna()].tolist():
            shown.text(0, place, " undefined", va="center")
        shown.set_yticks(places, table["metric"].tolist())
        shown.set_ylim(len(table) - 0.4, -0.6)
        side = "left" if name.endswith("_mae") else "right"
        shown.set_xlabel(f"b - a{' in years' if name == 'age_mae' else ''}, {side} of 0: b is better")
        shown.grid(axis="x")
        shown.locator_params(axis="x", nbins=5)
        shown.tick_params(axis="y", length=0)
        if shown.get_legend_handles_labels()[0]:
            shown.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderpad=0, borderaxespad=0.2)
    what = name if len(table) == 1 else "each other score"
    return picture(name, f"The paired difference b - a of {what}, with its 95% intervals.", shown)


def many_page(
    condition: Condition, table: pd.DataFrame, compared: Matrix | None, left_out: Sequence[str], command: str
) -> Page:
    """The results under one condition, and the differences of its runs.

    Args:
        condition: of all.
        table: as `results.results_table` gives it, with `place` where there is a matrix.
        compared: the differences; None where fewer than two runs can be compared.
        left_out: sentences, one a run that is in no matrix.
        command: what repeats it.
    """
    sections = [Section("Results", table=results_columns(condition, table), numbers=table)]
    tiles = []
    if compared is not None:
        best = compared.runs[0]
        value = table.loc[table["place"] == 1, compared.metric].tolist()
        marked = f"p < {matrix.LEVEL} after Holm's correction"
        tiles = [
            (f"best {compared.metric}", numbers(value)[0], best),
            (
                "differences shown",
                f"{compared.differing} of {compared.comparisons}",
                "too few speakers to mark any" if compared.few_speakers else marked,
            ),
        ]
        sections.append(
            Section(
                "Differences",
                [matrix.conclusion(compared), matrix.explanation(compared)],
                compared.warnings,
                [heat_map(compared, row_labels(table, compared))],
                matrix.matrix_columns(compared),
                numbers=compared.pairs,
            )
        )
    if left_out:
        sections.append(Section("Left out of the comparison", left_out))
    if targets(table.columns):
        sections.append(Section("CCC of each target", table=target_columns(table)))
    sections.append(Section("Repeat", code=command))
    return Page("Results side by side", [condition.heading], tiles, sections)


def row_labels(table: pd.DataFrame, compared: Matrix) -> list[str]:
    """The compared runs, the best first: their systems or, where those repeat, the runs' names, shortened."""
    systems = table.dropna(subset="place").sort_values("place")["system"].tolist()
    names = systems if len(set(systems)) == len(systems) else compared.runs
    half = LABEL // 2
    return [name if len(name) <= LABEL else f"{name[: half - 1]}…{name[-half:]}" for name in names]


def heat_map(compared: Matrix, labels: Sequence[str]) -> Picture:
    """The matrix as squares, row - column, with the numbers in them; * where marked.

    Args:
        compared: the differences.
        labels: (runs,), beside the rows; the columns have their numbers alone.
    """
    count = len(labels)
    values = np.where(np.eye(count, dtype=bool), math.nan, compared.values)
    known = np.abs(values[~np.isnan(values)])
    limit = known.max() if known.any() else 1.0
    scale = Normalize(-limit, limit)
    beside = 0.075 * max(map(len, labels)) + 0.6
    with axes(max(WIDE, beside + CELL * count), 0.5 + CELL * 0.7 * count) as shown:
        shown.pcolormesh(np.ma.masked_invalid(values), cmap=DIVERGING, norm=scale, edgecolors="none")
        for row, column in np.ndindex(count, count):
            value = values[row, column]
            if row != column:
                text = matrix.cell(compared, row, column)
                colour = INK if math.isnan(value) else _readable(DIVERGING(scale(value)))
                size = 6 if math.isnan(value) else 8
                shown.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size, color=colour)
        middles = np.arange(count) + 0.5
        shown.set_xticks(middles, [str(place + 1) for place in range(count)])
        shown.set_yticks(middles, [f"{label}\u2002{place}" for place, label in enumerate(labels, 1)])
        shown.xaxis.tick_top()
        shown.invert_yaxis()
        shown.tick_params(length=0)
        shown.spines[:].set_visible(False)
    return picture("matrix", f"Differences of {compared.metric}, row - column.", shown)


def _readable(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever stands out more from a colour (relative luminance of WCAG 2)."""
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "#000000" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "#ffffff"
