"""Answers only where the model is sure: thresholds, coverage and AURC, against counting by hand and brute force."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from safetensors import safe_open

import exvo
from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.evaluation import scoring, selective
from exvo.evaluation.calibration import shares_of
from exvo.experiments.calibration import finish
from exvo.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from exvo.networks.network import Network
from exvo.reports.run import RunFacts, report_page
from exvo.serving.model import answer_body, answer_request
from exvo.tasks import Level, Task
from exvo.tracking import models

from helpers.commands import run_here
from helpers.corpora import write_emogator
from helpers.requests import GOOD

TARGETS = ("Awe", "Fear", "Joy")
TASK = Task("fewshot", TARGETS, categories=True, objective="cross-entropy")
LEVELS = (Level(0.5, 0.0, 1.0), Level(0.6, 0.45, 0.5), Level(0.7, 0.7, 0.2))


def clips(count: int, ties: bool = False, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, with many that are equal or none, and whether each clip is right, the likelier the surer."""
    rng = np.random.default_rng(seed)
    confidence = rng.random(count)
    confidence = confidence.round(1) if ties else confidence
    return confidence, rng.random(count) < confidence


def table(count: int = 400) -> pd.DataFrame:
    """A predictions table with shares, of ten speakers."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1.5, (count, 3))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    category = (rng.random((count, 1)) > shares.cumsum(axis=1)).sum(axis=1)
    rows = pd.DataFrame({"file": [f"{clip}.wav" for clip in range(count)], "split": "test"})
    rows["speaker"] = [f"s{clip % 10}" for clip in range(count)]
    rows["category"] = np.array(TARGETS)[category]
    rows[list(TARGETS)] = np.eye(3)[category]
    return TASK.table(rows, logits)


@pytest.mark.parametrize("ties", [False, True])
def test_a_threshold_is_the_lowest_one_that_reaches_the_accuracy(ties: bool) -> None:
    """Every share of a clip is tried as a threshold, and 0."""
    for seed in range(20):
        confidence, correct = clips(150, ties, seed)
        levels = selective.choose_levels(confidence, correct)
        reached: list[tuple[float, float, float]] = []
        for share in [0.0, *sorted(confidence)]:
            answered = confidence >= share
            if answered.sum() >= selective.FEWEST:
                reached.append((share, answered.mean(), correct[answered].mean()))
        assert [level.accuracy for level in levels] == pytest.approx(
            np.arange(math.floor(100 * correct.mean() + 1e-9), math.floor(100 * max(r[2] for r in reached) + 1e-9) + 1)
            / 100
        )
        for level in levels:
            share, coverage, _ = next(row for row in reached if row[2] >= level.accuracy - 1e-9)
            assert (confidence >= level.share).mean() == pytest.approx(coverage) == pytest.approx(level.coverage)
            assert level.share == share or not ((confidence >= share) ^ (confidence >= level.share)).any()
        assert levels[0].share == 0.0
        assert levels[0].coverage == 1.0


def test_few_clips_choose_no_threshold() -> None:
    confidence, correct = clips(selective.FEWEST - 1)
    assert selective.choose_levels(confidence, correct) == ()
    assert selective.choose_levels([], []) == ()
    assert selective.choose_levels([0.4] * 20, [True] * 20) == (Level(1.0, 0.0, 1.0),)


def test_the_area_is_the_mean_risk_of_the_surest_clips() -> None:
    """Over all orders of clips of equal confidence, by hand."""
    confidence, correct = [0.9, 0.9, 0.5, 0.5, 0.2], [1, 0, 0, 1, 0]
    areas = []
    for first in itertools.permutations([0, 1]):
        for second in itertools.permutations([2, 3]):
            errors = [1 - correct[clip] for clip in (*first, *second, 4)]
            areas.append(np.mean([np.mean(errors[: k + 1]) for k in range(5)]))
    assert selective.aurc(confidence, correct) == pytest.approx(np.mean(areas))
    assert selective.aurc([0.9, 0.8, 0.1], [1, 1, 0]) == pytest.approx((0 + 0 + 1 / 3) / 3)
    assert selective.aurc([0.5] * 4, [1, 0, 0, 0]) == pytest.approx(0.75)  # the shares say nothing
    assert selective.aurc([1, 2], [1, 1]) == 0.0
    assert math.isnan(selective.aurc([], []))
    said, right = clips(300)
    assert selective.lowest_aurc(right) < selective.aurc(said, right) < 1 - right.mean()


def test_the_area_is_a_score_with_intervals_by_clip_and_by_speaker() -> None:
    """Against resamples that are drawn, put together and scored one by one."""
    predictions = table()
    scores = scoring.score(predictions, TASK).set_index("metric").loc["category_aurc"]
    shares = shares_of(predictions, TARGETS)
    said, right = shares["confidence"].to_numpy(), shares["correct"].to_numpy()
    assert scores["value"] == pytest.approx(selective.aurc(said, right))
    assert scores["n"] == len(predictions)
    rng = np.random.default_rng(5)
    people = predictions["speaker"].to_numpy()
    names = np.unique(people)
    drawn: dict[str, list[float]] = {"": [], "_by_speaker": []}
    for _ in range(1000):
        chosen = rng.integers(len(said), size=len(said))
        drawn[""].append(selective.aurc(said[chosen], right[chosen]))
        chosen = np.concatenate([np.flatnonzero(people == name) for name in rng.choice(names, len(names))])
        drawn["_by_speaker"].append(selective.aurc(said[chosen], right[chosen]))
    for suffix, samples in drawn.items():
        low, high = np.percentile(samples, [2.5, 97.5])
        assert scores[f"lo{suffix}"] == pytest.approx(low, abs=0.012)
        assert scores[f"hi{suffix}"] == pytest.approx(high, abs=0.012)
    unknown = scoring.score(predictions.assign(speaker=""), TASK).set_index("metric").loc["category_aurc"]
    assert unknown[["lo_by_speaker"]].isna().all()
    assert unknown["lo"] == scores["lo"]
    assert "test/category_aurc" in scoring.as_metrics(scoring.score(predictions, TASK), "test")
    numbers = predictions.rename(columns=lambda name: name.replace(".Awe", ".Pride"))  # no shares of these categories
    assert "category_aurc" not in set(scoring.score(numbers, replace(TASK, targets=("Pride", "Fear")))["metric"])


def test_what_is_wished_gives_a_level_or_a_sentence() -> None:
    assert selective.find_level(LEVELS, TASK, 0.6) == LEVELS[1]
    assert selective.find_level(LEVELS, TASK, 0.505) == LEVELS[1]  # between two percents the higher one
    assert selective.find_level(LEVELS, TASK, 0.1) == LEVELS[0]
    for number in range(1, 101):  # no percent is missed by rounding
        levels = [Level(percent / 100, 0.0, 1.0) for percent in range(101)]
        assert selective.find_level(levels, TASK, number / 100).accuracy == number / 100
    with pytest.raises(InputError, match=r"sure=0.9 is not reached: .* right in 70% of clips at best; give sure=0.7"):
        selective.find_level(LEVELS, TASK, 0.9)
    with pytest.raises(InputError, match=r"holds no thresholds, because .* train it again"):
        selective.find_level((), TASK, 0.9)
    for other in (replace(TASK, objective="ccc"), replace(TASK, categories=False, objective="ccc")):
        with pytest.raises(InputError, match="gives no shares of exclusive categories"):
            selective.find_level(LEVELS, other, 0.6)
    with pytest.raises(InputError, match="a category of this model is called sure"):
        selective.find_level(LEVELS, replace(TASK, targets=("sure", "Awe")), 0.6)


def write_model(path: Path, levels: tuple[Level, ...] = LEVELS) -> Checkpoint:
    network = Network("cnn5", outputs=3, width=0.1).eval()
    weights = network.state_dict()
    save_checkpoint(path, network, weights, TASK, FeatureConfig(), "repeat", {"model": "cnn5"}, None, 1.5, levels)
    return load_checkpoint(path)


def test_levels_lie_in_the_model_file(tmp_path: Path) -> None:
    assert write_model(tmp_path / "model.safetensors").levels == LEVELS
    assert write_model(tmp_path / "none.safetensors", ()).levels == ()
    with safe_open(tmp_path / "none.safetensors", framework="pt") as file:
        assert "levels" not in json.loads(file.metadata()["exvo"])


def test_the_levels_are_chosen_on_the_validation_clips_at_the_fitted_temperature(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1, (200, 3))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    category = (rng.random((200, 1)) > shares.cumsum(axis=1)).sum(axis=1)
    rows = pd.DataFrame({"file": [f"{clip}.wav" for clip in range(200)], "split": "val", "speaker": "ann"})
    rows["category"], rows[list(TARGETS)] = np.array(TARGETS)[category], np.eye(3)[category]
    write_model(tmp_path / "model.safetensors", ())
    scored = np.arange(200) % 4 > 0  # the others enrol
    final = finish(tmp_path / "model.safetensors", rows, 3 * logits, scored, "people")
    assert final.temperature is not None
    powers = np.exp(3 * logits[scored] / final.temperature)
    said = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)
    right = logits[scored].argmax(axis=1) == category[scored]
    np.testing.assert_allclose(final.levels, selective.choose_levels(said, right), atol=1e-9)
    assert load_checkpoint(tmp_path / "model.safetensors").levels == final.levels


def test_the_service_and_python_say_what_is_sure(tmp_path: Path) -> None:
    checkpoint = write_model(tmp_path / "model.safetensors")
    request = pd.DataFrame({"audio": [GOOD]})
    plain = answer_request(checkpoint, request)
    assert list(plain) == [*TARGETS, "warnings"]
    top = float(plain[list(TARGETS)].iloc[0].max())
    for share, sure in ((top, True), (math.nextafter(top, 1), False)):
        levels = (Level(0.5, 0.0, 1.0), Level(0.8, share, 0.3))
        marked = answer_request(replace(checkpoint, levels=levels), request, "predict", 0.8)
        assert marked["sure"].tolist() == [sure]
        assert marked.drop(columns="sure").equals(plain)
    body = bytearray(json.dumps({"dataframe_records": [{"audio": GOOD}], "params": {"sure": 0.5}}).encode())
    (answer,) = json.loads(answer_body(checkpoint, body))["predictions"]
    assert answer["sure"] is True
    refused: list[object] = ["0.8", True, -0.1, 1.1, None, [], float("nan")]
    for wrong in refused:
        with pytest.raises(InputError, match=r"sure must be a number from 0"):
            answer_request(checkpoint, request, "predict", wrong)
    with pytest.raises(InputError, match=r"sure=0\.9 is not reached"):
        answer_request(checkpoint, request, "predict", 0.9)
    model = exvo.load(tmp_path / "model.safetensors", device="cpu")
    clip = (np.sin(np.arange(8_000) / 5).astype(np.float32), 16_000)
    assert list(model.predict(clip)) == list(TARGETS)
    assert model.predict(clip, sure=0.5)["sure"].tolist() == [True]
    with pytest.raises(InputError, match="sure must be a number"):
        model.predict(clip, sure=2.0)


def test_the_report_shows_what_the_thresholds_give_on_its_clips() -> None:
    predictions = table()
    facts = RunFacts("cnn5", "mine", False, "test", "a run", "0" * 64, [], {"protocol": "strict"}, "", pd.DataFrame())
    facts = replace(facts, levels=LEVELS)
    page = report_page(predictions, scoring.score(predictions, TASK), TASK, facts)
    section = next(section for section in page.sections if section.title == "Only where it is sure")
    cells = {(column.title, place): cell for column in section.table for place, cell in enumerate(column.cells)}
    shares = shares_of(predictions, TARGETS)
    for place, level in enumerate(LEVELS):
        answered = shares["confidence"] >= level.share
        assert cells["answered here", place] == f"{answered.mean():.0%}"
        assert cells["right here", place] == f"{shares['correct'][answered].mean():.0%}"
        assert cells["n", place] == str(answered.sum())
    assert section.numbers is not None
    surest = section.numbers[section.numbers["n"] == 100].iloc[0]
    first = shares.sort_values("confidence", ascending=False).head(100)
    assert surest["accuracy"] == pytest.approx(first["correct"].mean())
    assert surest["coverage"] == pytest.approx(100 / len(shares))
    assert not any("very clips" in text for text in section.text)
    of_val = report_page(predictions, scoring.score(predictions, TASK), TASK, replace(facts, split="val"))
    assert any("on the very clips on which it was chosen" in text for s in of_val.sections for text in s.text)
    none = report_page(predictions, scoring.score(predictions, TASK), TASK, replace(facts, levels=()))
    assert [list(section.table) for section in none.sections if section.title == "Only where it is sure"] == [[]]


@pytest.mark.usefixtures("store")
def test_predict_marks_the_answers_of_a_trained_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_emogator(tmp_path / "corpus", speakers=20, categories=3)
    options = {"corpus": "emogator", "data": str(tmp_path / "corpus"), "model": "resnet", "epochs": "6"}
    options |= {"width": "0.1", "batch_size": "16", "precision": "float32", "workers": "1"}
    assert run_here("main", options, monkeypatch) == 0
    (run,) = MlflowClient().search_runs(["0"])
    assert {"val/category_aurc", "test/category_aurc"} <= run.data.metrics.keys()
    level = models.checkpoint_of(run).levels[-1]
    audio = str(tmp_path / "corpus" / "data" / "mp3")
    predict = {"model_uri": run.info.run_id, "audio": audio, "device": "cpu"}
    capsys.readouterr()
    answers_file = tmp_path / "answers.csv"
    sure = {"sure": f"{level.accuracy:g}", "save": str(answers_file)}
    assert run_here("predict", predict | sure, monkeypatch) == 0
    output = capsys.readouterr().out
    assert f"share of {level.share:.3f} or more, as in {level.coverage:.0%} of validation clips" in output
    answers = pd.read_csv(answers_file)
    top = answers[[name for name in answers if name not in ("file", "sure", "warnings")]].max(axis=1)
    assert answers["sure"].tolist() == (top >= level.share).tolist()
    assert answers["sure"].any()
    assert re.search(r"(?m)^ +sure +yes$", output)
    assert run_here("predict", predict | {"sure": "80"}, monkeypatch) == 2
    assert "sure=80 is out of range: it must be between 0 and 1" in capsys.readouterr().err
