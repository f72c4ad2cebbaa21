"""Heads on functionals and on a run of ours: trained, evaluated, and served with audio, in entry points."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc import load_model

import exvo
from exvo.errors import InputError
from exvo.experiments import evaluate, train
from exvo.settings import EvaluateSettings, TrainSettings
from exvo.tracking.lookup import find_run

from helpers.commands import artifacts, newest
from helpers.networks import task_without_limits

TARGETS = ["High", "Loud"]


def check_served(options: dict[str, object], corpus: Path) -> str:
    """Trains a head, and compares what every way to give it audio says with what `evaluate` says; the run's id."""
    train.run(TrainSettings(**options))  # type: ignore[arg-type]
    run = newest()
    evaluate.run(EvaluateSettings(run_id=run.info.run_id, split="test"))
    place = f"{newest().info.artifact_uri}/predictions/test.parquet"
    expected = pd.read_parquet(mlflow.artifacts.download_artifacts(place)).head(3)
    numbers = expected[[f"prediction.{target}" for target in TARGETS]].to_numpy()
    paths = [corpus / file for file in expected["file"]]
    for model in (run.info.run_id, Path("output") / "runs" / run.info.run_id / "best.safetensors"):
        np.testing.assert_allclose(exvo.load(model).predict(paths)[TARGETS], numbers, atol=1e-4)
    served = load_model(run.data.tags["exvo.model_uri"])
    request = pd.DataFrame({"audio": [path.read_bytes() for path in paths]})
    np.testing.assert_allclose(served.predict(request)[TARGETS], numbers, atol=1e-4)
    return run.info.run_id


def test_heads_on_functionals_and_on_a_run_are_served_as_they_are_evaluated(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("exvo.experiments.train.make_task", task_without_limits)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        options = {"corpus": "table", "data": str(tiny_corpus), "epochs": 1, "workers": 1}
        head = options | {"model": "frozen"}
        functionals = check_served(head | {"features": "egemaps"}, tiny_corpus)
        train.run(TrainSettings(**options, model="cnn10", width=0.05))  # type: ignore[arg-type]
        encoder = newest()
        embeddings = check_served(head | {"features": encoder.info.run_name}, tiny_corpus)
        assert find_run(embeddings).data.params["features"] == encoder.info.run_id
        assert "encoder/best.safetensors" in {
            path.relative_to(Path("output") / "runs" / embeddings).as_posix()
            for path in (Path("output") / "runs" / embeddings).rglob("*")
        }
        assert "settings.json" in artifacts(find_run(functionals))
        with pytest.raises(InputError, match="trained on functionals; only runs on log-mel"):
            train.run(TrainSettings(**head, features=functionals))  # type: ignore[arg-type]
        with pytest.raises(InputError, match="features=egemap is not a known kind"):
            train.run(TrainSettings(**head, features="egemap"))  # type: ignore[arg-type]
    finally:
        mlflow.set_tracking_uri(None)
