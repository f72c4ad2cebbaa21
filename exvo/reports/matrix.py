"""Many runs compared each with each, in words and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb

from exvo.evaluation import pairwise
from exvo.evaluation.pairwise import LEVEL, OF_NETWORKS, Matrix
from exvo.evaluation.results import Condition, targets
from exvo.reports.page import INK, WIDE, Page, Picture, Section, axes, picture
from exvo.reports.tables import Columns, markdown, numbers, results_columns, target_columns

CELL = 0.5
"""Inches of a row of a forest plot, and of a square of the matrix."""

DIVERGING = LinearSegmentedColormap.from_list("diverging", ["#b35806", "#f7f7f7", "#2166ac"])
"""Negative, zero, positive: the ends of ColorBrewer's PuOr and RdBu, told apart by all eyes, on light and dark."""

LABEL = 30
"""Characters of a run's name beside the matrix."""


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
        marked = f"p < {pairwise.LEVEL} after Holm's correction"
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
                [conclusion(compared), explanation(compared)],
                compared.warnings,
                [heat_map(compared, row_labels(table, compared))],
                matrix_columns(compared),
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
                text = cell(compared, row, column)
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


def matrix_columns(of: Matrix) -> Columns:
    """The matrix as text: row - column, * where it is marked."""
    places = [str(place + 1) for place in range(len(of.runs))]
    columns: Columns = [("#", places)]
    for column, title in enumerate(places):
        columns.append((title, [cell(of, row, column) for row in range(len(places))]))
    return columns


def cell(of: Matrix, row: int, column: int) -> str:
    """One difference as text; the diagonal is empty."""
    if row == column:
        return ""
    value = of.values[row, column]
    return "undefined" if math.isnan(value) else f"{value:+.3f}{'*' if of.marked[row, column] else ''}"


def conclusion(of: Matrix) -> str:
    """How many comparisons there are and how many are marked, in a sentence."""
    count = of.comparisons
    if not count:
        return f"No difference of {of.metric} has a 95% interval by {of.by}: none is shown."
    shown = of.differing
    comparisons = "1 comparison" if count == 1 else f"{count} comparisons"
    if of.few_speakers:
        return (
            f"{comparisons} of {of.metric}, corrected for by Holm's method; none is marked, because p values over "
            f"{of.speakers} speakers are too low."
        )
    return (
        f"{comparisons} of {of.metric}: after Holm's correction for that number, {shown or 'none'} "
        f"{'differ' if shown > 1 else 'differs'} from zero at p < {LEVEL}."
    )


def explanation(of: Matrix) -> str:
    """How to read the matrix."""
    return (
        f"Differences of {of.metric}, row - column, the best run first; * where p < {LEVEL} after Holm's correction. "
        f"Paired over {of.clips} clips of {of.speakers} speakers, {of.resamples} resamples by {of.by}. {OF_NETWORKS}"
    )


def matrix_text(of: Matrix) -> str:
    """The matrix in Markdown."""
    return "\n\n".join([explanation(of), markdown(matrix_columns(of)), conclusion(of), *of.warnings]) + "\n"


def left_out_text(reasons: Sequence[str]) -> str:
    """The runs that are in no matrix, in Markdown; empty where there are none."""
    return "".join(["Left out of the comparison:\n\n", *(f"- {one}\n" for one in reasons)]) if reasons else ""
