"""Many runs compared each with each, in words and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb

from exvo.evaluation.matrix import LEVEL, Matrix
from exvo.evaluation.results import Condition, target_metrics
from exvo.reports.names import score_name
from exvo.reports.page import INK, WIDE, Page, Picture, Section, Tile, axes, make_picture
from exvo.reports.sentences import OTHER_SEEDS, doubt_sentences
from exvo.reports.tables import Column, condition_text, markdown, number_texts, results_columns, target_columns

CELL_INCHES = 0.5
"""Width of a square of the matrix."""

DIVERGING = LinearSegmentedColormap.from_list("diverging", ["#b35806", "#f7f7f7", "#2166ac"])
"""Negative, zero, positive: the ends of ColorBrewer's PuOr and RdBu, distinct for all kinds of colour vision."""

LONGEST_LABEL = 30
"""Characters of a run's name beside the matrix."""


def results_page(
    condition: Condition, table: pd.DataFrame, compared: Matrix | None, left_out: Sequence[str], command: str
) -> Page:
    """The page of the results under one condition, with the differences of its runs.

    Args:
        condition: of all.
        table: as `results.results_table` gives it, with `place` where there is a matrix.
        compared: the differences; None where fewer than two runs can be compared.
        left_out: a sentence for each run that is not in the matrix.
        command: which makes the page again.
    """
    sections = [Section("Results", table=results_columns(condition, table), numbers=table)]
    tiles: list[Tile] = []
    if compared is not None:
        best = compared.runs[0]
        value = table.loc[table["place"] == 1, compared.metric].tolist()
        marked = f"p < {LEVEL} after Holm's correction"
        tiles = [
            Tile(f"best {score_name(compared.metric)}", number_texts(value)[0], best),
            Tile(
                "differences shown",
                f"{compared.differing} of {compared.comparisons}",
                "too few speakers to mark any" if compared.few_speakers else marked,
            ),
        ]
        sections.append(
            Section(
                "Differences",
                [matrix_explanation(compared)],
                doubt_sentences(compared.doubts),
                [heat_map(compared, row_labels(table, compared))],
                matrix_columns(compared),
                numbers=compared.pairs,
            )
        )
    if left_out:
        sections.append(Section("Left out of the comparison", left_out))
    if target_metrics(table.columns):
        sections.append(Section("CCC of each target", table=target_columns(table)))
    sections.append(Section("Repeat this comparison", code=command))
    lead = "" if compared is None else matrix_conclusion(compared)
    return Page("Results side by side", [condition_text(condition)], tiles, sections, lead)


def row_labels(table: pd.DataFrame, compared: Matrix) -> list[str]:
    """The compared runs, the best first: their systems or, where those repeat, the runs' names, shortened."""
    systems = table.dropna(subset="place").sort_values("place")["system"].tolist()
    names = systems if len(set(systems)) == len(systems) else compared.runs
    half = LONGEST_LABEL // 2
    return [name if len(name) <= LONGEST_LABEL else f"{name[: half - 1]}…{name[-half:]}" for name in names]


def heat_map(compared: Matrix, labels: Sequence[str]) -> Picture:
    """The matrix as squares that hold the differences, row - column; * where marked.

    Args:
        compared: the differences.
        labels: (runs,), beside the rows; above the columns are their places alone.
    """
    count = len(labels)
    values = np.where(np.eye(count, dtype=bool), math.nan, compared.values)
    defined = np.abs(values[~np.isnan(values)])
    limit = defined.max() if defined.any() else 1.0
    scale = Normalize(-limit, limit)
    label_inches = 0.075 * max(map(len, labels)) + 0.6
    with axes(max(WIDE, label_inches + CELL_INCHES * count), 0.5 + CELL_INCHES * 0.7 * count) as ax:
        ax.pcolormesh(np.ma.masked_invalid(values), cmap=DIVERGING, norm=scale, edgecolors="none")
        for row, column in np.ndindex(count, count):
            value = values[row, column]
            if row != column:
                text = cell_text(compared, row, column)
                colour = INK if math.isnan(value) else _readable(DIVERGING(scale(value)))
                size = 6 if math.isnan(value) else 8
                ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size, color=colour)
        middles = np.arange(count) + 0.5
        ax.set_xticks(middles, [str(place + 1) for place in range(count)])
        ax.set_yticks(middles, [f"{label}\u2002{place}" for place, label in enumerate(labels, 1)])
        ax.xaxis.tick_top()
        ax.invert_yaxis()
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    return make_picture("matrix", f"Differences of {score_name(compared.metric)}, row - column.", ax)


def _readable(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever stands out more from a colour (relative luminance of WCAG 2)."""
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "#000000" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "#ffffff"


def matrix_columns(compared: Matrix) -> list[Column]:
    """The matrix as text: row - column, * where it is marked."""
    places = [str(place + 1) for place in range(len(compared.runs))]
    columns = [Column("#", places)]
    for column, title in enumerate(places):
        columns.append(Column(title, [cell_text(compared, row, column) for row in range(len(places))]))
    return columns


def cell_text(compared: Matrix, row: int, column: int) -> str:
    """One difference as text; the diagonal is empty."""
    if row == column:
        return ""
    value = compared.values[row, column]
    return "undefined" if math.isnan(value) else f"{value:+.3f}{'*' if compared.marked[row, column] else ''}"


def matrix_conclusion(compared: Matrix) -> str:
    """How many comparisons there are and how many are marked, in a sentence."""
    count, metric = compared.comparisons, score_name(compared.metric)
    if not count:
        return f"No difference of {metric} has a 95% interval by {compared.by}: none is shown."
    marked = compared.differing
    comparisons = "1 comparison" if count == 1 else f"{count} comparisons"
    if compared.few_speakers:
        return (
            f"{comparisons} of {metric}, corrected for by Holm's method; none is marked, because p values "
            f"over {compared.speakers} speakers are too low."
        )
    return (
        f"{comparisons} of {metric}: after Holm's correction for that number, {marked or 'none'} "
        f"{'differ' if marked > 1 else 'differs'} from zero at p < {LEVEL}."
    )


def matrix_explanation(compared: Matrix) -> str:
    """How to read the matrix."""
    return (
        f"Differences of {score_name(compared.metric)}, row - column, the best run first; * where p < {LEVEL} after "
        f"Holm's correction. Paired over {compared.clips} clips of {compared.speakers} speakers, {compared.resamples} "
        f"resamples by {compared.by}. {OTHER_SEEDS}"
    )


def matrix_text(compared: Matrix) -> str:
    """The matrix in Markdown."""
    parts = [
        matrix_explanation(compared),
        markdown(matrix_columns(compared)),
        matrix_conclusion(compared),
        *doubt_sentences(compared.doubts),
    ]
    return "\n\n".join(parts) + "\n"


def left_out_text(reasons: Sequence[str]) -> str:
    """The runs that are not in the matrix, in Markdown; empty where there are none."""
    return "".join(["Left out of the comparison:\n\n", *(f"- {reason}\n" for reason in reasons)]) if reasons else ""
