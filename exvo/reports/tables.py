"""Tables of text: scores and intervals as people read them, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from exvo.config import ELSEWHERE, POOLED
from exvo.evaluation.groups import UNITS
from exvo.evaluation.prior import PRIOR
from exvo.evaluation.results import CATEGORY_SCORES, SPREAD, TRAINING, Condition, shown_scores, target_metrics
from exvo.reports.names import score_name, target_name
from exvo.text import default_text


class Column(NamedTuple):
    """A column of a table of text: its title (two may share one) and its cells, (rows,)."""

    title: str
    cells: list[str]


def split_text(split: str) -> str:
    """A split in words.

    >>> split_text("val"), split_text("folds")
    ('val split', 'all folds, each as a test split')
    """
    others = {POOLED: "all folds, each as a test split", ELSEWHERE: "another corpus than the one it has learnt from"}
    return others.get(split, f"{split} split")


def condition_text(condition: Condition) -> str:
    """A condition in words: corpus, split, task and protocol."""
    synthetic = " (SYNTHETIC: a program makes its voices, so its scores say nothing about people)"
    return (
        f"{condition.corpus}{synthetic if condition.corpus == 'sample' else ''}, digest {condition.digest[:12]}, "
        f"{split_text(condition.split)}, task {condition.task}, {condition.protocol} protocol"
    )


def results_text(condition: Condition, table: pd.DataFrame) -> str:
    """A table of results in Markdown: the scores and how they were trained, then the CCC of each target."""
    text = f"## {condition_text(condition)}\n\n{markdown(results_columns(condition, table))}\n"
    if target_metrics(table.columns):
        text += f"\nCCC of each target\n\n{markdown(target_columns(table))}\n"
    return text


def results_columns(condition: Condition, table: pd.DataFrame) -> list[Column]:
    """The scores of a table of results and how the systems were trained; `place` numbers those that were compared."""
    columns = [Column("#", place_texts(table))] if "place" in table else []
    columns.append(Column("system", table["system"].tolist()))
    for score in shown_scores(condition.task, table.columns):
        columns.append(Column(score_name(score), number_texts(table[score])))
        if score in CATEGORY_SCORES[1:] and CATEGORY_SCORES[0] in table:
            continue  # without intervals: a table of all would be too wide
        for unit in UNITS if condition.task == "fewshot" else UNITS[:1]:
            lows, highs = (table[f"{score}_{end}{unit.suffix}"] for end in ("lo", "hi"))
            columns.append(Column(f"95% by {unit.name}", interval_texts(lows, highs)))
        if "seeds" in table and score == shown_scores(condition.task, table.columns)[0]:
            each = [[float(word) for word in words.split()] for words in table["seeds"]]
            columns.append(Column("range of the seeds (each)", [range_text(values) for values in each]))
        if f"published_{score}" in table:
            columns.append(Column("published", published_texts(table, score)))
    for score in SPREAD:
        if score in table:
            columns.append(Column(score_name(score), number_texts(table[score])))
        if f"published_{score}" in table:
            columns.append(Column("published", published_texts(table, score)))
    columns.append(Column("run", table["run"].tolist()))
    if table["evaluation"].any():
        columns.append(Column("evaluation", table["evaluation"].tolist()))
    return columns + training_columns(table)


def place_texts(table: pd.DataFrame) -> list[str]:
    """The places of a table of results as text; empty where a system was not compared."""
    return ["" if pd.isna(place) else str(place) for place in table["place"]]


def target_columns(table: pd.DataFrame) -> list[Column]:
    """The CCC of each target, a column a target; under a system a row of its published figures, where it has them.

    The prior is left out: its CCC is undefined.
    """
    names = target_metrics(table.columns)
    published = table.reindex(columns=[f"published_{name}" for name in names]).to_numpy(float)
    rows = []
    systems = table["system"].tolist()
    if "place" in table:
        systems = [f"{place} {system}".strip() for place, system in zip(place_texts(table), systems, strict=True)]
    for system, ours, theirs in zip(systems, table[names].to_numpy(float), published, strict=True):
        if system == PRIOR:
            continue
        rows.append([system, *number_texts(ours, digits=3)])
        if not all(map(math.isnan, theirs)):
            rows.append(["published", *("" if math.isnan(value) else f"{value:.3f}" for value in theirs)])
    return columns_of(["system", *map(target_name, names)], rows)


def columns_of(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[Column]:
    """The columns of a table that is given as rows, one or more.

    >>> columns_of(["system", "CCC"], [["cnn14", "0.64"], ["cnn5", "0.5"]])
    [Column(title='system', cells=['cnn14', 'cnn5']), Column(title='CCC', cells=['0.64', '0.5'])]
    """
    return [Column(title, list(cells)) for title, cells in zip(titles, zip(*rows, strict=True), strict=True)]


def score_columns(table: pd.DataFrame, title: str, names: str, digits: int = 3) -> list[Column]:
    """Scores with their intervals and n as a table of text, without the intervals that are undefined in all rows.

    Args:
        table: value, n and `groups.ENDS`.
        title: of the first column.
        names: the column of the table that names the rows.
        digits: after the decimal point.
    """
    columns = [
        Column(title, table[names].astype(str).tolist()),
        Column("value", number_texts(table["value"], digits)),
    ]
    for unit in UNITS:
        lows, highs = (table[f"{end}{unit.suffix}"] for end in ("lo", "hi"))
        if lows.notna().any():
            cells = interval_texts(lows, highs, digits)
            columns.append(Column(f"95% by {unit.name}", ["" if cell == "undefined" else cell for cell in cells]))
    return [*columns, Column("n", [f"{n:,}" for n in table["n"]])]


def training_columns(table: pd.DataFrame) -> list[Column]:
    """How each system was trained; empty cells for the prior, which was not."""
    trained = (table["system"] != PRIOR) | table[list(TRAINING)].notna().any(axis=1)
    return [
        Column(
            name,
            [default_text(value) if known else "" for value, known in zip(table[name].tolist(), trained, strict=True)],
        )
        for name in TRAINING
    ]


def number_texts(values: Iterable[float], digits: int = 4) -> list[str]:
    """Scores as text; an undefined one says so."""
    return ["undefined" if math.isnan(value) else f"{value:.{digits}f}" for value in values]


def interval_texts(lows: Iterable[float], highs: Iterable[float], digits: int = 4) -> list[str]:
    """Intervals as text; an undefined one says so."""
    bounds = zip(lows, highs, strict=True)
    return ["undefined" if math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]" for low, high in bounds]


def range_text(values: Sequence[float], digits: int = 4) -> str:
    """The range of a score over several seeds, and each value; empty where there are none.

    >>> range_text([0.41, 0.4, 0.44], 2), range_text([])
    ('0.40 to 0.44 (0.41, 0.40, 0.44)', '')
    """
    if not values:
        return ""
    each = ", ".join(number_texts(values, digits))
    low, high = number_texts([min(values), max(values)], digits)
    return f"undefined ({each})" if any(map(math.isnan, values)) else f"{low} to {high} ({each})"


def published_texts(table: pd.DataFrame, score: str) -> list[str]:
    """The published figures of a score as text, with their intervals where there are some."""
    names = [f"published_{score}{end}" for end in ("", "_lo", "_hi")]
    texts = []
    for value, low, high in table.reindex(columns=names).itertuples(index=False):
        bounds = "" if math.isnan(low) else f" [{low:.4f}, {high:.4f}]"
        texts.append("" if math.isnan(value) else f"{value:.4f}{bounds}")
    return texts


def markdown(columns: Sequence[Column]) -> str:
    """A Markdown table with aligned columns.

    >>> print(markdown([Column("system", ["cnn14", "cnn5"]), Column("CCC", ["0.64", "0.5"])]))
    | system | CCC  |
    | ------ | ---- |
    | cnn14  | 0.64 |
    | cnn5   | 0.5  |
    """
    texts = [[cell.replace("|", "\\|") for cell in (title, *cells)] for title, cells in columns]
    widths = [max(map(len, column)) for column in texts]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in zip(*texts, strict=True)]
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]])
