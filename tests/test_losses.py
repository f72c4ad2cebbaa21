"""Objectives against plain formulas."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import pearsonr

from exvo.losses import ccc_loss


def test_ccc_loss_is_one_minus_ccc() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.random((50, 3)), rng.normal(0.4, 0.2, (50, 3))
    expected = []
    for x, y in zip(truth.T, prediction.T, strict=True):
        rho = pearsonr(x, y).statistic  # CCC by way of Pearson's correlation: another route than the code's
        expected.append(1 - 2 * rho * x.std() * y.std() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))
    found = ccc_loss(torch.from_numpy(truth), torch.from_numpy(prediction))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_ccc_loss_of_equal_values_is_zero_and_of_constants_undefined() -> None:
    x = torch.tensor([[0.1], [0.9]])
    assert ccc_loss(x, x).item() < 1e-6
    assert ccc_loss(torch.ones(3, 1), torch.ones(3, 1)).isnan().all()
    assert ccc_loss(torch.ones(3, 1), torch.zeros(3, 1)).item() == 1.0
