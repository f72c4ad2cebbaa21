"""bootstrap: against a plain loop over resamples, scipy.stats.bootstrap, theory, and simulated speakers."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from exvo.evaluation.bootstrap import (
    Statistics,
    bootstrap,
    ccc_statistics,
    draws,
    grouped,
    interval,
    join,
    label_statistics,
    mae_statistics,
)
from exvo.evaluation.metrics import accuracy, ccc, macro_f1, mae, s_mtl, uar

NAMES = ("awe_ccc", "fear_ccc", "horror_ccc")


class Table(NamedTuple):
    """Truth and predictions of one system, one row a clip."""

    emotions: np.ndarray
    predicted_emotions: np.ndarray
    country: np.ndarray
    predicted_country: np.ndarray
    age: np.ndarray
    predicted_age: np.ndarray
    speakers: np.ndarray


def simulated(clips: int = 60, seed: int = 0) -> Table:
    """Clips of speakers 's0' to 's11', a country that is rare, emotions that a system gets half right."""
    rng = np.random.default_rng(seed)
    emotions = rng.random((clips, len(NAMES)))
    country = rng.choice(["China", "USA", "Venezuela"], clips, p=[0.7, 0.26, 0.04])
    age = rng.normal(30, 10, clips)
    return Table(
        emotions,
        emotions + rng.normal(0.1, 0.3, emotions.shape),
        country,
        np.where(rng.random(clips) < 0.6, country, rng.choice(["China", "USA", "Venezuela", "Peru"], clips)),
        age,
        age + rng.normal(0, 5, clips),
        np.array([f"s{one}" for one in rng.integers(12, size=clips)]),
    )


def all_statistics(table: Table) -> Statistics:
    return join(
        ccc_statistics(table.emotions, table.predicted_emotions, NAMES, "emotion_ccc"),
        label_statistics(table.country, table.predicted_country, "country"),
        mae_statistics(table.age, table.predicted_age, "age_mae"),
    ).derive("s_mtl", s_mtl, "emotion_ccc", "country_uar", "age_mae")


def all_scores(table: Table, rows: np.ndarray) -> list[float]:
    """The same scores, plainly, of some of the rows."""
    truth, predicted, country, guess, age, predicted_age, _ = (column[rows] for column in table)
    each = np.asarray(ccc(truth, predicted))
    recall, years = uar(country, guess), mae(age, predicted_age)
    classes = [recall, accuracy(country, guess), macro_f1(country, guess)]
    return [*each, each.mean(), *classes, years, s_mtl(each.mean(), recall, years)]


def rows_of_groups(groups: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(groups == one) for one in sorted(set(groups))]


def assert_close(actual: pd.DataFrame | pd.Series, expected: list) -> None:
    np.testing.assert_allclose(actual.to_numpy(), np.array(expected), rtol=0, atol=1e-9)


def test_scores_over_all_clips_equal_the_metrics() -> None:
    table = simulated()
    statistics = all_statistics(table)
    assert statistics.names == (
        *NAMES, "emotion_ccc", "country_uar", "country_accuracy", "country_macro_f1", "age_mae", "s_mtl",
    )  # fmt: skip
    assert list(statistics.scores().index) == list(statistics.names)
    assert_close(statistics.scores(), all_scores(table, np.arange(60)))
    assert_close(statistics.take(table.country == "USA").scores(), all_scores(table, table.country == "USA"))


@pytest.mark.parametrize("seed", [0, 1])
def test_bootstrap_by_clip_equals_a_plain_loop(seed: int) -> None:
    table = simulated()
    expected = [all_scores(table, rows) for chunk in draws(60, 200, seed) for rows in chunk]
    assert_close(bootstrap(all_statistics(table), 200, seed), expected)


def test_bootstrap_by_speaker_equals_a_plain_loop() -> None:
    table = simulated()
    groups = rows_of_groups(table.speakers)
    resamples = [np.concatenate([groups[one] for one in drawn]) for chunk in draws(12, 200, 5) for drawn in chunk]
    expected = [all_scores(table, rows) for rows in resamples]
    assert_close(bootstrap(all_statistics(table), 200, 5, groups=table.speakers), expected)


def test_far_from_zero_no_digits_are_lost() -> None:
    rng = np.random.default_rng(2)
    truth = 1e6 + rng.random((50, 1))
    prediction = 1e6 + 0.4 + 0.5 * rng.random((50, 1))
    expected = [float(np.asarray(ccc(truth[rows], prediction[rows]))[0]) for rows in next(draws(50, 100, 0))]
    actual = bootstrap(ccc_statistics(truth, prediction, ["awe_ccc"], "mean"), 100, 0)
    assert_close(actual["awe_ccc"], expected)


def test_undefined_resamples_are_those_of_the_plain_loop() -> None:
    """Only clip 7 differs from the others: the 0.1s have a variance of exactly 0 just where it is not drawn."""
    truth, prediction = np.full((30, 1), 0.1), np.full((30, 1), 0.3)
    truth[7] = 0.9
    samples = bootstrap(ccc_statistics(truth, prediction, ["fear_ccc"], "mean"), 300, 0)
    without = [7 not in rows for chunk in draws(30, 300, 0) for rows in chunk]
    assert 0.2 < np.mean(without) < 0.6
    np.testing.assert_array_equal(samples["fear_ccc"].isna(), without)
    np.testing.assert_array_equal(samples["mean"].isna(), without)
    np.testing.assert_allclose(samples["fear_ccc"].dropna(), 0, atol=1e-9)
    table = interval(samples)
    assert table.loc["fear_ccc", "undefined"] == np.mean(without)
    assert table[["ci_low", "ci_high"]].isna().all(axis=None)


def test_digits_lost_to_rounding_are_undefined_not_noise() -> None:
    truth = np.array([[0.0], [0.0], [0.3], [0.9]])
    prediction = np.array([[1e-9], [2e-9], [0.4], [0.8]])
    table = grouped(ccc_statistics(truth, prediction, ["awe_ccc"], "mean"), ["a", "a", "b", "b"])
    assert table["awe_ccc"].isna().tolist() == [True, False]


def test_s_mtl_is_undefined_in_the_resamples_with_a_negative_ccc() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((40, 3))
    prediction = rng.random((40, 3)) + 0.15 * truth
    statistics = all_statistics(simulated(40)._replace(emotions=truth, predicted_emotions=prediction))
    samples = bootstrap(statistics, 200)
    negative = samples["emotion_ccc"] <= 0
    assert 0.05 < negative.mean() < 0.95
    np.testing.assert_array_equal(samples["s_mtl"].isna(), negative)


def test_an_interval_allows_one_percent_undefined() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    almost, too_few = values.copy(), values.copy()
    almost[:10] = np.nan
    too_few[:11] = np.nan
    table = interval(pd.DataFrame({"all": values, "almost": almost, "too_few": too_few}))
    np.testing.assert_allclose(table.loc["all", ["ci_low", "ci_high"]].tolist(), np.percentile(values, [2.5, 97.5]))
    expected = np.percentile(values[10:], [2.5, 97.5])
    np.testing.assert_allclose(table.loc["almost", ["ci_low", "ci_high"]].tolist(), expected)
    assert table.loc["too_few", ["ci_low", "ci_high"]].isna().all()
    assert table["undefined"].tolist() == [0, 0.01, 0.011]
    narrower = interval(pd.DataFrame({"all": values}), level=0.5)
    expected = np.percentile(values, [25, 75])
    np.testing.assert_allclose(narrower.loc["all", ["ci_low", "ci_high"]].tolist(), expected)


def test_interval_equals_scipys_percentile_bootstrap_within_monte_carlo_error() -> None:
    errors = np.random.default_rng(4).exponential(size=80)
    ours = interval(bootstrap(mae_statistics(np.zeros(80), errors, "mae"), 20_000)).loc["mae"]
    theirs = scipy.stats.bootstrap(
        (errors,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    )
    tolerance = 0.1 * theirs.standard_error  # four standard errors of the difference of two such percentiles
    assert ours["ci_low"] == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert ours["ci_high"] == pytest.approx(theirs.confidence_interval.high, abs=tolerance)


def test_interval_of_the_mean_of_a_normal_sample() -> None:
    sample = np.random.default_rng(6).normal(10, 1, 400)  # all positive: the MAE from 0 is the mean
    table = interval(bootstrap(mae_statistics(np.zeros(400), sample, "mae"), 20_000)).loc["mae"]
    error = sample.std() / np.sqrt(400)
    np.testing.assert_allclose(
        [table["ci_low"], table["ci_high"]], sample.mean() + np.array([-1.96, 1.96]) * error, atol=0.1 * error
    )


def coverage(speakers: int, clips: int, sets: int) -> tuple[float, float]:
    """How often 95% intervals by speaker and by clip hold the true CCC, over simulated data sets with speaker effects.

    Truth is N(0, 1), half of its variance the speaker's; prediction is 0.6 times it, plus N(0, 0.5^2) of the speaker,
    plus N(0, 0.5^2) of the clip. So the true CCC is 2 x 0.6 / (1 + 0.6^2 + 0.5^2 + 0.5^2).
    """
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(speakers), clips)
    expected = 1.2 / (1 + 0.36 + 0.25 + 0.25)
    covered: dict[str, list[bool]] = {"speaker": [], "clip": []}
    for seed in range(sets):
        truth = np.sqrt(0.5) * (rng.normal(size=speakers)[who] + rng.normal(size=len(who)))
        prediction = 0.6 * truth + 0.5 * rng.normal(size=speakers)[who] + 0.5 * rng.normal(size=len(who))
        statistics = ccc_statistics(truth[:, None], prediction[:, None], ["awe_ccc"], "emotion_ccc")
        for unit, groups in (("speaker", who), ("clip", None)):
            low, high = interval(bootstrap(statistics, 1000, seed, groups)).loc["emotion_ccc", ["ci_low", "ci_high"]]
            covered[unit].append(low < expected < high)
    return float(np.mean(covered["speaker"])), float(np.mean(covered["clip"]))


@pytest.mark.slow
def test_by_speaker_intervals_cover_and_by_clip_ones_do_not() -> None:
    by_speaker, by_clip = coverage(speakers=80, clips=8, sets=500)
    assert 0.93 <= by_speaker <= 0.97
    assert by_clip < 0.8


def test_over_few_speakers_even_intervals_by_speaker_are_too_narrow() -> None:
    """Why a report warns under `FEW_SPEAKERS`."""
    by_speaker, by_clip = coverage(speakers=5, clips=40, sets=200)
    assert by_speaker < 0.85
    assert by_clip < 0.5


def test_seeds_and_draws() -> None:
    statistics = all_statistics(simulated())
    first = bootstrap(statistics, 50, seed=1)
    assert first.shape == (50, 9)
    pd.testing.assert_frame_equal(first, bootstrap(statistics, 50, seed=1))
    assert not np.allclose(first["age_mae"], bootstrap(statistics, 50, seed=2)["age_mae"])
    (indices,) = draws(1000, 200, 0)
    assert indices.shape == (200, 1000)
    assert (indices.min(), indices.max()) == (0, 999)
    counts = np.bincount(indices.ravel(), minlength=1000)
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_paired_differences_meet_the_same_resamples() -> None:
    table = simulated(300)
    better = table._replace(predicted_age=table.age + 0.9 * (table.predicted_age - table.age))
    first, second = all_statistics(table), all_statistics(better)
    difference = bootstrap(first) - bootstrap(second)
    np.testing.assert_allclose(difference["age_mae"], 0.1 * bootstrap(first)["age_mae"])
    np.testing.assert_array_equal(difference["emotion_ccc"], 0)
    unpaired = bootstrap(first, seed=1) - bootstrap(second, seed=2)
    assert interval(difference).loc["age_mae", "ci_low"] > 0 > interval(unpaired).loc["age_mae", "ci_low"]


def test_the_order_of_the_clips_does_not_matter_to_groups() -> None:
    table = simulated()
    order = np.random.default_rng(9).permutation(60)
    shuffled = Table(*(column[order] for column in table))
    expected = bootstrap(all_statistics(table), 100, 0, table.speakers)
    actual = bootstrap(all_statistics(shuffled), 100, 0, pd.Series(shuffled.speakers))
    pd.testing.assert_frame_equal(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("chunk", [1, 61, 1000])
def test_chunks_do_not_change_the_result(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    table = simulated(61)  # odd: a generator that keeps half a word would show
    whole_draws = np.concatenate(list(draws(61, 37, 3)))
    whole = bootstrap(all_statistics(table), 37, 3)
    monkeypatch.setattr("exvo.evaluation.bootstrap.CHUNK", chunk)
    chunks = list(draws(61, 37, 3))
    assert len(chunks) == -(-37 // max(1, chunk // 61))
    np.testing.assert_array_equal(np.concatenate(chunks), whole_draws)
    pd.testing.assert_frame_equal(bootstrap(all_statistics(table), 37, 3), whole, rtol=0, atol=1e-12)


def test_memory_is_bounded() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((20_000, 10))
    prediction = truth + rng.normal(0, 0.3, truth.shape)
    tracemalloc.start()
    bootstrap(ccc_statistics(truth, prediction, [f"{one}_ccc" for one in range(10)], "emotion_ccc"), 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # counts of all resamples at once would be 160 MB, their indices as much


def test_grouped_equals_the_metrics_of_each_group() -> None:
    table = simulated()
    by_country = grouped(all_statistics(table), table.country)
    assert by_country.index.tolist() == ["China", "USA", "Venezuela"]
    assert_close(by_country, [all_scores(table, table.country == one) for one in by_country.index])
    by_speaker = grouped(all_statistics(table), table.speakers)
    assert_close(by_speaker, [all_scores(table, rows) for rows in rows_of_groups(table.speakers)])


def test_a_speaker_of_one_clip_has_no_ccc() -> None:
    table = simulated(8)
    speakers = np.array(["a", "a", "a", "b", "b", "b", "b", "c"])
    scores = grouped(all_statistics(table), speakers)
    assert scores.loc["c", ["awe_ccc", "emotion_ccc", "s_mtl"]].isna().all()
    assert scores.loc["c", "age_mae"] == pytest.approx(abs(table.age[7] - table.predicted_age[7]))
    assert scores["emotion_ccc"].isna().sum() == 1


def test_one_clip_or_one_speaker_says_nothing_of_the_spread() -> None:
    statistics = all_statistics(simulated())
    assert bootstrap(statistics, 5, groups=["s0"] * 60).isna().all(axis=None)
    samples = bootstrap(statistics.take([0]), 5)
    assert samples.shape == (5, 9)
    assert interval(samples)["undefined"].tolist() == [1.0] * 9


def good() -> Statistics:
    return mae_statistics([0.0, 1.0, 2.0], [0.0, 1.0, 3.0], "mae")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap(good(), 0), "resamples must be 1 or more, not 0"),
        (lambda: bootstrap(good(), groups=["a", "b"]), r"one group a clip, \(3,\), not \(2,\)"),
        (lambda: grouped(good(), ["a", None, "b"]), "group is missing or not finite at index 1"),
        (lambda: join(good(), good()), "occurs twice: mae, mae"),
        (lambda: join(good(), mae_statistics([0.0], [1.0], "other")), "differ in clips: 3, 1"),
        (lambda: ccc_statistics(np.zeros((3, 2)), np.zeros((3, 2)), ["awe_ccc"], "mean"), r"expected \(clips, 1\)"),
        (lambda: ccc_statistics([[0.0]], [[np.nan]], ["awe_ccc"], "mean"), r"prediction is missing .* \(0, 0\)"),
        (lambda: mae_statistics([0.0, np.nan], [0.0, 1.0], "mae"), "truth is missing .* 1"),
        (lambda: mae_statistics([[0.0]], [[1.0]], "mae"), r"mae takes .* \(clips,\)"),
        (lambda: label_statistics(["a"], ["a", "b"], "country"), "differ in shape"),
    ],
)
def test_mistakes_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
