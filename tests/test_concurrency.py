"""Four trainings and two studies at the same time, on an embedded store and on a server: all complete, all logged."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import load_file

from exvo.settings import TrainSettings, TuneSettings

from helpers.commands import artifacts
from helpers.processes import Process, started

pytestmark = pytest.mark.timeout(1200)  # half a minute on two idle cores

SMALL = {"corpus": "table", "epochs": "2", "width": "0.1", "precision": "float32"}
TRAININGS = ("cnn10", "cnn10", "cnn10-relative", "cnn10-relative")  # two of each, which must give the same
STUDIES = ("cnn10", "cnn10-film")
TRIALS = 2
LOGGED = {"settings.json", "environment.json", "audit.json"}


def start(entry_point: str, model: str, output: Path, corpus: Path, uri: str) -> Process:
    options = SMALL | {"model": model, "data": str(corpus), "output": str(output)}
    options |= {"trials": str(TRIALS)} if entry_point == "tune" else {"batch_size": "4", "learning_rate": "0.01"}
    return started(entry_point, options, uri)


def run_all_at_once(folder: Path, corpus: Path, uri: str) -> None:
    """Each of them with an output folder of its own."""
    kinds = [("train", model) for model in TRAININGS] + [("tune", model) for model in STUDIES]
    begun = [start(*kind, folder / f"output{number}", corpus, uri) for number, kind in enumerate(kinds)]
    said = [process.communicate(timeout=1000)[0] for process in begun]
    for process, text in zip(begun, said, strict=True):
        assert process.returncode == 0, text
        assert "Traceback" not in text
        assert "locked" not in text


def check_training(run: Run, output: Path) -> None:
    """That it has ended well and has logged all that a training logs, once."""
    client, run_id = MlflowClient(), run.info.run_id
    assert run.info.status == "FINISHED"
    assert {field.name for field in fields(TrainSettings)} <= set(run.data.params)
    assert len(run.inputs.dataset_inputs) == 1
    assert LOGGED | {"predictions/val.parquet", "scores/val.csv"} <= artifacts(run)
    for name in run.data.metrics:
        if not name.startswith("system/"):
            steps = [point.step for point in client.get_metric_history(run_id, name)]
            assert steps == ([1, 2] if name.startswith("epoch/") else [0]), name
    assert {"epoch/loss", "epoch/emotion_ccc", "best_epoch", "val/emotion_ccc"} <= set(run.data.metrics)
    scores = pd.read_csv(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/scores/val.csv"))
    values = dict(zip(scores["metric"], scores["value"], strict=True))
    logged = {name.removeprefix("val/") for name in run.data.metrics if name.startswith("val/")}
    logged = {name for name in logged if not re.search("_(lo|hi)(_by_speaker)?$", name)}  # columns there
    assert {"emotion_ccc", "emotion_mae"} <= logged
    assert logged < set(values)  # the table alone has the scores of each emotion
    for metric in logged:
        np.testing.assert_allclose(run.data.metrics[f"val/{metric}"], values[metric], rtol=1e-12, atol=0)
    assert json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/settings.json"))["options"]["epochs"] == 2
    place = client.get_logged_model(run.data.tags["exvo.model_uri"].rpartition("/")[2]).artifact_location
    logged = load_file(mlflow.artifacts.download_artifacts(f"{place}/artifacts/best.safetensors"))
    kept = load_file(output / "runs" / run_id / "best.safetensors")
    assert logged.keys() == kept.keys()
    assert all(bool((logged[name] == kept[name]).all()) for name in kept)


def check_all(folder: Path) -> None:
    """The runs on the tracking server, against what was started."""
    found = MlflowClient().search_runs(["0"], max_results=100)
    trials = [run for run in found if "exvo.trial" in run.data.tags]
    studies = [run for run in found if run.data.tags["exvo.entry_point"] == "tune"]
    trainings = [run for run in found if run not in trials + studies]
    outputs = {path.name: path.parent.parent for path in folder.glob("output*/runs/*")}
    assert len(trainings) == len(TRAININGS)
    assert len(studies) == len(STUDIES)
    assert len(trials) == len(STUDIES) * TRIALS
    for run in trainings + trials:
        check_training(run, outputs[run.info.run_id])
    losses: dict[str, set[tuple[float, ...]]] = {}
    for run in trainings:
        points = MlflowClient().get_metric_history(run.info.run_id, "epoch/loss")
        losses.setdefault(run.data.tags["exvo.system"], set()).add(tuple(point.value for point in points))
    assert [len(each) for each in losses.values()] == [1, 1]
    for run in studies:
        assert run.info.status == "FINISHED"
        assert {field.name for field in fields(TuneSettings)} <= set(run.data.params)
        assert LOGGED | {"study.html", "study/trials.csv"} <= artifacts(run)
        own = [trial for trial in trials if trial.data.tags["mlflow.parentRunId"] == run.info.run_id]
        assert sorted(trial.data.tags["exvo.trial"] for trial in own) == ["0", "1"]
        assert run.data.metrics["study/finished"] == TRIALS
        assert run.data.metrics["study/best_emotion_ccc"] == max(trial.data.metrics["val/emotion_ccc"] for trial in own)


@pytest.mark.slow
def test_on_one_embedded_store(store: str, tiny_corpus: Path, tmp_path: Path) -> None:
    run_all_at_once(tmp_path, tiny_corpus, store)
    check_all(tmp_path)


@pytest.mark.slow
def test_on_one_server(server: str, tiny_corpus: Path, tmp_path: Path) -> None:
    run_all_at_once(tmp_path, tiny_corpus, server)
    check_all(tmp_path)
