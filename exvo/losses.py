"""Objectives over a batch, as tensors with gradients."""

from __future__ import annotations

from torch import Tensor


def ccc_loss(truth: Tensor, prediction: Tensor) -> Tensor:
    """1 - CCC of each column, with moments of ddof 0: 1 - 2 cov / (var + var + (difference of means)²).

    NaN where truth and prediction of a column are both constant and equal: the CCC is undefined there.

    Args:
        truth: (values, columns).
        prediction: (values, columns).

    Returns:
        (columns,), 0 (equal) to 2.
    """
    truth, prediction = truth.float(), prediction.float()
    truth_mean, prediction_mean = truth.mean(dim=0), prediction.mean(dim=0)
    covariance = ((truth - truth_mean) * (prediction - prediction_mean)).mean(dim=0)
    spread = truth.var(dim=0, unbiased=False) + prediction.var(dim=0, unbiased=False)
    return 1 - 2 * covariance / (spread + (truth_mean - prediction_mean).square())
