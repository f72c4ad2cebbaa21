"""What a run leaves on the tracking server, read back from a real store; the model reloads in a clean process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from exvo.errors import InputError
from exvo.experiments import evaluate, train
from exvo.settings import EvaluateSettings, TrainSettings, automatic
from exvo.tracking import artifacts, runs

from helpers.commands import run_by_hand
from helpers.corpora import write_table_corpus
from helpers.networks import task_without_limits


@pytest.fixture(scope="module")
def trained(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A multitask training run on the tiny corpus, in a store of its own."""
    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("exvo.experiments.train.make_task", task_without_limits)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        settings = {"model": "cnn10", "task": "multitask", "corpus": "table", "data": str(tiny_corpus), "epochs": 2}
        train.run(TrainSettings(**settings, batch_size=4, width=0.1, learning_rate=0.01, output=str(folder / "output")))
        yield MlflowClient().search_runs(["0"])[0]
        mlflow.set_tracking_uri(None)


def test_options_code_and_environment_are_logged(trained) -> None:  # type: ignore[no-untyped-def]
    params, tags = trained.data.params, trained.data.tags
    assert trained.info.status == "FINISHED"
    resolved = {f"resolved.{name}" for name in automatic(TrainSettings)}
    assert set(params) == set(TrainSettings.__dataclass_fields__) | resolved
    assert (params["epochs"], params["batch_size"], params["width"], params["device"]) == ("2", "4", "0.1", "cpu")
    assert params["precision"] in ("bf16", "float32")
    assert params["fill"] == "repeat"
    assert tags["exvo.entry_point"] == "train"
    assert tags.get("git.dirty") in ("true", "false") or tags["git.commit"] == "none"
    environment = json.loads(mlflow.artifacts.load_text(f"{trained.info.artifact_uri}/environment.json"))
    assert environment["cores"] >= 1
    assert environment["libraries"]["torch"].startswith("2.11")


def test_epochs_and_final_scores_are_logged(trained) -> None:  # type: ignore[no-untyped-def]
    metrics = trained.data.metrics
    history = MlflowClient().get_metric_history(trained.info.run_id, "epoch/loss")
    assert [(metric.step, np.isfinite(metric.value)) for metric in history] == [(1, True), (2, True)]
    assert {"epoch/learning_rate", "epoch/s_mtl", "epoch/emotion_ccc"} <= set(metrics)
    assert metrics["val/emotion_ccc_lo"] <= metrics["val/emotion_ccc"] <= metrics["val/emotion_ccc_hi"]
    assert {"val/age_mae", "val/country_uar_lo_by_speaker"} <= set(metrics)
    assert "val/high_ccc" not in metrics
    scores = artifacts.scores(trained, "val")
    assert scores is not None
    assert {"high_ccc", "emotion_ccc_speaker_mean"} <= set(scores["metric"])
    assert not any(name.startswith("test/") for name in metrics)
    epochs = artifacts.history(trained.info.run_id)
    assert epochs.index.tolist() == [1, 2]
    assert epochs["loss"].tolist() == [metric.value for metric in history]


def test_dataset_audit_and_predictions_are_logged(trained, tiny_corpus: Path) -> None:  # type: ignore[no-untyped-def]
    (data,) = trained.inputs.dataset_inputs
    assert data.dataset.name == "table"
    assert trained.data.tags["exvo.corpus_digest"].startswith(data.dataset.digest)
    audit = json.loads(mlflow.artifacts.load_text(f"{trained.info.artifact_uri}/audit.json"))
    assert audit["splits"]["val"]["clips"] == 12
    settings = json.loads(mlflow.artifacts.load_text(f"{trained.info.artifact_uri}/settings.json"))
    assert settings["options"]["epochs"] == 2
    assert settings["features"]["hop"] == 160
    predictions = pd.read_parquet(
        mlflow.artifacts.download_artifacts(f"{trained.info.artifact_uri}/predictions/val.parquet")
    )
    table = pd.read_csv(tiny_corpus / "clips.csv").query("split == 'val'")
    assert predictions["file"].tolist() == table["file"].tolist()
    np.testing.assert_allclose(predictions["truth.High"], table["High"])


RELOAD = """
import sys, pandas as pd, mlflow
from pathlib import Path
model = mlflow.pyfunc.load_model(sys.argv[1])
files = Path(sys.argv[2]).read_text().split()
model.predict(pd.DataFrame({"audio": [Path(file).read_bytes() for file in files]})).to_json(sys.argv[3])
import exvo, exvo.training.loop
assert exvo.__file__ == f"{sys.argv[1]}/code/exvo/__init__.py", exvo.__file__
heavy = {"matplotlib", "optuna", "sklearn", "exvo.tracking.runs", "pipelines"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_model_reloads_in_a_clean_process_with_the_same_numbers(  # type: ignore[no-untyped-def]
    trained, tiny_corpus: Path, tmp_path: Path
) -> None:
    """Outside the project's folder, with the code that was logged beside the model and little else."""
    predictions = pd.read_parquet(
        mlflow.artifacts.download_artifacts(f"{trained.info.artifact_uri}/predictions/val.parquet")
    )
    (tmp_path / "files.txt").write_text("\n".join(str(tiny_corpus / file) for file in predictions["file"]))
    model = mlflow.artifacts.download_artifacts(trained.data.tags["exvo.model_uri"], dst_path=str(tmp_path))
    command = [sys.executable, "-c", RELOAD, model, str(tmp_path / "files.txt"), str(tmp_path / "answers.json")]
    subprocess.run(command, cwd=tmp_path, check=True)
    answers = pd.DataFrame(json.loads((tmp_path / "answers.json").read_text())).reset_index(drop=True)
    for name in ("High", "Loud", "age"):
        np.testing.assert_allclose(answers[name], predictions[f"prediction.{name}"], atol=1e-5)
    assert answers["country"].tolist() == predictions["prediction.country"].tolist()


def test_the_model_holds_no_pickle_and_has_an_example(trained) -> None:  # type: ignore[no-untyped-def]
    folder = Path(mlflow.artifacts.download_artifacts(trained.data.tags["exvo.model_uri"]))
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert "best.safetensors" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))]
    model = mlflow.pyfunc.load_model(str(folder))
    assert model.metadata.signature.outputs.input_names() == ["High", "Loud", "age", "country", "warnings"]
    assert model.metadata.signature.params.to_dict()[0]["name"] == "mode"
    assert len(model.predict(model.metadata.load_input_example(str(folder)))) == 1


def test_evaluate_scores_the_test_split_in_a_run_of_its_own(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    evaluate.run(EvaluateSettings(run_id=trained.info.run_name, output=str(tmp_path)))
    (found,) = MlflowClient().search_runs(["0"], "tags.`exvo.entry_point` = 'evaluate'", order_by=["start_time DESC"])
    assert found.data.params["run_id"] == trained.info.run_name
    assert {"test/emotion_ccc", "test/emotion_ccc_lo", "test/age_mae_hi_by_speaker"} <= set(found.data.metrics)


def test_evaluate_on_val_gives_the_numbers_of_training(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    evaluate.run(EvaluateSettings(run_id=trained.info.run_id, split="val", output=str(tmp_path)))
    found = MlflowClient().search_runs(["0"], "params.split = 'val'")[0]
    for name, value in trained.data.metrics.items():
        if name.startswith("val/"):
            assert found.data.metrics[name] == pytest.approx(value, abs=1e-6, nan_ok=True), (
                name
            )  # S_MTL: undefined below CCC 0


def test_evaluate_refuses_another_corpus_and_other_runs(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_table_corpus(tmp_path / "other", speakers=8, seconds=0.5)
    settings = EvaluateSettings(run_id=trained.info.run_id, data=str(tmp_path / "other"), output=str(tmp_path))
    before = len(MlflowClient().search_runs(["0"]))
    with pytest.raises(InputError, match="was trained on"):
        evaluate.run(settings)
    assert len(MlflowClient().search_runs(["0"])) == before  # a refused input leaves no run
    with pytest.raises(InputError, match="has no run of that id or name"):
        evaluate.run(EvaluateSettings(run_id="nobody"))
    with pytest.raises(InputError, match="run_id is empty"):
        evaluate.run(EvaluateSettings())
    with mlflow.start_run(run_name="bare"):
        pass
    with pytest.raises(InputError, match=r"has no settings\.json"):
        evaluate.run(EvaluateSettings(run_id="bare"))


def test_a_leftover_file_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="mlflow migrate-filestore"), runs.start_run("train"):
        pass


def test_the_same_corpus_in_two_runs_at_once_is_logged_in_both(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has logged it between MLflow's look and its insertion: the database refuses the second one."""
    asked: list[str] = []
    log_inputs = MlflowClient.log_inputs

    def refused_once(self: MlflowClient, run_id: str, *inputs: object) -> None:
        asked.append(run_id)
        if len(asked) == 1:
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id")
        log_inputs(self, run_id, *inputs)

    monkeypatch.setattr(MlflowClient, "log_inputs", refused_once)
    with run_by_hand() as active:
        runs.log_dataset(pd.DataFrame({"file": ["a.wav"]}), "table", Path("clips"), "a" * 64)
    (dataset,) = MlflowClient().get_run(active.info.run_id).inputs.dataset_inputs
    assert (dataset.dataset.name, asked) == ("table", [active.info.run_id] * 2)
