"""Runs compared each with each: Holm's correction, its duality with the intervals, what is left out, and the pages."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from exvo.errors import InputError
from exvo.evaluation.bootstrap import bootstrap, ccc_statistics, interval, join
from exvo.evaluation.matrix import comparable_runs, difference_matrix, holm, p_values, pairs
from exvo.evaluation.pairwise import Doubts, Scored, paired
from exvo.evaluation.results import TRAINING, results_table
from exvo.evaluation.scoring import statistics
from exvo.reports.comparison import comparison_page
from exvo.reports.matrix import (
    left_out_text,
    matrix_columns,
    matrix_conclusion,
    matrix_explanation,
    matrix_text,
    results_page,
)
from exvo.reports.sentences import doubt_sentences, few_speakers_sentence
from exvo.tasks import Task

from helpers.tables import CONDITION, predictions

TASK = Task("fewshot", ("High", "Loud"))


def runs(*noises: float, **different: object) -> list[Scored]:
    """Runs r0, r1, ... whose predictions are as noisy as said."""
    condition = replace(CONDITION, **different)  # type: ignore[arg-type]
    return [Scored(f"r{place}", condition, 2, predictions(noise, place)) for place, noise in enumerate(noises)]


def test_holm_is_the_hand_computed_one() -> None:
    """Sorted 0.005, 0.011, 0.02, 0.04, times 4, 3, 2, 1: 0.02, 0.033, 0.04, 0.04."""
    assert holm([0.02, 0.005, 0.04, 0.011]) == pytest.approx([0.04, 0.02, 0.04, 0.033])
    assert holm([0.01, 0.011, 0.012]) == pytest.approx([0.03, 0.03, 0.03])  # 0.022 and 0.012 are raised
    assert holm([0.6, 0.5]) == pytest.approx([1.0, 1.0])
    assert holm([math.nan, 0.02, math.nan, 0.03]) == pytest.approx([math.nan, 0.04, math.nan, 0.04], nan_ok=True)
    assert holm([]).tolist() == []


def test_a_p_value_is_below_five_percent_just_where_the_interval_excludes_zero() -> None:
    rng = np.random.default_rng(0)
    differences = pd.DataFrame(rng.normal(rng.normal(0, 2.5, 2000), 1, (1000, 2000)))
    p, bounds = p_values(differences), interval(differences)
    excluded = ((bounds["ci_low"] > 0) | (bounds["ci_high"] < 0)).to_numpy()
    unlike = (p < 0.05) != excluded
    beyond = np.minimum((differences <= 0).sum(), (differences >= 0).sum()).to_numpy()
    assert 0.3 < excluded.mean() < 0.7
    assert set(beyond[unlike]) <= {25}  # the one resample at the interval's end
    assert (p[beyond == 9] == 2 * 10 / 1001).all()
    assert p.min() == 2 / 1001


def test_undefined_resamples_do_not_count() -> None:
    differences = pd.DataFrame({"one": [math.nan, 1.0, 2.0, -1.0, 3.0]})
    assert p_values(differences) == pytest.approx([2 * 2 / 5])


def test_entries_are_those_of_two_runs_and_antisymmetric() -> None:
    given = runs(0.9, 0.3, 0.6)
    found = difference_matrix(given)
    assert found.runs == ["r1", "r2", "r0"]
    assert found.order == [1, 2, 0]
    np.testing.assert_array_equal(found.values, -found.values.T)
    assert (found.values[np.triu_indices(3, 1)] > 0).all()
    assert (found.marked == found.marked.T).all()
    assert found.resamples == 1000
    assert len(found.pairs) == found.comparisons == 3
    by_name = {one.run: one.predictions for one in given}
    for row in found.pairs.to_dict("records"):
        head = paired(by_name[row["a"]], by_name[row["b"]], TASK).iloc[0]
        for column, end in (("value", ""), ("lo", "_by_speaker"), ("hi", "_by_speaker"), ("wins", "_by_speaker")):
            assert row[column] == pytest.approx(head[f"{column}{end}"])
        assert row["value"] == pytest.approx(found.values[row["place_b"] - 1, row["place_a"] - 1])
        assert (found.runs[row["place_a"] - 1], found.runs[row["place_b"] - 1]) == (row["a"], row["b"])
    np.testing.assert_array_equal(found.pairs["p_holm"], holm(found.pairs["p"]))


def test_a_mark_is_a_p_value_below_five_percent_after_holm() -> None:
    found = difference_matrix(
        [Scored(f"r{i}", CONDITION, 2, predictions(n, i, speakers=30)) for i, n in enumerate((0.9, 0.88, 0.3))]
    )
    for row in found.pairs.to_dict("records"):
        assert found.marked[row["place_a"] - 1, row["place_b"] - 1] == (row["p_holm"] < 0.05)
    cells = dict(matrix_columns(found))
    assert cells["#"] == ["1", "2", "3"]
    assert cells["3"][0] == f"{found.values[0, 2]:+.3f}*"
    assert cells["1"][0] == ""
    assert not found.marked[1, 2]
    assert found.differing == 2
    assert cells["3"][1] == f"{found.values[1, 2]:+.3f}"
    text = matrix_text(found)
    assert "3 comparisons of CCC: after Holm's correction for that number, 2 differ from zero at p < 0.05." in text
    assert "60 clips of 30 speakers, 1000 resamples by speaker" in text


def test_over_few_speakers_nothing_is_marked() -> None:
    found = difference_matrix(runs(0.9, 0.88, 0.3))
    assert found.pairs["p_holm"].min() < 0.05
    assert not found.marked.any()
    text = matrix_text(found)
    assert "*" not in text.replace("; * where", "")
    assert "3 comparisons of CCC, corrected for by Holm's method; none is marked, because p values over 10" in text
    assert few_speakers_sentence(10) in text


def test_resamples_suffice_for_the_strictest_bound() -> None:
    """Seven runs, 21 comparisons: the lowest p value times 21 is still below 0.05."""
    found = difference_matrix(runs(3.0, *[0.01] * 6))
    assert found.resamples == 2100
    assert found.pairs["p"].min() == pytest.approx(2 / 2101)
    assert found.pairs["p_holm"].min() == pytest.approx(21 * 2 / 2101)
    assert found.pairs["p_holm"].min() < 0.05


def test_constant_predictions_are_undefined_and_no_comparison() -> None:
    given = runs(0.9, 0.3, 0.6)
    given[1].predictions["prediction.Loud"] = 0.5
    found = difference_matrix(given)
    assert found.runs == ["r2", "r0", "r1"]
    assert found.comparisons == 1
    assert found.pairs[["value", "lo", "hi", "p", "p_holm", "wins"]].isna().all(axis=1).sum() == 2
    assert matrix_conclusion(found).startswith("1 comparison of CCC")
    assert dict(matrix_columns(found))["3"] == ["undefined", "undefined", ""]
    assert any(one.startswith("r1 predicts the same for every clip in Loud") for one in doubt_sentences(found.doubts))
    alone = found.pairs.dropna()["p"]
    assert alone.tolist() == found.pairs.dropna()["p_holm"].tolist()


def test_unknown_speakers_leave_differences_without_p_values() -> None:
    given = runs(0.9, 0.3)
    for one in given:
        one.predictions.loc[5, "speaker"] = ""
    found = difference_matrix(given)
    assert found.comparisons == 0
    assert found.values[0, 1] > 0
    assert matrix_conclusion(found) == "No difference of CCC has a 95% interval by speaker: none is shown."
    assert not found.marked.any()


def test_speaker_recognisers_are_compared_by_clip() -> None:
    rng = np.random.default_rng(4)
    about = predictions(0.4, 2)[["file", "split", "speaker", "scored"]].assign(**{"truth.speaker": ""})
    about["truth.speaker"] = about["speaker"]
    tables = [
        about.assign(**{"prediction.speaker": np.where(rng.random(60) < right, about["speaker"], "s0")})
        for right in (0.3, 0.9)
    ]
    condition = replace(CONDITION, task="speaker")
    found = difference_matrix([Scored(f"r{place}", condition, 2, table) for place, table in enumerate(tables)])
    differences = np.subtract(
        *(bootstrap(statistics(table, Task("speaker", ())))["speaker_uar"].to_numpy() for table in tables[::-1])
    )
    assert found.by == "clip"
    assert found.runs == ["r1", "r0"]
    assert found.pairs[["lo", "hi"]].iloc[0].tolist() == pytest.approx(np.percentile(differences, [2.5, 97.5]))
    assert found.doubts == Doubts(None, [])


def test_the_largest_set_is_compared_and_the_others_are_named_with_the_reason() -> None:
    given = runs(0.3, 0.4, 0.5, 0.6)
    given[0] = replace(given[0], shots=4)
    given[3] = replace(given[3], predictions=given[3].predictions[2:])
    kept, left_out = comparable_runs(given)
    assert kept == [1, 2]
    assert left_out[0].startswith("The runs r1 and r0 can't be compared: their shots differ, 2 and 4;")
    assert left_out[3].startswith("The runs r1 and r3 can't be compared: they score 60 and 58 clips")
    assert left_out_text(list(left_out.values())).count("\n- ") == 2
    assert comparable_runs([]) == ([], {})
    with pytest.raises(InputError, match="r0 and r1 can't be compared: their shots differ"):
        difference_matrix(given)


@pytest.mark.slow
def test_holm_holds_the_family_wise_error_that_bare_p_values_do_not() -> None:
    """Six equally good runs whose errors vary by clip and by speaker, 40 new speakers each time.

    With 200 sets the share of sets that a 5% test rejects lies below 8.5% with 98% probability.
    """
    rng, names = np.random.default_rng(7), [f"r{run}" for run in range(6)]
    speakers = np.repeat(np.arange(40), 8)
    bare, corrected = [], []
    for _ in range(200):
        truth = (rng.normal(size=320) + 0.5 * rng.normal(size=40)[speakers])[:, None]
        errors = [0.8 * rng.normal(size=320) + 0.4 * rng.normal(size=40)[speakers] for _ in names]
        every = join(
            *(
                ccc_statistics(truth, truth + error[:, None], [name], f"{name}_mean")
                for name, error in zip(names, errors, strict=True)
            )
        )
        scores = every.scores()[names].sort_values(ascending=False)
        samples = bootstrap(every, groups=speakers)[scores.index]
        found = pairs(list(scores.index), scores.to_numpy(), samples.to_numpy())
        assert len(found) == 15
        bare.append((found["p"] < 0.05).any())
        corrected.append((found["p_holm"] < 0.05).any())
    assert np.mean(corrected) <= 0.085
    assert np.mean(bare) > 3 * 0.085


def about(given: list[Scored]) -> pd.DataFrame:
    """Rows of a table of results."""
    trained = dict.fromkeys(TRAINING, 1)
    scored = [statistics(one.predictions, TASK).scores().to_dict() for one in given]
    rows = [
        {"system": "cnn5", "run": one.run, "evaluation": "", "metrics": metrics} | trained
        for one, metrics in zip(given, scored, strict=True)
    ]
    return pd.DataFrame(rows)


def test_the_page_of_many_runs_holds_table_matrix_and_picture() -> None:
    given = runs(0.9, 0.3, 0.6)
    given[2].predictions["prediction.Loud"] = 0.5
    found = difference_matrix(given)
    table = results_table(CONDITION, about(given))
    table["place"] = pd.Series([2, 1, 3], dtype="Int64")
    page = results_page(CONDITION, table, found, ["r9 <is> odd"], "mlflow run . -e compare")
    assert page.tiles[1] == ("differences shown", "0 of 1", "too few speakers to mark any")
    html = page.html()
    assert self_contained(html)
    assert matrix_explanation(found) in html.replace("&lt;", "<").replace("&#39;", "'")
    assert "r9 &lt;is&gt; odd" in html
    assert re.search(r">r1\u2002?\s*1<", html)  # systems repeat, so runs name the rows of the picture
    section = page.sections[1]
    assert section.numbers is not None
    pd.testing.assert_frame_equal(section.numbers, found.pairs)
    cells = [cell for _, column in section.table[1:] for cell in column if cell]
    assert all(cell in html for cell in cells)
    assert results_page(CONDITION, table.drop(columns="place"), None, [], "x").tiles == []


def test_the_page_of_two_runs_concludes_first_and_keeps_years_apart() -> None:
    a, b = predictions(0.5, 2, multitask=True), predictions(0.3, 3, multitask=True)
    b["prediction.Loud"] = 0.5
    table = paired(a, b, Task("multitask", ("High", "Loud")))
    given = about([Scored("ra", CONDITION, 2, a), Scored("rb", CONDITION, 2, b)])
    page = comparison_page(CONDITION, given, table, a, ["be careful"], "mlflow run . -e compare -P a=1 -P b=2")
    assert page.lead == "The difference of S_MTL is undefined: no difference is shown."
    assert [value for _, value, _ in page.tiles] == [f"{table.loc[0, 'a']:.4f}", "undefined", "undefined"]
    pictures = [picture.name for section in page.sections for picture in section.pictures]
    assert pictures == ["s_mtl", "scores", "emotion_mae", "age_mae"]
    html = page.html()
    assert self_contained(html)
    assert "be careful" in html
    assert "b - a in years, left of 0: b is better" in html
    assert "mlflow run . -e compare -P a=1 -P b=2" in html


def self_contained(html: str) -> bool:
    """Whether a page refers to nothing outside itself."""
    references = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', html)
    return "://" not in html and all("".join(one).startswith("#") for one in references)
