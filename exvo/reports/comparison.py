"""The paired difference of two runs, in words and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from exvo.evaluation import pairwise
from exvo.evaluation.pairwise import OF_NETWORKS, unit
from exvo.evaluation.results import Condition
from exvo.reports.page import BLUE, INK, ORANGE, WIDE, Page, Picture, Section, axes, picture
from exvo.reports.tables import Columns, intervals, markdown, numbers, training_columns


def about_columns(runs: pd.DataFrame) -> Columns:
    """What a and b are: rows of `system`, `run`, `evaluation` and the columns `TRAINING`."""
    columns: Columns = [("", ["a", "b"]), ("system", runs["system"].tolist()), ("run", runs["run"].tolist())]
    if runs["evaluation"].any():
        columns.append(("evaluation", runs["evaluation"].tolist()))
    return columns + training_columns(runs)


def difference_columns(table: pd.DataFrame) -> Columns:
    """The table that `paired` gives, as text."""
    columns: Columns = [("score", table["metric"].tolist()), ("a", numbers(table["a"])), ("b", numbers(table["b"]))]
    columns.append(("b - a", numbers(table["value"])))
    for title, by in (("clip", ""), ("speaker", "_by_speaker")):
        columns += [
            (f"95% by {title}", intervals(table[f"lo{by}"], table[f"hi{by}"])),
            ("b wins", numbers(table[f"wins{by}"], digits=3)),
        ]
    return columns


def explanation(clips: pd.DataFrame) -> str:
    """Over which clips two runs are paired, and how to read the table."""
    return (
        f"Paired over {len(clips)} clips of {clips['speaker'].nunique()} speakers; b wins: the share of the resamples "
        "in which b is the better one (of an MAE, the smaller). The intervals are not corrected for the number of "
        f"scores: the first score is the test, the others show where a difference lies. {OF_NETWORKS}"
    )


def comparison_text(
    condition: Condition, runs: pd.DataFrame, table: pd.DataFrame, clips: pd.DataFrame, warnings: list[str]
) -> str:
    """The paired difference of two runs in Markdown, with what each of them is, and what it shows.

    Args:
        condition: that of both.
        runs: a and b, as `about_columns` takes them.
        table: as `paired` gives it.
        clips: the scored rows.
        warnings: as `doubts` gives them.
    """
    parts = [
        f"## {condition.heading}",
        markdown(about_columns(runs)),
        explanation(clips),
        markdown(difference_columns(table)),
        conclusion(table),
        *warnings,
    ]
    return "\n\n".join(parts) + "\n"


def conclusion(table: pd.DataFrame) -> str:
    """What the interval of the headline shows, in a sentence: by speaker, of a speaker recogniser by clip."""
    row = table.iloc[0]
    metric, difference = row["metric"], row["value"]
    by, end = unit(metric)
    low, high = row[f"lo{end}"], row[f"hi{end}"]
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


ROW = 0.27


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
    by, end = pairwise.unit(metric)
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
            [conclusion(table), explanation(clips)],
            warnings,
            [forest(metric, table.iloc[:1])],
        ),
        Section("Scores", pictures=pictures, numbers=table),
        Section("Figures", table=difference_columns(table)),
        Section("Runs", table=about_columns(runs)),
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
