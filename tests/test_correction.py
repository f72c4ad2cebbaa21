"""The correction of shares by enrolment clips, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest

from exvo.evaluation.correction import correct_shares, correction_power

SHARES = np.array([[0.5, 0.5], [0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
NONE = np.zeros(0, np.int64)


def test_by_hand() -> None:
    """Mean shares of clips 1 and 2 are 0.8 and 0.2; with half of chance, 0.25, they are 1.05 and 0.45."""
    enrolment = [np.array([1, 2]), NONE, NONE, NONE]
    found = correct_shares(SHARES, enrolment, 1.0)
    assert found[0] == pytest.approx([0.45 / 1.5, 1.05 / 1.5])  # 0.5 / 1.05 to 0.5 / 0.45
    np.testing.assert_allclose(found[1:], SHARES[1:])
    half = correct_shares(SHARES, enrolment, 0.5)[0]
    assert half[1] / half[0] == pytest.approx((1.05 / 0.45) ** 0.5)
    np.testing.assert_allclose(correct_shares(SHARES, enrolment, 0.0), SHARES)


def test_each_clip_may_have_a_power_of_its_own() -> None:
    enrolment = [np.array([1]), np.array([0]), np.array([3, 0]), np.array([1, 2, 0])]
    powers = [0.0, 0.3, 0.6, 1.0]
    found = correct_shares(SHARES, enrolment, powers)
    for clip, power in enumerate(powers):
        np.testing.assert_allclose(found[clip], correct_shares(SHARES, enrolment, power)[clip])
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_who_is_always_taken_for_the_same_is_corrected_most_where_the_share_is_small() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    logits = 2.0 * np.eye(3)[truth] + rng.normal(size=(300, 3)) + [1.5, 0, 0]  # this person sounds like the first
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    enrolment = [rng.choice(np.delete(np.arange(300), clip), 8, replace=False) for clip in range(300)]
    corrected = correct_shares(shares, enrolment, correction_power(8))
    plain, better = ((each.argmax(axis=1) == truth).mean() for each in (shares, corrected))
    assert better > plain + 0.03
