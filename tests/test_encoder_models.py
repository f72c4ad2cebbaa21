"""Heads on a pretrained encoder: trained, evaluated, served, registered; its own folder is gone meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.pyfunc import load_model

import exvo
from exvo.errors import InputError
from exvo.experiments import embed, evaluate, register, reproduce, sync, train
from exvo.experiments.features import open_extractor
from exvo.networks.checkpoint import load_checkpoint
from exvo.settings import (
    EmbedSettings,
    EvaluateSettings,
    RegisterSettings,
    ReproduceSettings,
    SyncSettings,
    TrainSettings,
)
from exvo.tracking import encoders, models
from exvo.tracking.tags import MODEL_TAG

from helpers.commands import newest
from helpers.encoders import save_encoder
from helpers.networks import task_without_limits

TARGETS = ["High", "Loud"]


@dataclass(frozen=True)
class Heads:
    """Two trainings on one encoder, whose folder is gone since.

    Attributes:
        runs: of the trainings.
        options: of both.
        encoder: where the encoder's folder was; its copy lies beside it.
        paths: three clips of the test split.
        request: the same, as the served model takes them.
        expected: what `evaluate` said of them with the first head, (clips, targets).
    """

    runs: list[Run]
    options: dict[str, object]
    encoder: Path
    paths: list[Path]
    request: pd.DataFrame
    expected: np.ndarray

    @property
    def model(self) -> str:
        """The address of the first run's logged model."""
        return str(self.runs[0].data.tags[MODEL_TAG])

    def files(self, name: str) -> list[Path]:
        """The files of that name on the tracking server."""
        return sorted(Path("mlruns").rglob(name))


@pytest.fixture
def in_folder(heads: Heads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Works in the folder of the trainings, as in a new process."""
    monkeypatch.chdir(heads.encoder.parent)
    open_extractor.cache_clear()


@pytest.fixture(scope="module")
def heads(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heads]:
    folder = tmp_path_factory.mktemp("heads")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("exvo.experiments.train.make_task", task_without_limits)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        open_extractor.cache_clear()
        encoder = save_encoder("wav2vec2", folder / "encoder")
        options = {"corpus": "table", "data": str(tiny_corpus), "epochs": 1, "workers": 1, "model": "frozen"}
        options |= {"features": "./encoder"}
        runs = []
        for seed in (0, 1):
            train.run(TrainSettings(**options, seed=seed))  # type: ignore[arg-type]
            runs.append(newest())
        evaluate.run(EvaluateSettings(run_id=runs[0].info.run_id, split="test"))
        place = f"{newest().info.artifact_uri}/predictions/test.parquet"
        expected = pd.read_parquet(mlflow.artifacts.download_artifacts(place)).head(3)
        paths = [tiny_corpus / file for file in expected["file"]]
        request = pd.DataFrame({"audio": [path.read_bytes() for path in paths]})
        numbers = expected[[f"prediction.{target}" for target in TARGETS]].to_numpy()
        encoder.rename(folder / "away")
        yield Heads(runs, options, encoder, paths, request, numbers)
        mlflow.set_tracking_uri(None)
        open_extractor.cache_clear()


@pytest.mark.usefixtures("in_folder")
def test_two_heads_lie_beside_one_encoder(heads: Heads) -> None:
    assert len(heads.files("best.safetensors")) == 2
    assert len(heads.files("model.safetensors")) == 1
    assert len({run.data.tags[MODEL_TAG] for run in heads.runs}) == 2


@pytest.mark.usefixtures("in_folder")
def test_a_runs_model_takes_audio_where_the_encoders_folder_is_gone(heads: Heads) -> None:
    served = load_model(heads.model).predict(heads.request)
    np.testing.assert_allclose(served[TARGETS], heads.expected, atol=1e-4)
    run_id = heads.runs[0].info.run_id
    for model in (run_id, Path("output") / "runs" / run_id / "best.safetensors"):
        np.testing.assert_allclose(exvo.load(model).predict(heads.paths)[TARGETS], heads.expected, atol=1e-4)


@pytest.mark.usefixtures("in_folder")
def test_evaluate_and_embed_take_the_kept_encoder(
    heads: Heads, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = heads.runs[0].info.run_id
    for output in ("output", "elsewhere"):  # the features are in the store of the first alone
        evaluate.run(EvaluateSettings(run_id=run_id, split="test", output=output, workers=1))
        assert "takes the encoder that the artifact store keeps: features=./encoder" in capsys.readouterr().out
        place = f"{newest().info.artifact_uri}/predictions/test.parquet"
        table = pd.read_parquet(mlflow.artifacts.download_artifacts(place)).head(3)
        np.testing.assert_allclose(table[[f"prediction.{target}" for target in TARGETS]], heads.expected, atol=1e-4)
    reproduce.run(ReproduceSettings(run=run_id, workers=1))
    assert newest().data.tags["exvo.equal"] == "true"
    embed.run(EmbedSettings(run_id=run_id, split="val", workers=1))
    assert "embeddings of" in capsys.readouterr().out
    save_encoder("hubert", heads.encoder)  # another one in its place
    try:
        evaluate.run(EvaluateSettings(run_id=run_id, split="test", workers=1))
        assert "features=./encoder names another encoder now, states" in capsys.readouterr().out
    finally:
        shutil.rmtree(heads.encoder)
    open_extractor.cache_clear()
    monkeypatch.setattr(encoders, "EXPERIMENT", "another")
    with pytest.raises(InputError) as caught:
        evaluate.run(EvaluateSettings(run_id=run_id, split="test", workers=1))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("features=./encoder is neither a folder nor a name on the hub")
    assert "does not keep in its experiment another" in str(caught.value)
    with pytest.raises(InputError, match="is neither a folder nor a name on the hub"):
        train.run(TrainSettings(**heads.options))  # type: ignore[arg-type]


@pytest.mark.usefixtures("in_folder")
def test_a_registered_model_carries_its_encoder(heads: Heads, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = heads.runs[0].info.run_id
    for _ in range(2):  # the second time it renews the card alone
        register.run(RegisterSettings(run_id=run_id, gate="none"))
    assert len(heads.files("model.safetensors")) == 2
    champion = MlflowClient().get_model_version_by_alias("exvo-fewshot", "champion")
    assert champion.run_id == run_id
    monkeypatch.setattr(encoders, "EXPERIMENT", "another")
    served = load_model("models:/exvo-fewshot@champion").predict(heads.request)
    np.testing.assert_allclose(served[TARGETS], heads.expected, atol=1e-4)
    loaded = exvo.load("models:/exvo-fewshot@champion").predict(heads.paths)
    np.testing.assert_allclose(loaded[TARGETS], heads.expected, atol=1e-4)
    for load in (load_model, exvo.load):
        with pytest.raises(InputError, match="or take a registered model, which carries its encoder"):
            load(heads.model)  # type: ignore[operator]
    with pytest.raises(InputError, match="which carries its encoder"):
        register.run(RegisterSettings(run_id=heads.runs[1].info.run_id, gate="none"))


@pytest.mark.usefixtures("in_folder")
def test_a_model_of_an_early_version_carries_its_encoder(heads: Heads, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Path("output") / "runs" / heads.runs[0].info.run_id / "best.safetensors"
    with mlflow.start_run():
        uri = models._log(load_checkpoint(weights), weights, weights.parent / "encoder")
        mlflow.set_tag(MODEL_TAG, uri)
    run = newest()
    monkeypatch.setattr(encoders, "EXPERIMENT", "another")
    served = load_model(uri).predict(heads.request)
    np.testing.assert_allclose(served[TARGETS], heads.expected, atol=1e-4)
    np.testing.assert_allclose(exvo.load(run.info.run_id).predict(heads.paths)[TARGETS], heads.expected, atol=1e-4)
    assert models.whole_model(run) == uri


@pytest.mark.usefixtures("in_folder")
def test_an_encoder_waits_with_its_model_for_the_artifact_store(
    heads: Heads, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("the bucket is out of reach")

    options = heads.options | {"features": str(heads.encoder.parent / "away"), "seed": 2, "output": "third"}
    with monkeypatch.context() as patch:
        patch.setattr(encoders, "keep", away)
        train.run(TrainSettings(**options))  # type: ignore[arg-type]
    assert "is kept in" in capsys.readouterr().out
    run_id = newest().info.run_id
    assert MODEL_TAG not in newest().data.tags
    sync.run(SyncSettings(output="third"))
    assert len(exvo.load(run_id).predict(heads.paths)) == 3
