"""Shares of categories: the temperature, log loss and expected calibration error, against independent answers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from sklearn.metrics import log_loss as reference_log_loss
from sklearn.metrics import recall_score

import exvo
from exvo.config import FeatureConfig
from exvo.evaluation import calibration, scoring
from exvo.evaluation.bootstrap import bootstrap
from exvo.evaluation.pairwise import paired
from exvo.evaluation.prior import over_prior, prior_of, prior_of_table, prior_predictions
from exvo.experiments.calibration import finish
from exvo.networks.checkpoint import load_checkpoint, save_checkpoint
from exvo.networks.network import Network
from exvo.reports.prediction import reached_line
from exvo.reports.run import RunFacts, report_page
from exvo.serving.model import answer_request
from exvo.tasks import Task
from exvo.tracking import models

from helpers.commands import run_here
from helpers.corpora import write_emogator

TARGETS = ("Awe", "Fear", "Joy")
TASK = Task("fewshot", TARGETS, categories=True, objective="cross-entropy")


def drawn(clips: int = 600, speakers: int = 40, scale: float = 1.0) -> tuple[pd.DataFrame, np.ndarray]:
    """Clips whose categories are drawn from the shares of some logits, and those logits times `scale`."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (clips, len(TARGETS)))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    category = (rng.random((clips, 1)) > shares.cumsum(axis=1)).sum(axis=1)
    rows = pd.DataFrame({"file": [f"{clip}.wav" for clip in range(clips)], "split": "val"})
    rows["speaker"] = [f"s{clip % speakers}" for clip in range(clips)]
    rows["category"] = np.array(TARGETS)[category]
    rows[list(TARGETS)] = np.eye(len(TARGETS))[category]
    return rows, logits * scale


def table(scale: float = 1.0, temperature: float | None = None, clips: int = 600) -> pd.DataFrame:
    rows, logits = drawn(clips, scale=scale)
    return TASK.table(rows, logits, temperature=temperature)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_temperature_is_the_one_with_the_smallest_log_loss(scale: float) -> None:
    """Against a gradient method of PyTorch; the true one is the scale."""
    rows, logits = drawn(scale=scale)
    labels = pd.Index(TARGETS).get_indexer(rows["category"])
    found = calibration.fit_temperature(logits, labels)
    logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logarithm], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(
            torch.from_numpy(logits) / logarithm.exp(), torch.from_numpy(labels).long()
        )
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call, arg-type]
    assert found == pytest.approx(float(logarithm.detach().exp()), rel=1e-4)
    assert found == pytest.approx(scale, rel=0.15)


def test_a_temperature_that_can_not_be_fitted_is_one_or_an_end() -> None:
    assert calibration.fit_temperature(np.zeros((0, 3)), []) == 1.0
    assert calibration.fit_temperature(np.full((4, 3), 7.0), [0, 1, 2, 0]) == 1.0
    assert calibration.fit_temperature(np.eye(3) * 1e4, [0, 1, 2]) == 1.0  # sure, right, and no overflow
    right = calibration.fit_temperature(np.eye(3) * 0.5, [0, 1, 2])
    assert right == pytest.approx(1 / calibration.MAX_TEMPERATURE, rel=1e-3)
    assert calibration.fit_temperature(np.eye(3), [1, 2, 0]) == pytest.approx(calibration.MAX_TEMPERATURE, rel=1e-3)
    one_class = calibration.fit_temperature(np.random.default_rng(0).normal(size=(50, 3)), [1] * 50)
    assert 1 / calibration.MAX_TEMPERATURE <= one_class <= calibration.MAX_TEMPERATURE


def test_log_loss_and_calibration_error_are_scores_with_intervals() -> None:
    predictions = table(scale=2.0)
    scores = scoring.score(predictions, TASK).set_index("metric")
    assert scores.index[0] == "category_uar"
    shares = predictions[[f"prediction.{target}" for target in TARGETS]].to_numpy()
    truth = predictions["truth.category"]
    assert scores.loc["category_log_loss", "value"] == pytest.approx(
        reference_log_loss(truth, shares, labels=list(TARGETS))
    )
    order = np.argsort(shares.max(axis=1), kind="stable")  # no two are equal
    error = 0.0
    for inside in np.array_split(order, calibration.BINS):
        said, right = shares.max(axis=1)[inside], np.array(TARGETS)[shares.argmax(axis=1)[inside]] == truth.iloc[inside]
        error += len(inside) / len(order) * abs(said.mean() - right.mean())
    assert scores.loc["category_ece", "value"] == pytest.approx(error)
    correct = np.array(TARGETS)[shares.argmax(axis=1)] == truth
    assert calibration.expected_calibration_error(shares.max(axis=1), correct) == pytest.approx(error)
    for name in ("category_log_loss", "category_ece"):
        assert scores.loc[name, "lo_by_speaker"] < scores.loc[name, "value"] < scores.loc[name, "hi_by_speaker"]
    sample = bootstrap(scoring.statistics(predictions, TASK), resamples=3)["category_log_loss"]
    assert sample.nunique() == 3


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_interval_of_a_calibration_error_holds_its_value(scale: float) -> None:
    """Also of few clips and right shares, where most resamples have a larger error than the clips themselves."""
    scores = scoring.score(table(scale=scale), TASK).set_index("metric").loc["category_ece"]
    resampled = bootstrap(scoring.statistics(table(scale=scale), TASK))["category_ece"]
    assert 0 <= scores["lo"] <= scores["value"] <= scores["hi"]
    moved = resampled.quantile(0.975) - resampled.mean() + scores["value"]
    assert scores["hi"] == pytest.approx(moved)


def test_a_fitted_temperature_makes_shares_mean_what_they_say() -> None:
    """Over clips drawn from the true shares the error is what chance leaves."""
    sure, fitted = (scoring.score_epoch(table(4.0, temperature, 6_000), TASK) for temperature in (None, 4.0))
    assert fitted["category_log_loss"] < sure["category_log_loss"]
    assert fitted["category_ece"] < 0.03 < sure["category_ece"]
    assert fitted["category_uar"] == sure["category_uar"]
    difference = paired(table(4.0), table(4.0, 4.0), TASK).set_index("metric")
    assert difference.loc["category_log_loss", "wins"] > 0.99  # less is better
    assert difference.index[0] == "category_uar"


def test_equal_confidences_share_a_bin_whatever_their_order() -> None:
    correct = np.array([True, False, False, False])
    for order in (slice(None), slice(None, None, -1)):
        assert calibration.expected_calibration_error([0.4] * 4, correct[order]) == pytest.approx(0.15)
    assert math.isnan(calibration.expected_calibration_error([], []))
    assert math.isnan(calibration.log_loss([]))
    assert calibration.log_loss([0.0]) == pytest.approx(-math.log(calibration.LEAST_SHARE))


def test_what_are_no_shares_has_no_log_loss() -> None:
    names = [f"prediction.{target}" for target in TARGETS]
    for changed in (table().assign(**{names[0]: 0.5}), table().assign(**{names[0]: -0.1})):
        assert "category_log_loss" not in scoring.statistics(changed, TASK).names
    assert "category_log_loss" not in set(paired(table(), table().assign(**{names[0]: 0.5}), TASK)["metric"])
    intensities = table().drop(columns=["truth.category", "prediction.category"])
    assert not calibration.has_shares(intensities, TARGETS)


def test_groups_of_categories_are_scored_by_uar() -> None:
    predictions = table().assign(country=["Chile", "Kenya"] * 300)
    scores = scoring.score(predictions, TASK).set_index("metric")
    each = [
        recall_score(rows["truth.category"], rows["prediction.category"], average="macro", labels=sorted(present))
        for _, rows in predictions.groupby("speaker")
        for present in [set(rows["truth.category"])]
    ]
    assert scores.loc["category_uar_speaker_mean", "value"] == pytest.approx(np.mean(each))
    assert scores.loc["category_uar_lowest_speaker_decile", "value"] == pytest.approx(np.mean(sorted(each)[:4]))
    assert "category_uar_worst_country" in scores.index
    assert not [name for name in scores.index if name.startswith("emotion_ccc_")]


def test_the_prior_says_what_training_says() -> None:
    rows, _ = drawn()
    counts = rows["category"].value_counts(normalize=True)
    prior = prior_of(rows, TASK)
    assert {name: prior[name] for name in TARGETS} == pytest.approx(counts.to_dict())
    assert prior["category"] == counts.idxmax()
    constant = prior_predictions(table(), prior)
    scores = scoring.score_epoch(constant, TASK)
    assert scores["category_uar"] == pytest.approx(1 / 3)
    assert scores["category_log_loss"] == pytest.approx(-(counts * np.log(counts)).sum())  # the entropy
    assert scores["category_ece"] == pytest.approx(0, abs=1e-12)
    assert math.isnan(scores["emotion_ccc"])
    assert prior_of_table(table(), TASK) == prior
    multitask = pd.DataFrame({"Awe": [0.0, 0.5], "age": [20.0, 30.0], "country": ["b", "a"]})
    assert prior_of(multitask, Task("multitask", ("Awe",))) == {"Awe": 0.25, "age": 25.0, "country": "a"}


def test_better_than_the_prior_is_decided_by_speaker() -> None:
    predictions, prior = table(), prior_of(drawn()[0], TASK)
    over = over_prior(predictions, TASK, prior)
    expected = scoring.score_epoch(predictions, TASK)["category_uar"] - 1 / 3
    assert over.value == pytest.approx(expected)
    assert over.better
    assert over.low < over.value < over.high
    nothing = over_prior(prior_predictions(predictions, prior), TASK, prior)
    assert (nothing.value, nothing.low, nothing.high, nothing.better) == (0.0, 0.0, 0.0, False)
    shuffled = predictions.assign(
        **{"prediction.category": np.random.default_rng(1).permutation(predictions["prediction.category"])}
    )
    assert not over_prior(shuffled, TASK, prior).better
    unknown = over_prior(predictions.assign(speaker=""), TASK, prior)
    assert math.isnan(unknown.low)
    assert not unknown.better


def test_a_model_file_keeps_its_temperature_and_what_it_reaches(tmp_path: Path) -> None:
    rows, logits = drawn(scale=3.0)
    network, file = Network("cnn10", 3, 0.02), tmp_path / "best.safetensors"
    save_checkpoint(
        file, network, network.state_dict(), TASK, FeatureConfig(), "repeat", {"score": 0.5, "model": "cnn10"}
    )
    before = load_checkpoint(file)
    assert before.temperature is None
    assert reached_line(before.task, before.notes) == ""  # as of files of early versions
    scored = np.arange(len(rows)) % 7 > 0
    finished = finish(file, rows, logits, scored, "people it has not heard")
    after = load_checkpoint(file)
    labels = pd.Index(TARGETS).get_indexer(rows["category"])
    assert after.temperature == finished.temperature == calibration.fit_temperature(logits[scored], labels[scored])
    assert after.notes["accuracy"] == pytest.approx((logits.argmax(axis=1) == labels)[scored].mean())
    assert after.notes["model"] == "cnn10"
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), after.network.state_dict().values(), strict=True)
    )
    share = (logits.argmax(axis=1) == labels)[scored].mean()
    assert reached_line(after.task, after.notes) == (
        f"it names the right one of 3 categories in {share:.0%} of clips (UAR 0.50) on people it has not heard (val); "
        "chance is 33%"
    )


def test_intensities_are_shown_within_their_limits_and_scored_as_they_are() -> None:
    task = Task("fewshot", ("Awe", "Fear"), limits=(0.0, 0.9))
    outputs = np.array([[-0.2, 0.4], [1.3, 0.9]])
    assert task.answers(outputs).to_numpy().tolist() == [[0.0, 0.4], [0.9, 0.9]]
    clips = pd.DataFrame({"file": ["a", "b"], "Awe": [0.0, 1.0], "Fear": [0.1, 0.2]})
    assert task.table(clips, outputs)[["prediction.Awe", "prediction.Fear"]].to_numpy().tolist() == outputs.tolist()
    assert replace(task, limits=None).answers(outputs).to_numpy().tolist() == outputs.tolist()


def test_the_report_of_categories_shows_calibration_and_chance() -> None:
    predictions, rows = table(2.0, 2.0), drawn()[0]
    facts = RunFacts(
        model="cnn14",
        corpus="table",
        synthetic=False,
        split="test",
        run="r (abc)",
        digest="d1" * 32,
        warnings=[],
        options={"protocol": "strict"},
        commands="",
        epochs=pd.DataFrame(),
        prior=prior_of(rows, TASK),
        temperature=2.0,
        uncalibrated=0.987,
    )
    scores = scoring.score(predictions, TASK)
    page = report_page(predictions, scores, TASK, facts)
    row = scores.set_index("metric").loc["category_uar"]
    interval = f"{row['lo_by_speaker']:.1%} to {row['hi_by_speaker']:.1%}"
    assert page.lead == (
        f"cnn14 names the right one of 3 categories in {row['value']:.1%} of clips of 40 people that it has not heard "
        f"(each category counts alike; 95% interval {interval}); chance is 33.3%."
    )
    shown = next(section for section in page.sections if section.title == "Calibration")
    assert "without the temperature 0.987" in shown.text[0]
    assert "of the prior 1.0" in shown.text[0]
    assert "The temperature, 2.00, was fitted on the validation split." in shown.text[0]
    assert shown.numbers["n"].tolist() == [40] * 15
    assert ((shown.numbers["lo"] <= shown.numbers["y"]) & (shown.numbers["y"] <= shown.numbers["hi"])).all()
    (prior,) = [column for column in page.sections[0].table if column.title == "prior"]
    assert prior.cells[0] == "0.333"
    assert "reliability" in [picture.name for picture in shown.pictures]


@pytest.mark.usefixtures("store")
def test_served_and_loaded_shares_are_those_that_are_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_emogator(tmp_path / "corpus", speakers=5, categories=3)
    options = {"corpus": "emogator", "data": str(tmp_path / "corpus"), "model": "cnn10", "objective": "cross-entropy"}
    options |= {"epochs": "1", "width": "0.05", "protocol": "strict", "precision": "float32"}
    assert run_here("main", options, monkeypatch) == 0
    (run,) = MlflowClient().search_runs(["0"])
    checkpoint = models.checkpoint_of(run)
    assert checkpoint.temperature == pytest.approx(run.data.metrics["temperature"])
    assert run.data.metrics["val/category_log_loss"] <= run.data.metrics["val/category_log_loss_uncalibrated"] + 1e-9
    assert "test/category_log_loss_uncalibrated" in run.data.metrics
    prior = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/prior.json")
    assert prior["Adoration"] == pytest.approx(1 / 3)
    predictions = pd.read_parquet(
        mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/predictions/test.parquet")
    )
    columns = [f"prediction.{target}" for target in checkpoint.task.targets]
    clips = [(tmp_path / "corpus" / file).read_bytes() for file in predictions["file"]]
    served = answer_request(checkpoint, pd.DataFrame({"audio": clips}))
    assert served.pop("warnings").tolist() == [[]] * len(clips)
    np.testing.assert_allclose(served, predictions[columns], atol=1e-5)
    model = exvo.load(run.info.run_id, device="cpu")
    np.testing.assert_allclose(model.predict(clips), predictions[columns], atol=1e-5)
    assert f"(UAR {run.data.metrics['val/category_uar']:.2f})" in model.reaches
    uncalibrated = answer_request(replace(checkpoint, temperature=None), pd.DataFrame({"audio": clips}))
    assert np.abs(served - uncalibrated.drop(columns="warnings")).to_numpy().max() > 1e-4
    capsys.readouterr()
    audio = str(tmp_path / "corpus" / predictions["file"][0])
    assert run_here("predict", {"audio": audio, "model_uri": run.info.run_id}, monkeypatch) == 0
    assert f"(UAR {run.data.metrics['test/category_uar']:.2f}) on people it has not heard (test); chance is 3%" in (
        capsys.readouterr().out
    )
    assert run_here("compare", {"split": "test"}, monkeypatch) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| prior")]
    assert "| 0.3333 " in line
