"""Whom a system serves worst: scores per country and per speaker, the worst of them, and what chance alone would do."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from exvo.evaluation.bootstrap import Statistics, bootstrap, draws, grouped, interval

MIN_CLIPS = 5
"""Smaller groups are named, not scored: of four clips, 1.6% of the resamples are one clip four times, without a CCC."""

DEALS = 100
"""How often clips are dealt to speakers at random, to see what chance does."""

ENDS = ["lo", "hi", "lo_by_speaker", "hi_by_speaker"]


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
        speakers: (clips,); None leaves out what is by speaker, as a single speaker in a group does.
    """
    found = table.assign(speakers=0, **dict.fromkeys(ENDS, math.nan))
    labels = np.asarray(groups)
    for group, value in table["value"].items():
        rows = labels == group
        if speakers is not None:
            found.loc[group, "speakers"] = len(set(speakers[rows]))
        if math.isnan(value):
            continue
        inside = statistics.take(rows)
        samples = [bootstrap(inside)] + ([] if speakers is None else [bootstrap(inside, groups=speakers[rows])])
        bounds = [interval(one[[metric]])[["ci_low", "ci_high"]].to_numpy()[0] for one in samples]
        found.loc[group, ENDS[: 2 * len(bounds)]] = np.concatenate(bounds)
    return found


def lowest_decile(values: npt.ArrayLike, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float, int]:
    """The mean over the lowest tenth of the speakers (rounded up), its 95% interval over resampled speakers, and n.

    Args:
        values: (speakers,), a score of each, all defined; two or more.

    Returns:
        Mean, low, high, and how many speakers the tenth is.
    """
    scores = np.sort(np.asarray(values, dtype=np.float64))
    count = math.ceil(len(scores) / 10)
    means = [np.sort(scores[chunk], axis=1)[:, :count].mean(axis=1) for chunk in draws(len(scores), resamples, seed)]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(scores[:count].mean()), float(low), float(high), count


def lowest_decile_by_chance(
    statistics: Statistics, speakers: npt.ArrayLike, metric: str, seed: int = 0
) -> tuple[float, float, float]:
    """What `lowest_decile` would be if speakers did not differ: the clips are dealt to them at random, 100 times.

    A speaker's score over few clips is noisy, so someone always looks worst. Each speaker keeps the number of clips.

    Returns:
        The mean over the deals, and their percentiles 2.5 and 97.5.
    """
    generator, labels = np.random.default_rng(seed), np.asarray(speakers)
    found = []
    for _ in range(DEALS):
        values = group_scores(statistics, generator.permutation(labels), metric)["value"].dropna()
        found.append(lowest_decile(values, resamples=1)[0])
    low, high = np.percentile(found, [2.5, 97.5])
    return float(np.mean(found)), float(low), float(high)
