"""Whether one run is better than another: the paired difference of their scores on the very same clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Never

import pandas as pd

from exvo.bootstrap import bootstrap, interval
from exvo.config import InputError
from exvo.corpora.base import named
from exvo.evaluation import (
    constant_predictions,
    few_speakers,
    headline,
    scorable,
    speakers_are_units,
    statistics,
)
from exvo.options import command_line
from exvo.results import Columns, Condition, intervals, markdown, numbers, training_columns
from exvo.tasks import Task

OF_NETWORKS = "What differs are these trained networks; another seed of the same system may differ as much."


@dataclass(frozen=True)
class Scored:
    """The predictions of a run, to be compared.

    Attributes:
        run: the run's name.
        condition: under which they were made.
        shots: enrolment clips of a speaker.
        predictions: the predictions table.
    """

    run: str
    condition: Condition
    shots: int
    predictions: pd.DataFrame


def comparable(a: Scored, b: Scored) -> tuple[pd.DataFrame, pd.DataFrame, Task]:
    """The scored rows of both predictions tables, of the same clips in the same order, and their task.

    Raises:
        InputError: corpus, task, protocol, shots under strict, targets or scored clips differ, or fewer than two clips
            are scored; the sentence names both runs and both values.
    """
    one, other = a.condition, b.condition
    same = {"run_id": a.run, "split": one.split, "protocol": other.protocol, "shots": b.shots}
    again = f"evaluate one of them again, as with `{command_line('evaluate', same)}`, and give that run"
    corpora = [f"{condition.corpus} {condition.digest[:12]}" for condition in (one, other)]
    shots = [run.shots if run.condition.protocol == "strict" else 0 for run in (a, b)]
    emotions = [named(task_of(run).targets) for run in (a, b)]
    for what, values, remedy in (
        ("corpora", corpora, "train both on one corpus"),
        ("tasks", [one.task, other.task], "train both for one task"),
        ("protocols", [one.protocol, other.protocol], again),
        ("shots", shots, again),
        ("targets", emotions, "train both on one corpus"),
    ):
        if values[0] != values[1]:
            refuse(a, b, f"their {what} differ, {values[0]} and {values[1]}; {remedy}.")
    first, second = scorable(a.predictions), scorable(b.predictions)
    alone = sorted(set(first["file"]) ^ set(second["file"]))
    if alone:
        refuse(
            a,
            b,
            f"they score {len(first)} and {len(second)} clips, of which these are scored by one alone: {named(alone)}; "
            "evaluate both on the same readable clips.",
        )
    if len(first) < 2:
        refuse(a, b, f"{len(first)} clips of the {one.split} split are scored and have labels; it takes two.")
    return first, second.set_index("file").loc[first["file"]].reset_index(), task_of(a)


def refuse(a: Scored, b: Scored, why: str) -> Never:
    """Raises InputError: why the two can't be compared."""
    raise InputError(f"The runs {a.run} and {b.run} can't be compared: {why}")


def task_of(run: Scored) -> Task:
    """The task of a predictions table, as far as scoring needs it."""
    name = run.condition.task
    beside = {"category", *{"fewshot": (), "multitask": ("age", "country"), "speaker": ("speaker",)}[name]}
    columns = map(str, run.predictions.columns)
    labels = [column.removeprefix("truth.") for column in columns if column.startswith("truth.")]
    categories = "category" in labels and not pd.api.types.is_numeric_dtype(run.predictions["truth.category"])
    return Task(
        name,
        tuple(label for label in labels if label not in beside or (label == "category" and not categories)),
        categories=categories,
    )


def paired(a: pd.DataFrame, b: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The difference b - a of every score, with its 95% intervals over the same resamples of the same clips.

    Args:
        a, b: scored rows of predictions tables, of the same clips in the same order.
        task: which columns they have.

    Returns:
        One row a score, the headline first: metric, a, b, value (b - a), lo, hi and wins (the share of the resamples in
        which b is the better one, MAE the smaller one), and the same `_by_speaker`. NaN where a score is undefined.
    """
    first, second = statistics(a, task), statistics(b, task)
    table = pd.DataFrame({"a": first.scores(), "b": second.scores()})
    table["value"] = table["b"] - table["a"]
    speakers = a["speaker"].to_numpy()
    for by, groups in (("", None), ("_by_speaker", speakers)):
        differences = bootstrap(second, groups=groups) - bootstrap(first, groups=groups)
        better = differences * [-1.0 if name.endswith("_mae") else 1.0 for name in first.names]
        bounds = interval(differences)
        columns = [f"lo{by}", f"hi{by}", f"wins{by}"]
        table[columns] = bounds[["ci_low", "ci_high"]].assign(wins=(better > 0).where(better.notna()).mean())
        unknown = bounds["ci_low"].isna() | table["value"].isna()
        if by and not speakers_are_units(a, task):
            unknown[:] = True
        table.loc[unknown, columns] = math.nan
    main = headline(task)
    return table.loc[[main, *table.index.drop(main)]].rename_axis("metric").reset_index()


def doubts(rows: Sequence[tuple[str, pd.DataFrame]], task: Task) -> list[str]:
    """What a reader must know of the differences: too few speakers to resample, constant predictions.

    Args:
        rows: each run's name and the scored rows of its predictions table.
        task: of all.
    """
    clips = rows[0][1]
    few = few_speakers(clips["speaker"].nunique()) if speakers_are_units(clips, task) else ""
    constant = [(name, constant_predictions(table, task)) for name, table in rows]
    return [few] * bool(few) + [
        f"{name} predicts the same for every clip in {named(targets)}: the CCC is undefined there, and so is the mean "
        "over the emotions."
        for name, targets in constant
        if targets
    ]


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


def unit(metric: str) -> tuple[str, str]:
    """What is resampled where a headline score is weighed, speaker or clip, and the ending of its columns."""
    return ("clip", "") if metric == "speaker_uar" else ("speaker", "_by_speaker")
