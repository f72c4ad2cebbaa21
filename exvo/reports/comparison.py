"""The paired difference of two runs, in words and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from exvo.evaluation.groups import UNITS
from exvo.evaluation.pairwise import resampled_unit
from exvo.evaluation.results import Condition
from exvo.evaluation.scoring import LESS_IS_BETTER
from exvo.evaluation.seeds import Spread
from exvo.reports.names import score_name
from exvo.reports.page import INK, WIDE, Page, Picture, Section, Tile, axes, legend, make_picture
from exvo.reports.pictures import UNIT_COLOURS
from exvo.reports.seeds import spread_columns, spread_text
from exvo.reports.sentences import OTHER_SEEDS
from exvo.reports.tables import Column, condition_text, interval_texts, markdown, number_texts, training_columns

ROW_INCHES = 0.27
"""Height of a row of a forest plot."""


def run_columns(runs: pd.DataFrame) -> list[Column]:
    """What a and b are, from rows of `system`, `run`, `evaluation` and the columns `TRAINING`."""
    columns = [
        Column("", ["a", "b"]),
        Column("system", runs["system"].tolist()),
        Column("run", runs["run"].tolist()),
    ]
    if runs["evaluation"].any():
        columns.append(Column("evaluation", runs["evaluation"].tolist()))
    return columns + training_columns(runs)


def difference_columns(table: pd.DataFrame) -> list[Column]:
    """The table that `paired` gives, as text: the difference first, which a phone has room for."""
    columns = [
        Column("score", table["metric"].map(score_name).tolist()),
        Column("b - a", number_texts(table["value"])),
    ]
    for unit in reversed(UNITS):
        lows, highs, wins = (table[f"{name}{unit.suffix}"] for name in ("lo", "hi", "wins"))
        columns.append(Column(f"95% by {unit.name}", interval_texts(lows, highs)))
        columns.append(Column("b wins", number_texts(wins, digits=3)))
    return [*columns, Column("a", number_texts(table["a"])), Column("b", number_texts(table["b"]))]


def comparison_explanation(clips: pd.DataFrame, spread: Spread | None) -> str:
    """Over which clips two runs are paired, how to read the table, and what other seeds would change."""
    return (
        f"Paired over {len(clips)} clips of {clips['speaker'].nunique()} speakers; b wins: the share of the resamples "
        "in which b is better (for an error or a loss: smaller). The intervals are not corrected for the number of "
        f"scores: the first score is the test, the others show where a difference lies. "
        f"{OTHER_SEEDS if spread is None else spread_text(spread)}"
    )


def comparison_text(
    condition: Condition,
    runs: pd.DataFrame,
    table: pd.DataFrame,
    clips: pd.DataFrame,
    warnings: list[str],
    spread: Spread | None = None,
) -> str:
    """The paired difference of two runs in Markdown, with what each of them is, and what it shows.

    Args:
        condition: that of both.
        runs: a and b, as `run_columns` takes them.
        table: as `paired` gives it.
        clips: the scored rows.
        warnings: as `doubt_sentences` gives them.
        spread: of two runs of several seeds, whose mean the table is of; None: of two trainings.
    """
    parts = [
        f"## {condition_text(condition)}",
        markdown(run_columns(runs)),
        comparison_explanation(clips, spread),
        markdown(difference_columns(table)),
        *([] if spread is None else [markdown(spread_columns(spread))]),
        comparison_conclusion(table),
        *warnings,
    ]
    return "\n\n".join(parts) + "\n"


def comparison_conclusion(table: pd.DataFrame) -> str:
    """What the interval of the headline score shows, in a sentence.

    Args:
        table: as `paired` gives it.
    """
    row = table.iloc[0]
    metric, difference = score_name(row["metric"]), row["value"]
    by, suffix = resampled_unit(row["metric"])
    low, high = row[f"lo{suffix}"], row[f"hi{suffix}"]
    if math.isnan(difference):
        return f"The difference of {metric} is undefined: no difference is shown."
    if math.isnan(low):
        return f"b - a is {difference:.4f} {metric}; its 95% interval by {by} is undefined: no difference is shown."
    if low <= 0 <= high:
        bounds = f"95% interval by {by} [{low:.4f}, {high:.4f}]"
        return f"b - a is {difference:.4f} {metric}, {bounds}, which includes zero: no difference is shown."
    better, worse = ("b", "a") if low > 0 else ("a", "b")
    low, high = sorted((abs(low), abs(high)))
    bounds = f"95% interval by {by} [{low:.4f}, {high:.4f}]"
    return f"{better} beats {worse} by {abs(difference):.4f} {metric}, {bounds}, which excludes zero."


def comparison_page(
    condition: Condition,
    runs: pd.DataFrame,
    table: pd.DataFrame,
    clips: pd.DataFrame,
    warnings: Sequence[str],
    command: str,
    spread: Spread | None = None,
) -> Page:
    """The page of the paired difference of two runs.

    Args:
        condition, runs, table, clips, warnings, spread: as `comparison_text` takes them.
        command: which makes the page again.
    """
    head = table.iloc[0]
    metric = head["metric"]
    by, suffix = resampled_unit(metric)
    bounds = interval_texts([head[f"lo{suffix}"]], [head[f"hi{suffix}"]])[0]
    tiles = [
        Tile(f"{side}: {system}", number_texts([head[side]])[0], run)
        for side, system, run in zip("ab", runs["system"], runs["run"], strict=True)
    ]
    tiles.append(Tile(f"b - a, {score_name(metric)}", number_texts([head["value"]])[0], f"95% by {by} {bounds}"))
    errors = table["metric"].isin(LESS_IS_BETTER)
    others = table[~errors].iloc[1:]
    pictures = [forest("scores", others)] if len(others) else []
    pictures += [forest(table.loc[index, "metric"], table.loc[[index]]) for index in table.index[errors]]
    sections = [
        Section(
            "Difference",
            [comparison_explanation(clips, spread)],
            warnings,
            [forest(metric, table.iloc[:1])],
        ),
        Section("Scores", pictures=pictures, numbers=table),
        Section("Figures", table=difference_columns(table)),
        *([] if spread is None else [Section("Seeds", table=spread_columns(spread), numbers=spread.table)]),
        Section("Runs", table=run_columns(runs)),
        Section("Repeat this comparison", code=command),
    ]
    return Page("Comparison of two runs", [condition_text(condition)], tiles, sections, comparison_conclusion(table))


def forest(name: str, table: pd.DataFrame) -> Picture:
    """A row a score: the difference as a point, with its intervals by clip and by speaker.

    Args:
        name: of the picture.
        table: rows of `paired`, all in one unit of measurement.
    """
    places = np.arange(len(table))
    with axes(WIDE, 1.1 + ROW_INCHES * len(table)) as ax:
        ax.axvline(0, color=INK, lw=0.8)
        for unit, shift in zip(UNITS, (-0.13, 0.13), strict=True):
            low, high, colour = table[f"lo{unit.suffix}"], table[f"hi{unit.suffix}"], UNIT_COLOURS[unit]
            if low.notna().any():
                ax.hlines(places + shift, low, high, color=colour, lw=2.2, label=f"95% by {unit.name}")
                ax.plot(table["value"].where(low.notna()), places + shift, "o", color=colour, ms=4)
        for place in places[table["value"].isna()].tolist():
            ax.text(0, place, " undefined", va="center")
        ax.set_yticks(places, table["metric"].map(score_name).tolist())
        ax.set_ylim(len(table) - 0.4, -0.6)
        side = "left" if name in LESS_IS_BETTER else "right"
        ax.set_xlabel(f"b - a{' in years' if name == 'age_mae' else ''}, {side} of 0: b is better")
        ax.grid(axis="x")
        ax.locator_params(axis="x", nbins=5)
        ax.tick_params(axis="y", length=0)
        legend(ax)
    what = score_name(name) if len(table) == 1 else "each other score"
    return make_picture(name, f"The paired difference b - a of {what}, with its 95% intervals.", ax)
