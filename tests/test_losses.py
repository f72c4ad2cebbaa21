"""Objectives against plain formulas, how they add up, and the schedule of the gradient's reversal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from exvo.training.objectives import ccc_loss, gradient_factor, total_objective


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


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(1, 1.0), (11, 1.0), (12, 0.0), (13, -0.02), (37, -0.5), (60, -0.96), (61, -0.98), (62, -1.0), (99, -1.0)],
)
def test_reversal_schedule(epoch: int, factor: float) -> None:
    assert gradient_factor("forget", epoch) == pytest.approx(factor, abs=1e-12)
    assert gradient_factor("learn", epoch) == 1.0


def test_the_reversal_is_continuous_and_never_helps_again() -> None:
    factors = [gradient_factor("forget", epoch) for epoch in range(12, 122)]
    np.testing.assert_allclose(np.diff(factors), [-0.02] * 50 + [0.0] * 59, atol=1e-12)


@pytest.mark.parametrize(
    ("heads", "total"),
    [  # main 1, main_speaker 3, enrolment_emotion 10, enrolment_speaker 20
        ((), 1.0),
        (("main_speaker",), 2.0),
        (("enrolment_emotion",), 5.5),
        (("enrolment_speaker",), 10.5),
        (("enrolment_emotion", "enrolment_speaker"), 8.0),
        (("main_speaker", "enrolment_emotion"), 6.0),
        (("main_speaker", "enrolment_speaker"), 11.0),
        (("main_speaker", "enrolment_emotion", "enrolment_speaker"), 8.5),
    ],
)
def test_total_objective(heads: tuple[str, ...], total: float) -> None:
    values = {"main": 1.0, "main_speaker": 3.0, "enrolment_emotion": 10.0, "enrolment_speaker": 20.0}
    for names in (("main", *heads), ("main", *reversed(heads))):
        assert total_objective({name: torch.tensor(values[name]) for name in names}).item() == total
