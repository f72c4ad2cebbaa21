"""metrics: against naive formulas, hand-computed numbers, scikit-learn and published rows."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, mean_absolute_error

from exvo.evaluation.metrics import accuracy, ccc, macro_f1, mae, s_mtl, uar

# The multitask rows of arXiv 2206.06680: emotion CCC, country UAR, age MAE (years), S_MTL.
PUBLISHED = {
    "cnn14-random-init": (0.4900, 0.5010, 3.9952, 0.3735),
    "cnn10-random-init": (0.5137, 0.4993, 4.0379, 0.3756),
    "cnn14-audioset": (0.4028, 0.4400, 4.0206, 0.3418),
}


def naive_ccc(truth: list[float], prediction: list[float]) -> float:
    n = len(truth)
    mean_x, mean_y = math.fsum(truth) / n, math.fsum(prediction) / n
    var_x = math.fsum((x - mean_x) ** 2 for x in truth) / n
    var_y = math.fsum((y - mean_y) ** 2 for y in prediction) / n
    cov = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(truth, prediction, strict=True)) / n
    return 2 * cov / (var_x + var_y + (mean_x - mean_y) ** 2)


@pytest.mark.parametrize("n", [2, 3, 20, 1000])
def test_ccc_equals_the_naive_formula(n: int) -> None:
    rng = np.random.default_rng(n)
    truth, prediction = rng.random((n, 10)), rng.normal(0.3, 2.0, (n, 10))
    expected = [naive_ccc(*columns) for columns in zip(truth.T.tolist(), prediction.T.tolist(), strict=True)]
    np.testing.assert_allclose(ccc(truth, prediction), expected, rtol=0, atol=1e-12)
    assert ccc(truth[:, 0], prediction[:, 0]) == pytest.approx(expected[0], abs=1e-12)


def test_ccc_by_hand() -> None:
    # Means 2.5 and 2.5, variances 1.25 and 1.25, covariance 0.75.
    assert ccc([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)
    # Twice the truth: means 2 and 4, variances 2/3 and 8/3, covariance 4/3: (8/3) / (10/3 + 4).
    assert ccc([1, 2, 3], [2, 4, 6]) == pytest.approx(4 / 11)
    assert ccc([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


@pytest.mark.parametrize("n", [2, 20])
def test_ccc_of_the_truth_itself_is_1_in_small_groups(n: int) -> None:
    truth = np.random.default_rng(0).random((n, 10))
    np.testing.assert_allclose(ccc(truth, truth), np.ones(10), rtol=0, atol=1e-12)


def test_ccc_is_undefined_only_where_both_are_constant() -> None:
    # 0.1 + 0.1 + 0.1 is not 3 * 0.1 in binary: rounding must not pass for a variance.
    constant, varying = [0.1] * 3, [0.0, 0.5, 1.0]
    assert math.isnan(ccc(constant, constant))
    assert math.isnan(ccc(constant, [0.7] * 3))
    assert math.isnan(ccc([0.4], [0.4]))
    assert ccc(constant, varying) == pytest.approx(0, abs=1e-15)
    assert ccc(varying, constant) == pytest.approx(0, abs=1e-15)


def test_scores_of_labels_and_ages_equal_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    truth = rng.choice(4, 500, p=[0.6, 0.2, 0.15, 0.05])
    prediction = np.where(rng.random(500) < 0.5, truth, rng.choice(4, 500))
    assert uar(truth, prediction) == pytest.approx(balanced_accuracy_score(truth, prediction))
    assert accuracy(truth, prediction) == pytest.approx(accuracy_score(truth, prediction))
    assert macro_f1(truth, prediction) == pytest.approx(f1_score(truth, prediction, average="macro"))
    names = np.array(["China", "South Africa", "United States", "Venezuela"])
    assert uar(names[truth], names[prediction]) == uar(truth, prediction)
    ages, guesses = rng.normal(30, 10, 500), rng.normal(30, 10, 500)
    assert mae(ages, guesses) == pytest.approx(mean_absolute_error(ages, guesses))


def test_classes_are_those_present_in_the_truth() -> None:
    truth, prediction = [0, 0, 0, 1], [0, 0, 2, 1]
    assert uar(truth, prediction) == pytest.approx((2 / 3 + 1) / 2)
    assert macro_f1(truth, prediction) == pytest.approx((4 / 5 + 1) / 2)
    assert macro_f1(truth, prediction) == pytest.approx(f1_score(truth, prediction, labels=[0, 1], average="macro"))


@pytest.mark.parametrize("system", PUBLISHED)
def test_s_mtl_of_the_published_rows(system: str) -> None:
    emotion_ccc, country_uar, age_mae, published = PUBLISHED[system]
    assert round(s_mtl(emotion_ccc, country_uar, age_mae), 4) == published


def test_s_mtl_range_and_undefined_cases() -> None:
    assert s_mtl(1.0, 1.0, 0.0) == 1.5
    value = s_mtl(
        np.array([0.5, 0.0, -0.2, 0.5, 0.5, np.nan]), np.array([0.5, 0.5, 0.5, 0.0, 0.5, 0.5]), np.full(6, 4.0)
    )
    np.testing.assert_allclose(value, [3 / 8, np.nan, np.nan, np.nan, 3 / 8, np.nan])
    assert np.isnan(s_mtl(np.array([0.5]), np.array([0.5]), np.array([np.nan])))


@pytest.mark.parametrize("score", [ccc, mae, uar, accuracy, macro_f1])
def test_bad_input_is_refused_with_its_place(score) -> None:
    with pytest.raises(ValueError, match=r"prediction is missing or not finite at index 1, 3$"):
        score([0.0, 1.0, 2.0, 3.0], [0.0, np.nan, 2.0, np.nan])
    with pytest.raises(ValueError, match=r"truth is missing or not finite at index 2$"):
        score([0.0, 1.0, np.nan], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"differ in shape: \(3,\) and \(2,\)"):
        score([0.0, 1.0, 2.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="at least one clip"):
        score([], [])


def test_missing_places_in_tables_infinities_and_the_cap() -> None:
    truth = np.zeros((5, 10))
    prediction = truth.copy()
    prediction[3, 2] = np.inf
    with pytest.raises(ValueError, match=r"prediction is missing or not finite at index \(3, 2\)$"):
        ccc(truth, prediction)
    with pytest.raises(ValueError, match=r"7, 8, 9 and 15 more$"):
        mae(np.zeros(25), np.full(25, np.nan))
    with pytest.raises(ValueError, match=r"truth is missing or not finite at index 1$"):
        uar(pd.Series(["China", None, "China"]), ["China"] * 3)
    with pytest.raises(ValueError, match=r"mae takes truth and prediction of shape \(clips,\), not \(5, 10\)"):
        mae(truth, truth)


def test_class_names_against_class_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must name classes alike: found .*China.* and .*0"):
        uar(["China", "Venezuela"], [0, 3])
