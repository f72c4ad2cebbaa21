"""Scores of countries and speakers, against the metrics of each group and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from exvo.evaluation.bootstrap import Statistics, bootstrap, ccc_statistics, interval
from exvo.evaluation.groups import group_scores, lowest_decile, lowest_decile_by_chance, with_intervals
from exvo.evaluation.metrics import ccc

METRIC = "emotion_ccc"


def make(sizes: dict[str, int], skill: dict[str, float] | None = None) -> tuple[Statistics, np.ndarray, pd.DataFrame]:
    """Clips of one emotion, `sizes` of them in each group; in a group of skill 0 the prediction is noise."""
    rng = np.random.default_rng(0)
    groups = np.repeat(list(sizes), list(sizes.values()))
    truth = rng.random(len(groups))
    skills = np.array([(skill or {}).get(group, 1.0) for group in groups])
    table = pd.DataFrame({"truth": truth, "prediction": skills * truth + (1.2 - skills) * rng.random(len(groups))})
    statistics = ccc_statistics(table[["truth"]], table[["prediction"]], ["awe_ccc"], METRIC)
    return statistics, groups, table


def test_groups_are_scored_alone_the_worst_first_and_small_ones_not() -> None:
    statistics, groups, table = make({"Chile": 30, "Kenya": 40, "Peru": 4, "Mali": 1}, {"Kenya": 0.0})
    found = group_scores(statistics, groups, METRIC)
    assert found.index.tolist()[:2] == ["Kenya", "Chile"]
    assert found["n"].to_dict() == {"Kenya": 40, "Chile": 30, "Peru": 4, "Mali": 1}
    for country in ("Chile", "Kenya"):
        own = table[groups == country]
        assert found.loc[country, "value"] == pytest.approx(ccc(own["truth"], own["prediction"]))
    assert found.loc[["Peru", "Mali"], "value"].isna().all()


def test_intervals_are_those_of_the_clips_of_the_group() -> None:
    statistics, groups, _ = make({"Chile": 30, "Mali": 1})
    speakers = np.array([f"s{i % 6}" for i in range(len(groups))])
    found = with_intervals(group_scores(statistics, groups, METRIC), statistics, groups, METRIC, speakers)
    inside = statistics.take(groups == "Chile")
    for ends, by in ((["lo", "hi"], None), (["lo_by_speaker", "hi_by_speaker"], speakers[groups == "Chile"])):
        expected = interval(bootstrap(inside, groups=by)).loc[METRIC, ["ci_low", "ci_high"]].tolist()
        assert found.loc["Chile", ends].tolist() == pytest.approx(expected)
    assert found.loc["Chile", "speakers"] == 6
    assert found.loc["Mali", "speakers"] == 1
    assert found.loc["Mali", ["lo", "hi", "lo_by_speaker", "hi_by_speaker"]].isna().all()
    alone = with_intervals(group_scores(statistics, groups, METRIC), statistics, groups, METRIC)
    assert alone.loc["Chile", ["lo", "hi"]].notna().all()
    assert alone.loc["Chile", ["lo_by_speaker", "hi_by_speaker"]].isna().all()


def test_the_lowest_decile_is_the_mean_of_the_lowest_tenth() -> None:
    values = np.random.default_rng(0).permutation(np.arange(25) / 25)
    mean, low, high, count = lowest_decile(values)
    assert (mean, count) == (pytest.approx((0 + 1 + 2) / 75), 3)
    rng = np.random.default_rng(0)
    ordered = np.sort(values)
    plain = [np.sort(ordered[rng.integers(25, size=25)])[:3].mean() for _ in range(1000)]
    assert [low, high] == pytest.approx(np.percentile(plain, [2.5, 97.5]).tolist())
    assert lowest_decile([0.3, 0.5])[0::3] == (0.3, 1)


def test_chance_explains_equal_speakers_and_not_unequal_ones() -> None:
    people = {f"s{i}": 40 for i in range(30)}
    for skill, explained in (({}, True), ({f"s{i}": 0.0 for i in range(3)}, False)):
        statistics, speakers, _ = make(people, skill)
        value = lowest_decile(group_scores(statistics, speakers, METRIC)["value"])[0]
        mean, low, high = lowest_decile_by_chance(statistics, speakers, METRIC)
        assert low < mean < high
        assert (value >= low) == explained
        assert not math.isnan(value)
