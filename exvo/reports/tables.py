"""Tables of text: scores and intervals as people read them, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from exvo.evaluation.results import ENDS, SCORES, SPREAD, TRAINING, Condition, targets
from exvo.text import default_text

Columns = list[tuple[str, list[str]]]
"""A table of text: titles (which may repeat) and cells."""


def results_text(condition: Condition, table: pd.DataFrame) -> str:
    """A table of results in Markdown: the scores and how they were trained, then the CCC of each target."""
    text = f"## {condition.heading}\n\n{markdown(results_columns(condition, table))}\n"
    if targets(table.columns):
        text += f"\nCCC of each target\n\n{markdown(target_columns(table))}\n"
    return text


def results_columns(condition: Condition, table: pd.DataFrame) -> Columns:
    """The scores of a table of results and how the systems were trained; `place` numbers those that were compared."""
    columns: Columns = [("#", places(table))] if "place" in table else []
    columns.append(("system", table["system"].tolist()))
    for score, title in SCORES[condition.task].items():
        lo, hi, lo_by_speaker, hi_by_speaker = (table[f"{score}_{end}"] for end in ENDS)
        columns += [(title, numbers(table[score])), ("95% by clip", intervals(lo, hi))]
        if condition.task == "fewshot":
            columns.append(("95% by speaker", intervals(lo_by_speaker, hi_by_speaker)))
        if f"published_{score}" in table:
            columns.append(("published", published_cells(table, score)))
    for name, title in SPREAD.items():
        columns += [(title, numbers(table[name]))] if name in table else []
        columns += [("published", published_cells(table, name))] if f"published_{name}" in table else []
    columns.append(("run", table["run"].tolist()))
    if table["evaluation"].any():
        columns.append(("evaluation", table["evaluation"].tolist()))
    return columns + training_columns(table)


def places(table: pd.DataFrame) -> list[str]:
    """The places of a table of results as text; empty where a system was not compared."""
    return ["" if pd.isna(place) else str(place) for place in table["place"]]


def target_columns(table: pd.DataFrame) -> Columns:
    """The CCC of each target, a column a target; under a system a row of its published figures, where it has them."""
    names = targets(table.columns)
    beside = table.reindex(columns=[f"published_{name}" for name in names]).to_numpy(float)
    rows = []
    systems = table["system"].tolist()
    if "place" in table:
        systems = [f"{place} {system}".strip() for place, system in zip(places(table), systems, strict=True)]
    for system, ours, theirs in zip(systems, table[names].to_numpy(float), beside, strict=True):
        rows.append([system, *numbers(ours, digits=3)])
        if not all(map(math.isnan, theirs)):
            rows.append(["published", *("" if math.isnan(value) else f"{value:.3f}" for value in theirs)])
    titles = ["system", *(name.removesuffix("_ccc") for name in names)]
    return [(title, list(cells)) for title, cells in zip(titles, zip(*rows, strict=True), strict=True)]


def training_columns(table: pd.DataFrame) -> Columns:
    """How each system was trained."""
    return [(name, [default_text(value) for value in table[name].tolist()]) for name in TRAINING]


def numbers(values: Iterable[float], digits: int = 4) -> list[str]:
    """Scores as text; an undefined one says so."""
    return ["undefined" if math.isnan(value) else f"{value:.{digits}f}" for value in values]


def intervals(lows: Iterable[float], highs: Iterable[float], digits: int = 4) -> list[str]:
    """Intervals as text; an undefined one says so."""
    bounds = zip(lows, highs, strict=True)
    return ["undefined" if math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]" for low, high in bounds]


def published_cells(table: pd.DataFrame, score: str) -> list[str]:
    """The published figures of a score as text, with their intervals where there are some."""
    names = [f"published_{score}{end}" for end in ("", "_lo", "_hi")]
    cells = []
    for value, low, high in table.reindex(columns=names).itertuples(index=False):
        bounds = "" if math.isnan(low) else f" [{low:.4f}, {high:.4f}]"
        cells.append("" if math.isnan(value) else f"{value:.4f}{bounds}")
    return cells


def markdown(columns: Columns) -> str:
    """A Markdown table with aligned columns.

    >>> print(markdown([("system", ["cnn14", "cnn5"]), ("CCC", ["0.64", "0.5"])]))
    | system | CCC  |
    | ------ | ---- |
    | cnn14  | 0.64 |
    | cnn5   | 0.5  |
    """
    texts = [[cell.replace("|", "\\|") for cell in (title, *cells)] for title, cells in columns]
    widths = [max(map(len, column)) for column in texts]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in zip(*texts, strict=True)]
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]])
