"""Several trainings that differ in their seed alone: the mean of their scores, and what the seeds add to a difference.

The mean over the seeds is what one training is expected to reach. Its interval by speaker is over resamples that all
seeds share, so it says how far the mean moves with other people, given these networks; how far it moves with other
seeds the spread over the seeds says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from exvo.errors import InputError
from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.evaluation.calibration import centred
from exvo.evaluation.groups import CLIP, SPEAKER, UNITS
from exvo.evaluation.pairwise import Pair, Scored, comparable, resampled_unit, same_clips
from exvo.evaluation.scoring import headline, scorable, speakers_are_units, statistics, statistics_of
from exvo.tasks import Task
from exvo.text import listing


def mean_scores(tables: Sequence[pd.DataFrame], task: Task) -> pd.DataFrame:
    """The mean of every score over the seeds, with its 95% intervals over resamples that all seeds share.

    Args:
        tables: the predictions of each seed, of the same split.
        task: which columns they have.

    Returns:
        As `scoring.score`, without what is over groups, and the columns `lowest` and `highest` of a seed. NaN where a
        score is undefined for one of the seeds.

    Raises:
        InputError: the seeds' scored clips differ.
    """
    first = scorable(tables[0])
    pieces = [statistics(same_clips(first, table)[1], task) for table in tables]
    names = [name for name in pieces[0].names if all(name in piece.names for piece in pieces)]
    each = np.stack([piece.scores()[names] for piece in pieces])
    table = pd.DataFrame({"value": each.mean(axis=0)}, index=pd.Index(names, name="metric"))
    for unit in UNITS:
        ends = [f"lo{unit.suffix}", f"hi{unit.suffix}"]
        groups = first["speaker"].to_numpy() if unit == SPEAKER else None
        if unit == SPEAKER and not speakers_are_units(first, task):
            table[ends] = math.nan
            continue
        samples = np.mean([bootstrap(piece, groups=groups)[names] for piece in pieces], axis=0)
        whole = centred(pd.DataFrame(samples, columns=names), table["value"])
        table[ends] = interval(whole)[["ci_low", "ci_high"]].to_numpy()
    return table.assign(n=len(first), lowest=each.min(axis=0), highest=each.max(axis=0)).reset_index()


def pair_seeds(a: Scored, b: Scored) -> dict[int, Pair]:
    """The scored rows of two runs of several seeds, of the same clips in the same order, by seed that both have.

    Raises:
        InputError: one of them is a single training, they share fewer than two seeds, or they can't be compared.
    """
    begin = f"The runs {a.run} and {b.run} can't be compared: "
    if not (a.seeds and b.seeds):
        several, single = (a, b) if a.seeds else (b, a)
        raise InputError(
            f"{begin}{several.run} is {len(several.seeds)} seeds, {single.run} a single training; give one of the runs "
            f"beneath {several.run}, or train the system of {single.run} with seeds={len(several.seeds)}."
        )
    shared = sorted(a.seeds.keys() & b.seeds.keys())
    if len(shared) < 2:
        seeds = [listing(map(str, run.seeds)) for run in (a, b)]
        raise InputError(
            f"{begin}the same seeds are paired, and their seeds are {seeds[0]} and {seeds[1]}; train both with the "
            "same seed and seeds."
        )
    first, _, task = comparable(a, b)
    pairs = {}
    for seed in shared:
        rows = [same_clips(first, run.seeds[seed])[1] for run in (a, b)]
        pairs[seed] = Pair(rows[0], rows[1], task)
    return pairs


@dataclass(frozen=True, eq=False)
class Spread:
    """What the seeds add to the difference of a headline score.

    Attributes:
        table: a row a seed: seed, a, b and value (b - a).
        metric: the score.
        by: what is resampled, speakers or clips.
        error: the standard error of the mean difference by that, given these networks; NaN where it is undefined.
    """

    table: pd.DataFrame
    metric: str
    by: str
    error: float

    @property
    def deviation(self) -> float:
        """The standard deviation of the difference over the seeds."""
        return float(self.table["value"].std(ddof=1))

    @property
    def seeds_error(self) -> float:
        """The standard error of the mean difference by seed: the deviation over the root of their number."""
        return self.deviation / math.sqrt(len(self.table))

    @property
    def whole_error(self) -> float:
        """The standard error of both together: other people and other seeds."""
        return math.hypot(self.error, self.seeds_error)


def seed_spread(pairs: Mapping[int, Pair]) -> Spread:
    """The difference of the headline score for each seed, and how far other speakers would move its mean."""
    task = next(iter(pairs.values())).task
    metric = headline(task)
    unit = resampled_unit(metric)
    rows, samples = [], []
    for seed, (a, b, _) in pairs.items():
        sums = [statistics_of(table, task, metric) for table in (a, b)]
        scores = [float(piece.scores()[metric]) for piece in sums]
        rows.append((seed, *scores, scores[1] - scores[0]))
        groups = None if unit == CLIP else a["speaker"].to_numpy()
        first, second = (bootstrap(piece, groups=groups)[metric].to_numpy() for piece in sums)
        samples.append(second - first)
    defined = unit == CLIP or speakers_are_units(a, task)
    error = float(np.mean(samples, axis=0).std(ddof=1)) if defined else math.nan
    return Spread(pd.DataFrame(rows, columns=["seed", "a", "b", "value"]), metric, unit.name, error)
