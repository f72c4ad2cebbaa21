"""Whether one run is better than another: paired differences over the very same clips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from exvo.errors import InputError
from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.evaluation.groups import CLIP, SPEAKER, UNITS, Unit
from exvo.evaluation.results import Condition
from exvo.evaluation.scoring import (
    HEADLINES,
    LESS_IS_BETTER,
    constant_predictions,
    few_speakers,
    headline,
    scorable,
    speakers_are_units,
    statistics,
)
from exvo.options import command_line
from exvo.tasks import Task, task_of
from exvo.text import listing


@dataclass(frozen=True)
class Scored:
    """A run's predictions of one split.

    Attributes:
        run: the run's name.
        condition: under which they were made.
        shots: enrolment clips a speaker.
        predictions: the predictions table; of several seeds that of the first.
        seeds: the predictions tables of several seeds, by seed; empty of a single training.
    """

    run: str
    condition: Condition
    shots: int
    predictions: pd.DataFrame
    seeds: Mapping[int, pd.DataFrame] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """The task, as far as scoring needs it."""
        return task_of(self.predictions, self.condition.task)


class Pair(NamedTuple):
    """The scored rows of two predictions tables, of the same clips in the same order, and their task."""

    a: pd.DataFrame
    b: pd.DataFrame
    task: Task


def comparable(a: Scored, b: Scored) -> Pair:
    """The scored rows of both predictions tables; of runs of several seeds those of the first seed.

    Raises:
        InputError: corpus, task, protocol, shots under strict, targets or scored clips differ, or fewer than two clips
            are scored; the sentence names both runs and both values.
    """
    options = {"run_id": a.run, "split": a.condition.split, "protocol": b.condition.protocol, "shots": b.shots}
    evaluate = f"evaluate one of them again, as with `{command_line('evaluate', options)}`, and give that run"
    corpora = [f"{run.condition.corpus} {run.condition.digest[:12]}" for run in (a, b)]
    shots = [run.shots if run.condition.protocol == "strict" else 0 for run in (a, b)]
    begin = f"The runs {a.run} and {b.run} can't be compared: "
    for what, values, remedy in (
        ("corpora", corpora, "train both on one corpus"),
        ("tasks", [run.condition.task for run in (a, b)], "train both for one task"),
        ("protocols", [run.condition.protocol for run in (a, b)], evaluate),
        ("shots", shots, evaluate),
        ("targets", [listing(run.task.targets) for run in (a, b)], "train both on one corpus"),
    ):
        if values[0] != values[1]:
            raise InputError(f"{begin}their {what} differ, {values[0]} and {values[1]}; {remedy}.")
    try:
        first, second = same_clips(a.predictions, b.predictions)
    except InputError as error:
        raise InputError(f"{begin}{error}") from None
    return Pair(first, second, a.task)


def why_incomparable(a: Scored, b: Scored) -> str | None:
    """Why two runs can't be compared, as a sentence for the user; None where they can."""
    try:
        comparable(a, b)
    except InputError as error:
        return str(error)
    return None


def same_clips(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The scored rows of two predictions tables with the same targets, of the same clips in the same order.

    Raises:
        InputError: the scored clips, their speakers or their labels differ, or fewer than two clips are scored; the
            sentence begins without the names of the tables, for the caller to put them first.
    """
    first, second = scorable(a), scorable(b)
    unshared = sorted(set(first["file"]) ^ set(second["file"]))
    if unshared:
        raise InputError(
            f"they score {len(first)} and {len(second)} clips, of which these are scored by one alone: "
            f"{listing(unshared)}; evaluate both on the same readable clips."
        )
    if len(first) < 2:
        splits = listing(a["split"].unique())
        raise InputError(f"{len(first)} clips of the {splits} split are scored and have labels; it takes two.")
    second = second.set_index("file").loc[first["file"]].reset_index()
    labels = ["speaker", *(column for column in first if str(column).startswith("truth."))]
    differing = np.any([first[label].to_numpy() != second[label].to_numpy() for label in labels], axis=0)
    if differing.any():
        clips = listing(first["file"][differing])
        raise InputError(f"their speakers or labels differ for the clips {clips}; evaluate both on one corpus.")
    return first, second


def paired(a: pd.DataFrame, b: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The difference b - a of every score of two predictions tables, see `paired_means`."""
    return paired_means([Pair(a, b, task)])


def paired_means(pairs: Sequence[Pair]) -> pd.DataFrame:
    """The mean over pairs of the difference b - a of every score, with its 95% intervals.

    All are scored on the same resamples.

    Args:
        pairs: one, or one for each seed; all of the same clips in the same order.

    Returns:
        One row a score, the headline first: metric, a, b, value (b - a), lo, hi and wins (the share of the resamples in
        which b is the better one, an error the smaller one), and the same `_by_speaker`. NaN where a score is
        undefined. Scores that one of the two lacks, as log loss where its predictions are no shares, are left out.
    """
    a, _, task = pairs[0]
    sums = [[statistics(table, task) for table in pair[:2]] for pair in pairs]
    names = [name for name in sums[0][0].names if all(name in one.names for both in sums for one in both)]
    means = {side: np.mean([both[place].scores()[names] for both in sums], axis=0) for place, side in enumerate("ab")}
    table = pd.DataFrame(means, index=names)
    table["value"] = table["b"] - table["a"]
    for unit in UNITS:
        groups = a["speaker"].to_numpy() if unit == SPEAKER else None
        samples = [
            bootstrap(second, groups=groups)[names] - bootstrap(first, groups=groups)[names] for first, second in sums
        ]
        differences = pd.DataFrame(np.mean(samples, axis=0), columns=names)
        better = differences * [-1.0 if name in LESS_IS_BETTER else 1.0 for name in names]
        bounds = interval(differences)
        columns = [f"{name}{unit.suffix}" for name in ("lo", "hi", "wins")]
        table[columns] = bounds[["ci_low", "ci_high"]].assign(wins=(better > 0).where(better.notna()).mean())
        undefined = bounds["ci_low"].isna() | table["value"].isna()
        if unit == SPEAKER and not speakers_are_units(a, task):
            undefined[:] = True
        table.loc[undefined, columns] = math.nan
    main = headline(task)
    return table.loc[[main, *table.index.drop(main)]].rename_axis("metric").reset_index()


@dataclass(frozen=True)
class Constant:
    """A run that predicts the same for every clip in some targets, whose CCC is then undefined."""

    run: str
    targets: list[str]


@dataclass(frozen=True)
class Doubts:
    """What a reader must know of differences; `reports.sentences` puts it into words.

    Attributes:
        few_speakers: how many speakers are resampled, where they are too few; else None.
        constant: runs with constant predictions.
        no_speakers: whether nobody of whom clips are is known.
    """

    few_speakers: int | None
    constant: list[Constant]
    no_speakers: bool = False


def doubts(rows: Sequence[tuple[str, pd.DataFrame]], task: Task) -> Doubts:
    """What makes the differences of some runs doubtful.

    Args:
        rows: each run's name and the scored rows of its predictions table, of the same clips.
        task: of all.
    """
    clips = rows[0][1]
    count = clips["speaker"].nunique()
    few = speakers_are_units(clips, task) and few_speakers(count)
    constant = [Constant(name, constant_predictions(table, task)) for name, table in rows]
    return Doubts(
        count if few else None, [run for run in constant if run.targets], bool((clips["speaker"] == "").all())
    )


def resampled_unit(metric: str) -> Unit:
    """What is resampled where a headline score is compared: speakers, of a speaker recogniser clips."""
    return CLIP if metric == HEADLINES["speaker"] else SPEAKER
