"""Scores of a predictions table written by hand, against plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

from exvo.errors import InputError
from exvo.evaluation.scoring import as_metrics, constant_predictions, every_score, score, score_epoch
from exvo.reports.sentences import score_sentence
from exvo.tasks import Task

MULTITASK = Task("multitask", ("Awe", "Fear"), ("Chile", "Kenya"))
FEWSHOT = Task("fewshot", ("Awe", "Fear"))


def naive_ccc(x: pd.Series, y: pd.Series) -> float:
    x, y = x.to_numpy(), y.to_numpy()
    return float(2 * np.mean((x - x.mean()) * (y - y.mean())) / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


def table(clips: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    found = pd.DataFrame({"file": [f"{i}.wav" for i in range(clips)], "split": "val"})
    found["speaker"] = [f"s{i % 6}" for i in range(clips)]
    found["scored"] = True
    found["country"] = np.where(np.arange(clips) % 3 == 0, "Chile", "Kenya")
    for target in ("Awe", "Fear"):
        found[f"truth.{target}"] = rng.random(clips)
        found[f"prediction.{target}"] = 0.6 * found[f"truth.{target}"] + 0.2 * rng.random(clips)
    found["truth.age"] = rng.integers(20, 60, clips).astype(float)
    found["prediction.age"] = found["truth.age"] + rng.normal(0, 4, clips)
    found["truth.country"] = found["country"]
    found["prediction.country"] = np.where(rng.random(clips) < 0.7, found["country"], "Kenya")
    return found


def test_scores_are_over_the_whole_split() -> None:
    predictions = table()
    scores = score(predictions, MULTITASK).set_index("metric")
    awe, fear = (naive_ccc(predictions[f"truth.{t}"], predictions[f"prediction.{t}"]) for t in ("Awe", "Fear"))
    uar = recall_score(predictions["truth.country"], predictions["prediction.country"], average="macro")
    age = (predictions["truth.age"] - predictions["prediction.age"]).abs().mean()
    mae = np.mean([(predictions[f"truth.{t}"] - predictions[f"prediction.{t}"]).abs().mean() for t in ("Awe", "Fear")])
    ccc = (awe + fear) / 2
    expected = {
        "awe_ccc": awe,
        "fear_ccc": fear,
        "emotion_ccc": ccc,
        "emotion_mae": mae,
        "country_uar": uar,
        "age_mae": age,
        "s_mtl": 3 / (1 / ccc + 1 / uar + age),
    }
    for name, value in expected.items():
        assert scores.loc[name, "value"] == pytest.approx(value, abs=1e-12), name
        assert scores.loc[name, "lo"] < value < scores.loc[name, "hi"]
        assert scores.loc[name, "lo_by_speaker"] < value < scores.loc[name, "hi_by_speaker"]
    assert score_epoch(predictions, MULTITASK)["s_mtl"] == pytest.approx(expected["s_mtl"], abs=1e-12)


@pytest.mark.parametrize("group", ["country", "speaker"])
def test_mean_and_population_std_over_groups(group: str) -> None:
    predictions = table()
    scores = score(predictions, FEWSHOT).set_index("metric")
    each = [
        np.mean([naive_ccc(rows[f"truth.{t}"], rows[f"prediction.{t}"]) for t in ("Awe", "Fear")])
        for _, rows in predictions.groupby(group)
    ]
    assert scores.loc[f"emotion_ccc_{group}_mean", "value"] == pytest.approx(np.mean(each), abs=1e-12)
    assert scores.loc[f"emotion_ccc_{group}_std", "value"] == pytest.approx(np.std(each), abs=1e-12)
    assert scores.loc[f"emotion_ccc_{group}_std", "n"] == len(each)


def test_constant_predictions_have_no_ccc_and_no_interval() -> None:
    predictions = table()
    whole = score(predictions, FEWSHOT).set_index("metric")
    predictions["prediction.Awe"] = 0.5
    found = score(predictions, FEWSHOT)
    scores = found.set_index("metric").drop(columns="n")
    assert constant_predictions(predictions, FEWSHOT) == ["Awe"]
    assert scores.loc[["awe_ccc", "emotion_ccc"]].isna().all(axis=None)
    pd.testing.assert_series_equal(scores.loc["fear_ccc"], whole.drop(columns="n").loc["fear_ccc"])
    assert score_sentence(found, "emotion_ccc") == "CCC is undefined"
    assert math.isnan(as_metrics(found, "val")["val/emotion_ccc"])
    assert math.isnan(every_score(found, "val")["val/awe_ccc"])


def test_unlabelled_rows_are_left_out_and_too_few_refused() -> None:
    predictions = table()
    whole = score(predictions.iloc[:40], FEWSHOT)
    predictions.loc[40:, ["truth.Awe", "truth.Fear"]] = np.nan
    pd.testing.assert_frame_equal(score(predictions, FEWSHOT), whole)
    predictions.loc[1:, ["truth.Awe", "truth.Fear"]] = np.nan
    with pytest.raises(InputError, match="1 of the 60 clips are scored and have all their labels"):
        score(predictions, FEWSHOT)


def test_unknown_speakers_leave_out_what_is_by_speaker() -> None:
    predictions = table()
    predictions.loc[0, "speaker"] = ""
    scores = score(predictions, FEWSHOT).set_index("metric")
    assert scores["lo_by_speaker"].isna().all()
    assert "emotion_ccc_speaker_mean" not in scores.index
    assert not math.isnan(scores.loc["emotion_ccc", "lo"])


def test_metrics_and_sentence() -> None:
    scores = score(table(), MULTITASK)
    metrics = as_metrics(scores, "val")
    row = scores.set_index("metric").loc["s_mtl"]
    assert metrics["val/s_mtl"] == row["value"]
    assert metrics["val/s_mtl_lo"] == row["lo"]
    assert metrics["val/s_mtl_hi_by_speaker"] == row["hi_by_speaker"]
    assert "val/emotion_ccc_speaker_mean_lo" not in metrics
    assert not any(math.isnan(value) for value in metrics.values())
    expected = f"S_MTL {row['value']:.3f}   95% interval by clip [{row['lo']:.3f}, {row['hi']:.3f}], "
    assert score_sentence(scores, "s_mtl").startswith(expected)


def test_clips_that_enrol_are_not_scored() -> None:
    predictions = table()
    predictions.loc[::5, "scored"] = False
    kept = predictions[predictions["scored"]]
    scores = score(predictions, FEWSHOT).set_index("metric")
    assert scores.loc["emotion_ccc", "n"] == 48
    assert scores.loc["awe_ccc", "value"] == pytest.approx(naive_ccc(kept["truth.Awe"], kept["prediction.Awe"]))
    pd.testing.assert_frame_equal(scores, score(kept, FEWSHOT).set_index("metric"))
