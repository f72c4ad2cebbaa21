"""Whether shares of categories mean what they say: the temperature, log loss, expected calibration error.

A model is calibrated if, of the clips in which it gives its first category a share of 0.7, 70% are of that category.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from exvo.evaluation.bootstrap import Statistics, join
from exvo.evaluation.metrics import FloatArray

BINS = 15
"""Of the expected calibration error, as published (arXiv 1706.04599), but of equal numbers of clips."""

MAX_TEMPERATURE = 20.0
"""The temperature lies between this and its inverse: beyond, shares are equal, or 0 and 1, for all that matters."""

LEAST_SHARE = 1e-15
"""A smaller share of the true category counts as this one, so that a log loss is finite."""

TOLERANCE = 1e-6
"""How far a clip's shares may sum from 1."""

LOG_LOSS, ECE = "category_log_loss", "category_ece"


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The temperature T with the smallest log loss of softmax(logits / T) (arXiv 1706.04599).

    Over 1 the model was too sure of itself, under 1 not sure enough. The log loss has a single minimum in T. Where that
    does not lie between 1 / `MAX_TEMPERATURE` and `MAX_TEMPERATURE` (every clip recognised, or fewer than by chance)
    the nearer end is given; where none is better than 1 (no clips, in each clip equal logits, or no loss at all), 1.

    Args:
        logits: (clips, categories), finite.
        labels: (clips,), the index of each clip's category.

    >>> round(fit_temperature([[2.0, 0.0]] * 4, [0, 0, 0, 1]), 4)  # a share of 3/4: log 3 = 2 / T
    1.8205
    """
    from scipy.optimize import minimize_scalar  # half a second, which scoring does without

    numbers, classes = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    if numbers.size == 0 or (np.ptp(numbers, axis=1) == 0).all():
        return 1.0
    numbers = numbers - numbers.max(axis=1, keepdims=True)
    true = np.take_along_axis(numbers, classes[:, None], axis=1)[:, 0]

    def loss(logarithm: float) -> float:
        scale = np.exp(-logarithm)
        return float((np.log(np.exp(numbers * scale).sum(axis=1)) - true * scale).mean())

    limit = float(np.log(MAX_TEMPERATURE))
    found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-8})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def bins_of(x: FloatArray, count: int) -> npt.NDArray[np.int64]:
    """The bin of each clip, (clips,): `count` bins by x, of equal numbers of clips. Clips of equal x share one.

    >>> bins_of(np.array([0.3, 0.1, 0.2, 0.4]), 2).tolist(), bins_of(np.array([0.5, 0.5, 0.5]), 3).tolist()
    ([1, 0, 0, 1], [2, 2, 2])
    """
    ranks = pd.Series(x).rank(method="max").to_numpy(np.float64)
    bins: npt.NDArray[np.int64] = np.ceil(ranks * count / len(x)).astype(np.int64) - 1
    return bins


def expected_calibration_error(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = BINS) -> float:
    """The expected calibration error: sum over bins of (clips of the bin / clips) |mean confidence - share correct|.

    From 0 (each bin is right as often as it says) to 1. Bins hold equal numbers of clips, but clips of equal confidence
    share one (`bins_of`). NaN without clips. By chance alone it is above 0: each bin's share correct is over few clips.

    Args:
        confidence: (clips,), the largest share of each clip.
        correct: (clips,), whether the category with that share is the true one.
        bins: their number.

    >>> round(expected_calibration_error([0.6, 0.6, 0.9, 0.9], [1, 0, 1, 1], bins=2), 4)
    0.1
    """
    said, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if len(said) == 0:
        return float("nan")
    return float(np.abs(np.bincount(bins_of(said, bins), said - right)).sum() / len(said))


def log_loss(true_shares: npt.ArrayLike) -> float:
    """The mean over clips of -log(share of the true category); from 0, and less is better.

    A share below `LEAST_SHARE` counts as that. NaN without clips.

    >>> round(log_loss([0.5, 0.25]), 4)  # log 2 and log 4
    1.0397
    """
    shares = np.asarray(true_shares, np.float64)
    return float(_losses(shares).mean()) if len(shares) else float("nan")


def _losses(true_shares: FloatArray) -> FloatArray:
    losses: FloatArray = -np.log(np.clip(true_shares, LEAST_SHARE, 1.0))
    return losses


def has_shares(predictions: pd.DataFrame, targets: Sequence[str]) -> bool:
    """Whether a predictions table of exclusive categories holds shares: none is negative, each clip's sum to 1."""
    if "truth.category" not in predictions or not set(predictions["truth.category"].dropna()) <= set(targets):
        return False
    shares = predictions[[f"prediction.{target}" for target in targets]].to_numpy(np.float64)
    return bool((shares >= 0).all() and (np.abs(shares.sum(axis=1) - 1) <= TOLERANCE).all())


def shares_of(predictions: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """What calibration is measured on.

    Args:
        predictions: rows with shares, see `has_shares`, all labelled.
        targets: the categories.

    Returns:
        A row a clip: `confidence` (the largest share), `correct` (whether that category is the true one) and
        `true_share` (the share of the true category).
    """
    shares = predictions[[f"prediction.{target}" for target in targets]].to_numpy(np.float64)
    truth = pd.Index(targets).get_indexer(pd.Index(predictions["truth.category"]))
    return pd.DataFrame(
        {
            "confidence": shares.max(axis=1),
            "correct": (predictions["prediction.category"] == predictions["truth.category"]).to_numpy(),
            "true_share": np.take_along_axis(shares, truth[:, None], axis=1)[:, 0],
        },
        index=predictions.index,
    )


def centred(samples: pd.DataFrame, scores: pd.Series[float]) -> pd.DataFrame:
    """Resamples whose `ECE` lies around that of the clips, never below 0: resampling adds to a sum of absolute values.

    Args:
        samples: (resamples, scores), as `bootstrap` gives them.
        scores: of the clips themselves.
    """
    if ECE not in samples:
        return samples
    return samples.assign(**{ECE: (samples[ECE] - samples[ECE].mean() + scores[ECE]).clip(lower=0)})


def calibration_statistics(predictions: pd.DataFrame, targets: Sequence[str]) -> Statistics:
    """`log_loss` and `expected_calibration_error` as functions of sums over clips, called `LOG_LOSS` and `ECE`.

    The bins are fixed once, over the whole table; resamples and groups of clips fill them unequally. Resampling adds to
    the error, which is a sum of absolute values: see `centred`.

    Args:
        predictions, targets: as in `shares_of`.
    """
    table = shares_of(predictions, targets)
    said, right = table["confidence"].to_numpy(np.float64), table["correct"].to_numpy(np.float64)
    inside = bins_of(said, BINS)[:, None] == np.arange(BINS)
    ones = np.ones((len(table), 1))
    losses = np.concatenate([_losses(table["true_share"].to_numpy(np.float64))[:, None], ones], axis=1)
    return join(
        Statistics(losses, lambda sums: sums[..., :1] / sums[..., 1:], (LOG_LOSS,)),
        Statistics(
            np.concatenate([inside * (said - right)[:, None], ones], axis=1),
            lambda sums: np.abs(sums[..., :-1]).sum(axis=-1, keepdims=True) / sums[..., -1:],
            (ECE,),
        ),
    )


def reliability(predictions: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """The reliability curve: one row a bin, with x (mean confidence), y (share correct) and n (clips).

    Args:
        predictions, targets: as in `shares_of`.
    """
    table = shares_of(predictions, targets)
    bins = bins_of(table["confidence"].to_numpy(np.float64), BINS)
    curve = table.groupby(bins).agg(x=("confidence", "mean"), y=("correct", "mean"), n=("correct", "size"))
    return curve.rename_axis("bin")
