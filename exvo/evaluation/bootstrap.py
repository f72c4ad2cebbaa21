"""Bootstrap intervals of every score: by clip or by speaker, for one system or for the difference of two.

Each score of `metrics` is a function of sums over clips: CCC of the sums of 1, x, y, x^2 + y^2 and x y, MAE of the sum
of |x - y|, recall and F1 of counts. So all resamples are one matrix product, (resamples, clips) counts times (clips,
columns) statistics, and resampling whole speakers is the same product over sums within speakers. In use:

    statistics = join(
        ccc_statistics(emotions, predicted_emotions, names, mean_name="emotion_ccc"),
        label_statistics(country, predicted_country, "country"),
        mae_statistics(age, predicted_age, "age_mae"),
    ).derive("s_mtl", s_mtl, "emotion_ccc", "country_uar", "age_mae")

    statistics.scores()                                                 # every score over all clips
    interval(bootstrap(statistics, groups=speakers))                    # 95% intervals, speakers resampled
    interval(bootstrap(first) - bootstrap(second))                      # paired: same clips, same seed
    interval(bootstrap(statistics.take(country == "China")))            # one country
    grouped(statistics, country).std(ddof=0)                            # spread over countries
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from exvo.evaluation.metrics import FloatArray, paired_labels, paired_numbers, refuse_missing

CHUNK = 2_000_000
"""Draws held at once: about 80 MB of indices and counts, whatever the number of clips and resamples."""

MAX_UNDEFINED = 0.01
"""Largest share of undefined resamples with which an interval is still given."""

ROUNDING = 1e-12
"""A variance below this share of the mean square that it is computed from is lost in rounding."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What each clip adds to the sums, and the scores as a function of the sums.

    Attributes:
        values: (clips, columns), float64.
        score: sums over clips, (..., columns), to scores, (..., scores); NaN where a score is undefined.
        names: (scores,).
    """

    values: FloatArray
    score: Callable[[FloatArray], FloatArray]
    names: tuple[str, ...]

    def scores(self) -> pd.Series[float]:
        """Every score over all clips, (scores,)."""
        return pd.Series(self.score(self.values.sum(axis=0)), index=self.names)

    def take(self, rows: npt.ArrayLike) -> Statistics:
        """The statistics of some of the clips, by mask or by index."""
        return replace(self, values=self.values[np.asarray(rows)])

    def derive(self, name: str, function: Callable[..., FloatArray], *arguments: str) -> Statistics:
        """The statistics with one more score, `name`: `function` of the scores named in `arguments`, each (...)."""
        columns = [self.names.index(argument) for argument in arguments]

        def score(sums: FloatArray) -> FloatArray:
            scores = self.score(sums)
            derived = np.asarray(function(*(scores[..., column] for column in columns)))
            return np.concatenate([scores, derived[..., None]], axis=-1)

        return replace(self, score=score, names=(*self.names, name))


def ccc_statistics(truth: npt.ArrayLike, prediction: npt.ArrayLike, names: Sequence[str], mean_name: str) -> Statistics:
    """The CCC of each emotion, called `names`, and their mean, called `mean_name` (NaN if one of them is).

    x and y are centred at their means over the table before they are squared, so that no digits cancel. Whether truth
    and prediction are both constant (`metrics.ccc` is NaN) can't be read off rounded squares. So each distinct pair of
    (truth, prediction) gets a whole number c: they are constant just where sum(c^2) = sum(c)^2 / n, which float64
    decides exactly up to 100,000 clips. NaN also where the denominator is lost in the rounding of the sums, which takes
    a group whose values lie, truth and prediction alike, within a millionth of their distance from the table's mean.

    Args:
        truth, prediction: (clips, emotions).

    Raises:
        ValueError: as `metrics.ccc`, or names that don't match the emotions.
    """
    x, y = paired_numbers(truth, prediction)
    if x.ndim != 2 or x.shape[1] != len(names):
        raise ValueError(f"expected (clips, {len(names)}) for the scores {', '.join(names)}, not {x.shape}")
    offset = x.mean(axis=0) - y.mean(axis=0)
    pair = np.stack([_whole_numbers(*columns) for columns in zip(x.T, y.T, strict=True)], axis=1)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)

    def score(sums: FloatArray) -> FloatArray:
        n, sums = sums[..., :1], sums[..., 1:]
        sum_x, sum_y, squares, products, sum_c, squares_c = np.split(sums, 6, axis=-1)
        mean_x, mean_y = sum_x / n, sum_y / n
        covariance = products / n - mean_x * mean_y
        denominator = squares / n - mean_x**2 - mean_y**2 + (mean_x - mean_y + offset) ** 2
        undefined = (squares_c == sum_c * (sum_c / n)) | (denominator <= ROUNDING * squares / n)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.where(undefined, np.nan, 2 * covariance / denominator)
        return np.concatenate([value, value.mean(axis=-1, keepdims=True)], axis=-1)

    values = np.concatenate([np.ones((len(x), 1)), x, y, x**2 + y**2, x * y, pair, pair**2], axis=1)
    return Statistics(values, score, (*names, mean_name))


def mae_statistics(truth: npt.ArrayLike, prediction: npt.ArrayLike, name: str) -> Statistics:
    """The mean absolute error, as `metrics.mae`.

    Args:
        truth, prediction: (clips,).
        name: of the score.

    Raises:
        ValueError: as `metrics.mae`.
    """
    x, y = paired_numbers(truth, prediction)
    if x.ndim != 1:
        raise ValueError(f"{name} takes truth and prediction of shape (clips,), not {x.shape}")
    values = np.stack([np.abs(x - y), np.ones(len(x))], axis=1)
    return Statistics(values, lambda sums: sums[..., :1] / sums[..., 1:], (name,))


def label_statistics(truth: npt.ArrayLike, prediction: npt.ArrayLike, prefix: str) -> Statistics:
    """`prefix`_uar, `prefix`_accuracy and `prefix`_macro_f1, as in `metrics`.

    As there, the classes are those present in the truth: in each resample, in its own truth.

    Args:
        truth, prediction: (clips,), labels.
        prefix: of the scores' names.

    Raises:
        ValueError: as `metrics.uar`.
    """
    x, y = paired_labels(truth, prediction)
    is_class, is_predicted = (labels[:, None] == np.unique(x) for labels in (x, y))

    def score(sums: FloatArray) -> FloatArray:
        clips, predictions, hits = np.split(sums, 3, axis=-1)
        present = clips > 0
        with np.errstate(invalid="ignore"):  # 0 / 0 for the classes left out of the means
            recall = np.mean(hits / clips, axis=-1, where=present)
            f1 = np.mean(2 * hits / (clips + predictions), axis=-1, where=present)
        return np.stack([recall, hits.sum(axis=-1) / clips.sum(axis=-1), f1], axis=-1)

    values = np.concatenate([is_class, is_predicted, is_class & is_predicted], axis=1, dtype=np.float64)
    return Statistics(values, score, tuple(f"{prefix}_{score}" for score in ("uar", "accuracy", "macro_f1")))


def join(*pieces: Statistics) -> Statistics:
    """All scores of the pieces, in one.

    Args:
        pieces: of the same clips in the same order.

    Raises:
        ValueError: numbers of clips that differ, or a name that occurs twice.
    """
    names = tuple(name for piece in pieces for name in piece.names)
    if len({len(piece.values) for piece in pieces}) != 1:
        raise ValueError(f"the pieces differ in clips: {', '.join(str(len(piece.values)) for piece in pieces)}")
    if len(set(names)) != len(names):
        raise ValueError(f"a score's name occurs twice: {', '.join(names)}")
    ends = np.cumsum([piece.values.shape[1] for piece in pieces])[:-1].tolist()

    def score(sums: FloatArray) -> FloatArray:
        parts = np.split(sums, ends, axis=-1)
        return np.concatenate([piece.score(part) for piece, part in zip(pieces, parts, strict=True)], axis=-1)

    return Statistics(np.concatenate([piece.values for piece in pieces], axis=1), score, names)


def bootstrap(
    statistics: Statistics, resamples: int = 1000, seed: int = 0, groups: npt.ArrayLike | None = None
) -> pd.DataFrame:
    """Every score in resamples, with replacement, of the clips, or of whole groups.

    Clips of one speaker are alike, so intervals over clips are too narrow when the question is how a system does on
    new speakers: give the speakers as `groups`. The draws depend on the seed and the number of clips (or of groups)
    alone, so two systems scored on the same clips in the same order, with one seed, meet the same resamples.

    Args:
        statistics: of all clips.
        resamples: how many.
        seed: of the draws.
        groups: (clips,), the group of each clip; None resamples clips. Groups are taken in sorted order.

    Returns:
        (resamples, scores), columns named; NaN where a resample leaves a score undefined. All NaN where there is but
        one clip (or group): it shows no spread.

    Raises:
        ValueError: fewer than one resample; groups that are missing, or not one a clip.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, not {resamples}")
    units = statistics.values if groups is None else _sums_within(statistics, groups).to_numpy()
    if len(units) < 2:
        return pd.DataFrame(np.nan, index=range(resamples), columns=list(statistics.names))
    sums = [_counts(chunk) @ units for chunk in draws(len(units), resamples, seed)]
    return pd.DataFrame(statistics.score(np.concatenate(sums)), columns=list(statistics.names))


def interval(samples: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Percentile interval of each score from its resamples, (resamples, scores), with linear interpolation.

    Args:
        samples: as `bootstrap` gives them, or a difference of two.
        level: share of the resamples within the interval.

    Returns:
        One row a score: ci_low, ci_high, and `undefined`, the share of the resamples in which the score is undefined.
        The percentiles are over the defined resamples. With more than 1% undefined (`MAX_UNDEFINED`) the bounds are
        NaN: an interval of the other resamples alone would be too narrow.
    """
    undefined = samples.isna().mean()
    tail = (1 - level) / 2
    bounds = samples.quantile([tail, 1 - tail]).T.set_axis(["ci_low", "ci_high"], axis=1)
    bounds[undefined > MAX_UNDEFINED] = np.nan
    return bounds.assign(undefined=undefined)


def grouped(statistics: Statistics, groups: npt.ArrayLike) -> pd.DataFrame:
    """Every score within each group (country, speaker), one row a group in sorted order, NaN where undefined.

    pandas' mean and std leave NaN out, so report how many groups are undefined (`.isna().sum()`); the published spread
    is `std(ddof=0)`.

    Args:
        statistics: of all clips.
        groups: (clips,), the group of each clip.

    Raises:
        ValueError: groups that are missing, or not one a clip.
    """
    sums = _sums_within(statistics, groups)
    return pd.DataFrame(statistics.score(sums.to_numpy()), index=sums.index, columns=list(statistics.names))


def draws(n: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """The resamples as indices 0 to n - 1, in chunks of shape (resamples, n); the size of a chunk changes no draw."""
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // n)
    for start in range(0, resamples, rows):
        yield generator.integers(n, size=(min(rows, resamples - start), n))


def _counts(indices: npt.NDArray[np.int64]) -> FloatArray:
    """How often each unit occurs in each resample: (resamples, units)."""
    rows, n = indices.shape
    flat = (indices + n * np.arange(rows)[:, None]).ravel()
    return np.bincount(flat, minlength=rows * n).reshape(rows, n).astype(np.float64)


def _sums_within(statistics: Statistics, groups: npt.ArrayLike) -> pd.DataFrame:
    """The statistics summed within each group: (groups, columns), by sorted label."""
    labels: npt.NDArray[Any] = np.asarray(groups)
    if labels.shape != (len(statistics.values),):
        raise ValueError(f"expected one group a clip, ({len(statistics.values)},), not {labels.shape}")
    refuse_missing("group", pd.isna(labels))
    return pd.DataFrame(statistics.values, copy=False).groupby(labels).sum()


def _whole_numbers(x: FloatArray, y: FloatArray) -> FloatArray:
    """0, 1, 2, ... for the distinct pairs (x, y): (clips,)."""
    return pd.factorize(x + 1j * y)[0].astype(np.float64)
