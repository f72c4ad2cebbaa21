"""A head on a pretrained encoder: trained, evaluated, and served with audio where the encoder's own folder is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc import load_model

import exvo
from exvo.errors import InputError
from exvo.experiments import evaluate, train
from exvo.experiments.features import open_extractor
from exvo.settings import EvaluateSettings, TrainSettings

from helpers.commands import newest
from helpers.encoders import save_encoder
from helpers.networks import task_without_limits


def test_a_head_on_an_encoder_is_served_without_the_encoders_folder(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("exvo.experiments.train.make_task", task_without_limits)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    open_extractor.cache_clear()
    try:
        source = save_encoder("wav2vec2", tmp_path / "encoder")
        options = {"corpus": "table", "data": str(tiny_corpus), "epochs": 1, "workers": 1, "model": "frozen"}
        train.run(TrainSettings(**options, features=str(source)))  # type: ignore[arg-type]
        run = newest()
        evaluate.run(EvaluateSettings(run_id=run.info.run_id, split="test"))
        place = f"{newest().info.artifact_uri}/predictions/test.parquet"
        expected = pd.read_parquet(mlflow.artifacts.download_artifacts(place)).head(3)
        numbers = expected[["prediction.High", "prediction.Loud"]].to_numpy()
        paths = [tiny_corpus / file for file in expected["file"]]
        shutil.rmtree(source)
        request = pd.DataFrame({"audio": [path.read_bytes() for path in paths]})
        served = load_model(run.data.tags["exvo.model_uri"]).predict(request)
        np.testing.assert_allclose(served[["High", "Loud"]], numbers, atol=1e-4)
        for model in (run.info.run_id, Path("output") / "runs" / run.info.run_id / "best.safetensors"):
            np.testing.assert_allclose(exvo.load(model).predict(paths)[["High", "Loud"]], numbers, atol=1e-4)
        open_extractor.cache_clear()
        with pytest.raises(InputError, match="is neither a folder nor a name on the hub"):
            train.run(TrainSettings(**options, features=str(source)))  # type: ignore[arg-type]
    finally:
        mlflow.set_tracking_uri(None)
        open_extractor.cache_clear()
