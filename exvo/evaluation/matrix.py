"""Many runs compared each with each: paired differences of the headline score, corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.evaluation.groups import CLIP, SPEAKER
from exvo.evaluation.metrics import FloatArray
from exvo.evaluation.pairwise import Doubts, Scored, comparable, doubts, resampled_unit, same_clips, why_incomparable
from exvo.evaluation.scoring import few_speakers, headline, speakers_are_units, statistics
from exvo.progress import followed

LEVEL = 0.05
"""A difference whose adjusted p value is lower is marked, unless there are too few speakers for p values."""


@dataclass(frozen=True)
class Matrix:
    """The paired differences of the headline score, each run against each.

    Attributes:
        metric: the score.
        by: what is resampled: speaker, of a speaker recogniser clip.
        resamples: how many.
        runs: the runs' names, the best first.
        order: the index of each of them in the list that `difference_matrix` took.
        values: (runs, runs), row - column; NaN where undefined.
        pairs: one row a pair: a and b (b has the higher score), place_a and place_b (1 is the best), value (b - a), lo
            and hi (95%), p, p_holm, and wins, the share of the resamples in which b is the better one.
        clips, speakers: over how many.
        doubts: what a reader must know.
    """

    metric: str
    by: str
    resamples: int
    runs: list[str]
    order: list[int]
    values: FloatArray
    pairs: pd.DataFrame
    clips: int
    speakers: int
    doubts: Doubts

    @property
    def comparisons(self) -> int:
        """How many pairs have a p value: the number that Holm's correction is for."""
        return int(self.pairs["p"].notna().sum())

    @property
    def few_speakers(self) -> bool:
        """Whether there are too few speakers to mark anything, see `p_values`."""
        return self.by == SPEAKER.name and few_speakers(self.speakers)

    @property
    def marked(self) -> npt.NDArray[np.bool_]:
        """Which differences are marked, (runs, runs)."""
        marked = np.zeros(self.values.shape, dtype=bool)
        if self.few_speakers:
            return marked
        pairs = self.pairs[self.pairs["p_holm"] < LEVEL]
        a, b = pairs["place_a"].to_numpy() - 1, pairs["place_b"].to_numpy() - 1
        marked[a, b] = marked[b, a] = True
        return marked

    @property
    def differing(self) -> int:
        """How many comparisons are marked."""
        return int(self.marked.sum()) // 2


def comparable_runs(runs: Sequence[Scored]) -> tuple[list[int], dict[int, str]]:
    """The largest set of runs that can be compared with each other, and of each other run the reason why not.

    Returns:
        Indices in `runs`, of equally large sets those of the one with the first run; reasons by index.
    """
    sets: list[list[int]] = []
    for index, run in enumerate(runs):
        for members in sets:
            if why_incomparable(runs[members[0]], run) is None:
                members.append(index)
                break
        else:
            sets.append([index])
    kept = max(sets, key=len, default=[])
    obstacles = {index: why_incomparable(runs[kept[0]], run) for index, run in enumerate(runs) if index not in kept}
    return kept, {index: obstacle for index, obstacle in obstacles.items() if obstacle is not None}


def difference_matrix(runs: Sequence[Scored]) -> Matrix:
    """The paired difference of the headline score of each pair of runs; of runs of several seeds that of their mean.

    Each run is resampled on its own; the same seed gives all the same resamples. There are 100 resamples a comparison,
    1,000 at least: so the lowest p value, 2 / (resamples + 1), is below the strictest bound of Holm's correction,
    0.05 / comparisons.

    Args:
        runs: two or more.

    Raises:
        InputError: two of them can't be compared.
    """
    resamples = max(1000, 100 * math.comb(len(runs), 2))
    values, samples, rows = [], [], []
    for run in followed(runs, "comparing", "run"):
        clips, table, task = comparable(runs[0], run)
        metric = headline(task)
        sums = [statistics(same_clips(clips, seed)[1], task) for seed in run.seeds.values() or [run.predictions]]
        unit = resampled_unit(metric)
        if unit == CLIP or speakers_are_units(table, task):
            groups = None if unit == CLIP else table["speaker"].to_numpy()
            samples.append(np.mean([bootstrap(one, resamples, groups=groups)[metric] for one in sums], axis=0))
        else:
            samples.append(np.full(resamples, math.nan))
        values.append(np.mean([one.scores()[metric] for one in sums]))
        rows.append((run.run, table))
    scores = np.array(values)
    order = np.argsort(-scores, kind="stable")
    names = [runs[index].run for index in order]
    return Matrix(
        metric=metric,
        by=unit.name,
        resamples=resamples,
        runs=names,
        order=order.tolist(),
        values=scores[order, None] - scores[None, order],
        pairs=pairs(names, scores[order], np.stack(samples, axis=1)[:, order]),
        clips=len(clips),
        speakers=clips["speaker"].nunique(),
        doubts=doubts(rows, task),
    )


def pairs(names: Sequence[str], scores: FloatArray, samples: FloatArray) -> pd.DataFrame:
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
    table = pd.concat(tables, ignore_index=True)
    table.loc[table["value"].isna() | table["lo"].isna(), ["lo", "hi", "p", "wins"]] = math.nan
    return table.assign(p_holm=holm(table["p"]))


def p_values(differences: pd.DataFrame) -> FloatArray:
    """Two-sided bootstrap p values of no difference.

    Twice the share of resamples on the far side of zero, zero itself counted to both, with one added to both counts
    (Davison and Hinkley 1997, Bootstrap Methods and their Application, section 4.2), at most 1. This is the percentile
    interval read the other way: p < 0.05 where the 95% interval excludes zero, up to one resample at its ends.

    Over few speakers p values are too low, as that interval is too narrow. In a simulation of six equally good runs
    (tests/test_matrix.py) Holm's correction promises a marked difference in at most 5% of the sets of clips; it was 4%
    with 100 speakers, 6% with 40, 11% with 20 and 46% with 5. So over few speakers nothing is marked.

    Args:
        differences: (resamples, pairs).

    Returns:
        (pairs,).

    >>> p_values(pd.DataFrame({"always": [1.0, 2.0, 3.0], "never": [0.0, 0.0, 0.0], "half": [-1.0, 1.0, 2.0]}))
    array([0.5, 1. , 1. ])
    """
    beyond = np.minimum((differences <= 0).sum(), (differences >= 0).sum())
    share = (beyond + 1) / (differences.notna().sum() + 1)
    values: FloatArray = (2 * share).clip(upper=1.0).to_numpy(np.float64)
    return values


def holm(p: npt.ArrayLike) -> FloatArray:
    """Holm's step-down adjusted p values: the chance that one of no difference is below 0.05 is at most 5%.

    The i-th lowest of m is multiplied by m - i + 1, is not lower than those before it, and at most 1 (Holm 1979,
    Scandinavian Journal of Statistics 6, 65-70). NaN stays NaN and is not counted in m.

    Args:
        p: (pairs,).

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p, dtype=np.float64)
    defined = np.flatnonzero(~np.isnan(values))
    ascending = defined[np.argsort(values[defined], kind="stable")]
    adjusted = np.full(values.shape, math.nan)
    steps = values[ascending] * np.arange(len(defined), 0, -1)
    adjusted[ascending] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted
