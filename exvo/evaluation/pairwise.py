"""Whether one run is better than another: paired differences over the very same clips, of two runs or of many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Never

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from exvo.errors import InputError
from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.evaluation.results import Condition
from exvo.evaluation.scoring import (
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

    @property
    def task(self) -> Task:
        """The task, as far as scoring needs it."""
        return task_of(self.predictions, self.condition.task)


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
    emotions = [listing(run.task.targets) for run in (a, b)]
    for what, values, remedy in (
        ("corpora", corpora, "train both on one corpus"),
        ("tasks", [one.task, other.task], "train both for one task"),
        ("protocols", [one.protocol, other.protocol], again),
        ("shots", shots, again),
        ("targets", emotions, "train both on one corpus"),
    ):
        if values[0] != values[1]:
            refuse(a, b, f"their {what} differ, {values[0]} and {values[1]}; {remedy}.")
    try:
        first, second = same_clips(a.predictions, b.predictions)
    except InputError as error:
        refuse(a, b, str(error))
    return first, second, a.task


def same_clips(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The scored rows of two predictions tables with the same targets, of the same clips in the same order.

    Raises:
        InputError: the scored clips, their speakers or their labels differ, or fewer than two clips are scored; a
            clause, without what the tables are called.
    """
    first, second = scorable(a), scorable(b)
    alone = sorted(set(first["file"]) ^ set(second["file"]))
    if alone:
        raise InputError(
            f"they score {len(first)} and {len(second)} clips, of which these are scored by one alone: "
            f"{listing(alone)}; evaluate both on the same readable clips."
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


def refuse(a: Scored, b: Scored, why: str) -> Never:
    """Raises InputError: why the two can't be compared."""
    raise InputError(f"The runs {a.run} and {b.run} can't be compared: {why}")


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
        f"{name} predicts the same for every clip in {listing(targets)}: the CCC is undefined there, and so is the "
        "mean over the emotions."
        for name, targets in constant
        if targets
    ]


def unit(metric: str) -> tuple[str, str]:
    """What is resampled where a headline score is weighed, speaker or clip, and the ending of its columns."""
    return ("clip", "") if metric == "speaker_uar" else ("speaker", "_by_speaker")


LEVEL = 0.05
"""A difference whose adjusted p value is lower is marked, unless there are too few speakers for p values."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Matrix:
    """The paired differences of some runs' headline score.

    Attributes:
        metric: the score.
        by: what is resampled: speaker, of a speaker recogniser clip.
        resamples: how many.
        runs: the runs' names, the best first.
        order: where each of them stands among the runs that were given.
        values: (runs, runs), row - column; NaN where undefined.
        pairs: one row a pair: a and b (b has the higher score), place_a and place_b (1 is the best), value (b - a), lo
            and hi (95%), p, p_holm, and wins, the share of the resamples in which b is the better one.
        clips, speakers: over how many.
        warnings: what a reader must know.
    """

    metric: str
    by: str
    resamples: int
    runs: list[str]
    order: list[int]
    values: Numbers
    pairs: pd.DataFrame
    clips: int
    speakers: int
    warnings: list[str]

    @property
    def comparisons(self) -> int:
        """The pairs that have a p value: what Holm's correction corrects for."""
        return int(self.pairs["p"].notna().sum())

    @property
    def few_speakers(self) -> bool:
        """Whether there are too few speakers to mark anything, see `p_values`."""
        return self.by == "speaker" and bool(few_speakers(self.speakers))

    @property
    def marked(self) -> npt.NDArray[np.bool_]:
        """Which differences are marked, (runs, runs)."""
        found = np.zeros(self.values.shape, dtype=bool)
        if self.few_speakers:
            return found
        kept = self.pairs[self.pairs["p_holm"] < LEVEL]
        a, b = kept["place_a"].to_numpy() - 1, kept["place_b"].to_numpy() - 1
        found[a, b] = found[b, a] = True
        return found

    @property
    def differing(self) -> int:
        """How many comparisons are marked."""
        return int(self.marked.sum()) // 2


def comparable_runs(runs: Sequence[Scored]) -> tuple[list[int], dict[int, str]]:
    """The largest set of runs that can be compared with each other, and of each other run the reason why not.

    Returns:
        Places in `runs`; of equally large sets that of the first run.
    """
    sets: list[list[int]] = []
    for place, run in enumerate(runs):
        for members in sets:
            if not reason(runs[members[0]], run):
                members.append(place)
                break
        else:
            sets.append([place])
    kept = max(sets, key=len, default=[])
    return kept, {place: reason(runs[kept[0]], run) for place, run in enumerate(runs) if place not in kept}


def reason(a: Scored, b: Scored) -> str:
    """Why two runs can't be compared; empty where they can."""
    try:
        comparable(a, b)
    except InputError as error:
        return str(error)
    return ""


def matrix(runs: Sequence[Scored]) -> Matrix:
    """The paired difference of each pair of runs, of a speaker recogniser by clip, else by speaker.

    Each run is resampled by itself, with one seed, which gives the same resamples; of them only the headline score is
    kept. There are 100 resamples a comparison, 1,000 at least: the lowest p value, 2 / (resamples + 1), lies under the
    strictest bound of Holm's correction, 0.05 / comparisons.

    Args:
        runs: two or more.

    Raises:
        InputError: two of them can't be compared.
    """
    resamples = max(1000, 100 * math.comb(len(runs), 2))
    values, samples, rows = [], [], []
    for run in tqdm(runs, desc="compare", unit="run", leave=False, disable=None):
        clips, own, task = comparable(runs[0], run)
        metric, every = headline(task), statistics(own, task)
        by, _ = unit(metric)
        if by == "clip" or speakers_are_units(own, task):
            groups = None if by == "clip" else own["speaker"].to_numpy()
            samples.append(bootstrap(every, resamples, groups=groups)[metric].to_numpy())
        else:
            samples.append(np.full(resamples, math.nan))
        values.append(every.scores()[metric])
        rows.append((run.run, own))
    scores = np.array(values)
    order = np.argsort(-scores, kind="stable")
    names = [runs[place].run for place in order]
    return Matrix(
        metric=metric,
        by=by,
        resamples=resamples,
        runs=names,
        order=order.tolist(),
        values=scores[order, None] - scores[None, order],
        pairs=pairs(names, scores[order], np.stack(samples, axis=1)[:, order]),
        clips=len(clips),
        speakers=clips["speaker"].nunique(),
        warnings=doubts(rows, task),
    )


def pairs(names: Sequence[str], scores: Numbers, samples: Numbers) -> pd.DataFrame:
    """All pairs of runs, as `Matrix.pairs`.

    Args:
        names: (runs,), the best first.
        scores: (runs,), descending, undefined ones last.
        samples: (resamples, runs), the score in each resample.
    """
    tables = []
    for better in range(len(names) - 1):
        worse = np.arange(better + 1, len(names))
        differences = pd.DataFrame(samples[:, [better]] - samples[:, worse])
        bounds = interval(differences)
        columns = {
            "a": names[better + 1 :],
            "b": names[better],
            "place_a": worse + 1,
            "place_b": better + 1,
            "value": scores[better] - scores[worse],
            "lo": bounds["ci_low"],
            "hi": bounds["ci_high"],
            "p": p_values(differences),
            "p_holm": math.nan,
            "wins": (differences > 0).sum() / differences.notna().sum(),
        }
        tables.append(pd.DataFrame(columns))
    found = pd.concat(tables, ignore_index=True)
    found.loc[found["value"].isna() | found["lo"].isna(), ["lo", "hi", "p", "wins"]] = math.nan
    return found.assign(p_holm=holm(found["p"]))


def p_values(differences: pd.DataFrame) -> Numbers:
    """Two-sided bootstrap p values of no difference: (pairs,), from (resamples, pairs).

    Twice the share of resamples on the far side of zero, zero itself counted to both, with one added to both counts
    (Davison and Hinkley 1997, Bootstrap Methods and their Application, section 4.2), at most 1. This is the percentile
    interval read the other way: p < 0.05 just where the 95% interval excludes zero, but for a resample at its ends.

    Like that interval it claims too much over few speakers. Six equally good runs compared each with each, simulated as
    in tests/test_matrix.py: Holm's correction promises that in 5% of the sets of clips at most a difference is marked;
    it was 4% with 100 speakers, 6% with 40, 11% with 20 and 46% with 5. So over few speakers nothing is marked.

    >>> p_values(pd.DataFrame({"always": [1.0, 2.0, 3.0], "never": [0.0, 0.0, 0.0], "half": [-1.0, 1.0, 2.0]}))
    array([0.5, 1. , 1. ])
    """
    beyond = np.minimum((differences <= 0).sum(), (differences >= 0).sum())
    share = (beyond + 1) / (differences.notna().sum() + 1)
    values: Numbers = (2 * share).clip(upper=1.0).to_numpy(np.float64)
    return values


def holm(p: npt.ArrayLike) -> Numbers:
    """Holm's step-down adjusted p values: that any true null hypothesis falls below 0.05 has a chance of at most 5%.

    The i-th lowest of m is multiplied by m - i + 1, is not lower than those before it, and at most 1 (Holm 1979,
    Scandinavian Journal of Statistics 6, 65-70). NaN stays and does not count.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    ascending = known[np.argsort(values[known], kind="stable")]
    adjusted = np.full(values.shape, math.nan)
    steps = values[ascending] * np.arange(len(known), 0, -1)
    adjusted[ascending] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted
