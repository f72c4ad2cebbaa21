"""Scores of predictions against the truth: CCC, MAE, UAR, accuracy, macro F1, S_MTL. Imports nothing of exvo.

The argument order is always (truth, prediction). Where a score is undefined it is NaN; NaN in the input is an error.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]

MOST_NAMED = 10
"""Places that an error names; further ones are counted."""


def ccc(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> float | FloatArray:
    """Concordance correlation coefficient (Lin 1989, Biometrics 45(1), 255-268), with population moments (ddof 0).

    CCC = 2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))^2), between -1 and 1; 1 only where x equals y.
    It is 0 where one of the two is constant, and NaN (undefined: nothing varies) where both are.

    Args:
        truth, prediction: (clips,) or (clips, emotions).

    Returns:
        A float, or (emotions,), one CCC an emotion.

    Raises:
        ValueError: shapes that differ, no clips, a value that is missing or not finite (its place is named).

    >>> ccc([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    1.0
    >>> round(ccc([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]), 6)  # var 2/3, cov 2/3, means 1 apart: (4/3) / (7/3)
    0.571429
    >>> ccc([[0.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 1.0]]).tolist()
    [-1.0, nan]
    """
    x, y = paired_numbers(truth, prediction)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    covariance = ((x - mean_x) * (y - mean_y)).mean(axis=0)
    constant = (np.ptp(x, axis=0) == 0) & (np.ptp(y, axis=0) == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = 2 * covariance / (x.var(axis=0) + y.var(axis=0) + (mean_x - mean_y) ** 2)
    value = np.where(constant, np.nan, value)
    return float(value) if x.ndim == 1 else value


def mae(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> float:
    """Mean absolute error: MAE = mean |x - y|, 0 or more, in the unit of the truth; 0 only where x equals y.

    It is never undefined.

    Args:
        truth, prediction: (clips,).

    Raises:
        ValueError: as `ccc`, or more than one dimension.

    >>> mae([20.0, 30.0], [22.0, 26.0])
    3.0
    """
    x, y = paired_numbers(truth, prediction)
    if x.ndim != 1:
        raise ValueError(f"mae takes truth and prediction of shape (clips,), not {x.shape}")
    return float(np.abs(x - y).mean())


def uar(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> float:
    """Unweighted average recall, 0 to 1: the mean over classes of hits of the class / clips of the class.

    The classes are those present in the truth. So it is never undefined, and guessing scores 1 / classes on average.

    Args:
        truth, prediction: (clips,), labels.

    Raises:
        ValueError: as `paired_labels`.

    >>> uar(["China", "China", "China", "Venezuela"], ["China", "China", "China", "China"])
    0.5
    """
    x, y = paired_labels(truth, prediction)
    return float(np.mean([np.mean(y[x == label] == label) for label in np.unique(x)]))


def accuracy(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> float:
    """Share of the labels predicted right: hits / clips, 0 to 1. It is never undefined.

    Args:
        truth, prediction: (clips,), labels.

    Raises:
        ValueError: as `paired_labels`.

    >>> accuracy([0, 0, 0, 3], [0, 0, 0, 0])
    0.75
    """
    x, y = paired_labels(truth, prediction)
    return float(np.mean(x == y))


def macro_f1(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> float:
    """Mean F1 over classes, 0 to 1: F1 = 2 hits / (clips of the class + predictions of the class).

    The classes are those present in the truth, so it is never undefined. A class that is only predicted has no F1 of
    its own; the clips wrongly given to it count as misses of their true classes.

    Args:
        truth, prediction: (clips,), labels.

    Raises:
        ValueError: as `paired_labels`.

    >>> round(macro_f1([0, 0, 1, 1], [0, 0, 0, 1]), 6)  # (4/5 + 2/3) / 2
    0.733333
    """
    x, y = paired_labels(truth, prediction)
    return float(np.mean([2 * np.sum((x == k) & (y == k)) / (np.sum(x == k) + np.sum(y == k)) for k in np.unique(x)]))


@overload
def s_mtl(ccc: float, uar: float, mae: float) -> float: ...
@overload
def s_mtl(ccc: FloatArray, uar: FloatArray, mae: FloatArray) -> FloatArray: ...
def s_mtl(ccc: float | FloatArray, uar: float | FloatArray, mae: float | FloatArray) -> float | FloatArray:
    """ExVo's multitask score S_MTL = 3 / (1/CCC + 1/UAR + MAE) (arXiv 2205.01780), above 0 and at most 1.5.

    It is the harmonic mean of the emotion CCC, the country's UAR and the inverted MAE of age (in years). A harmonic
    mean is of positive numbers: with a negative CCC the sum of the inverses can pass through 0 and the score through
    infinity, so a worse system could score higher. Where CCC or UAR is 0 or less (or NaN) S_MTL is therefore NaN.

    Args:
        ccc, uar, mae: numbers, or arrays of one shape, (...).

    Returns:
        A float, or an array of that shape.

    >>> round(s_mtl(0.4900, 0.5010, 3.9952), 4)
    0.3735
    >>> s_mtl(-0.01, 0.5, 4.0)
    nan
    """
    defined = (np.asarray(ccc) > 0) & (np.asarray(uar) > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(defined, 3 / (1 / np.asarray(ccc) + 1 / np.asarray(uar) + mae), np.nan)
    return float(value) if value.ndim == 0 else value


def paired_numbers(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Truth and prediction as float64, (clips,) or (clips, emotions), checked.

    Raises:
        ValueError: shapes that differ, no clips, a value that is missing or not finite (its place is named).
    """
    x, y = np.asarray(truth, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    _check_shapes(x, y, dimensions=(1, 2))
    refuse_missing("truth", ~np.isfinite(x))
    refuse_missing("prediction", ~np.isfinite(y))
    return x, y


def paired_labels(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Truth and prediction as labels (numbers or text), (clips,), checked.

    Raises:
        ValueError: shapes that differ, no clips, a missing label (its place is named), text against numbers.
    """
    x, y = np.asarray(truth), np.asarray(prediction)
    _check_shapes(x, y, dimensions=(1,))
    refuse_missing("truth", pd.isna(x))
    refuse_missing("prediction", pd.isna(y))
    if (x.dtype.kind in "biuf") != (y.dtype.kind in "biuf"):
        raise ValueError(f"truth and prediction must name classes alike: found {x[0]!r} and {y[0]!r}")
    return x, y


def refuse_missing(what: str, missing: npt.NDArray[np.bool_]) -> None:
    """Refuses values that are missing.

    Args:
        what: they are, for the error's sentence.
        missing: of any shape, true where a value is missing.

    Raises:
        ValueError: one is; their places are named.

    >>> refuse_missing("prediction", np.array([False, True, True]))
    Traceback (most recent call last):
    ValueError: prediction is missing or not finite at index 1, 2
    """
    places = np.argwhere(missing).tolist()
    if places:
        named = ", ".join(str(place[0] if len(place) == 1 else tuple(place)) for place in places[:MOST_NAMED])
        more = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
        raise ValueError(f"{what} is missing or not finite at index {named}{more}")


def _check_shapes(truth: npt.NDArray[Any], prediction: npt.NDArray[Any], dimensions: tuple[int, ...]) -> None:
    if truth.shape != prediction.shape:
        raise ValueError(f"truth and prediction differ in shape: {truth.shape} and {prediction.shape}")
    if truth.ndim not in dimensions or truth.size == 0:
        expected = " or ".join(("(clips,)", "(clips, emotions)")[d - 1] for d in dimensions)
        raise ValueError(f"truth and prediction must be {expected} with at least one clip, not {truth.shape}")
