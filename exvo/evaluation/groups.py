"""Whom a system serves worst: scores by country and by speaker, and what chance alone would make of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from exvo.evaluation.bootstrap import Statistics, bootstrap, draws, grouped, interval

MIN_CLIPS = 5
"""Smaller groups are named, not scored: of four clips, 1.6% of the resamples are one clip four times, without a CCC."""

FEWEST_LOWEST = 3
"""A lowest tenth of fewer speakers is not shown: it would be about one or two people."""

DEALS = 100
"""How often clips are dealt to speakers at random, to see what chance does."""


class Unit(NamedTuple):
    """What is resampled.

    Attributes:
        name: clip or speaker.
        suffix: of the columns of its intervals, `lo` and `hi`.
    """

    name: str
    suffix: str


CLIP, SPEAKER = Unit("clip", ""), Unit("speaker", "_by_speaker")
UNITS = (CLIP, SPEAKER)

ENDS = tuple(f"{end}{unit.suffix}" for unit in UNITS for end in ("lo", "hi"))
"""The columns of a score's intervals: lo, hi, lo_by_speaker, hi_by_speaker."""


class Decile(NamedTuple):
    """The lowest tenth of the speakers.

    Attributes:
        mean: of their scores.
        low, high: 95% interval over resampled speakers.
        speakers: how many the tenth is.
    """

    mean: float
    low: float
    high: float
    speakers: int


class Chance(NamedTuple):
    """What a score would be by chance: mean and percentiles 2.5 and 97.5."""

    mean: float
    low: float
    high: float


def group_scores(statistics: Statistics, groups: npt.ArrayLike, metric: str) -> pd.DataFrame:
    """A score within each group, without intervals, the worst first; NaN in groups of fewer than `MIN_CLIPS` clips.

    Args:
        statistics: of all clips.
        groups: (clips,), countries or speakers.
        metric: one of the statistics' names, of which more is better.

    Returns:
        One row a group, named in the index: value and n, the clips.
    """
    table = pd.DataFrame({"value": grouped(statistics, groups)[metric], "n": pd.Series(groups).value_counts()})
    table.loc[table["n"] < MIN_CLIPS, "value"] = math.nan
    return table.sort_values(["value", "n"], kind="stable")


def with_intervals(
    table: pd.DataFrame,
    statistics: Statistics,
    groups: npt.ArrayLike,
    metric: str,
    speakers: npt.NDArray[np.str_] | None = None,
) -> pd.DataFrame:
    """The rows of `group_scores`, or some of them, with 95% intervals by clip and by speaker (1,000 resamples).

    Args:
        table, statistics, groups, metric: as in `group_scores`.
        speakers: (clips,); None: no intervals by speaker, nor are there any in a group with a single speaker.

    Returns:
        The rows with `ENDS` and `speakers`, how many a group has (0 where `speakers` is None).
    """
    scores = table.assign(speakers=0, **dict.fromkeys(ENDS, math.nan))
    labels = np.asarray(groups)
    for group, value in table["value"].items():
        rows = labels == group
        if speakers is not None:
            scores.loc[group, "speakers"] = len(set(speakers[rows]))
        if math.isnan(value):
            continue
        inside = statistics.take(rows)
        samples = [bootstrap(inside)] + ([] if speakers is None else [bootstrap(inside, groups=speakers[rows])])
        bounds = [interval(sample[[metric]])[["ci_low", "ci_high"]].to_numpy()[0] for sample in samples]
        scores.loc[group, list(ENDS[: 2 * len(bounds)])] = np.concatenate(bounds)
    return scores


def lowest_decile(values: npt.ArrayLike, resamples: int = 1000, seed: int = 0) -> Decile:
    """The mean over the lowest tenth of the speakers (rounded up), with its 95% interval over resampled speakers.

    Args:
        values: (speakers,), a score of each, all defined; two or more.
        resamples: of the speakers.
        seed: of the draws.
    """
    scores = np.sort(np.asarray(values, dtype=np.float64))
    count = math.ceil(len(scores) / 10)
    means = [np.sort(scores[chunk], axis=1)[:, :count].mean(axis=1) for chunk in draws(len(scores), resamples, seed)]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Decile(float(scores[:count].mean()), float(low), float(high), count)


def lowest_decile_by_chance(statistics: Statistics, speakers: npt.ArrayLike, metric: str, seed: int = 0) -> Chance:
    """What `lowest_decile` would be if speakers did not differ: the clips are dealt to them at random, 100 times.

    A speaker's score over few clips is noisy, so someone always looks worst. Each speaker keeps the number of clips.

    Args:
        statistics: of all clips.
        speakers: (clips,).
        metric: one of the statistics' names, of which more is better.
        seed: of the deals.
    """
    generator, labels = np.random.default_rng(seed), np.asarray(speakers)
    means = []
    for _ in range(DEALS):
        values = group_scores(statistics, generator.permutation(labels), metric)["value"].dropna()
        means.append(lowest_decile(values, resamples=1).mean)
    low, high = np.percentile(means, [2.5, 97.5])
    return Chance(float(np.mean(means)), float(low), float(high))
