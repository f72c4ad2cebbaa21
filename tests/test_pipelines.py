"""The entry points as a user types them, on tiny audio: through `mlflow run`, without it, and against a server."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from mlflow import MlflowClient

from exvo.networks.checkpoint import load_checkpoint
from exvo.training.objectives import ccc_loss

from helpers.commands import ROOT, run_here
from helpers.corpora import write_table_corpus
from helpers.processes import environment, started

pytestmark = pytest.mark.usefixtures("store")

SMALL = {"model": "cnn10", "corpus": "table", "epochs": "1", "batch_size": "4", "width": "0.1", "learning_rate": "0.01"}


def run_project(entry_point: str, options: dict[str, str], tracking_uri: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", entry_point, "--env-manager", "local"]
    words += [word for name, value in options.items() for word in ("-P", f"{name}={value}")]
    return subprocess.run(words, env=environment(tracking_uri), capture_output=True, text=True, check=False)


def test_mlflow_run_trains_and_logs_into_its_own_run(
    store: str, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder that is not the project's, with a corpus in it whose name begins with a dash."""
    shutil.copytree(tiny_corpus, tmp_path / "-clips")
    options = SMALL | {"data": "-clips", "output": str(tmp_path / "output"), "width": "0.10"}
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    done = run_project("train", options, store)
    assert done.returncode == 0, done.stderr
    (run,) = MlflowClient().search_runs([MlflowClient().get_experiment_by_name("elsewhere").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["data"] == "-clips"
    assert run.data.params["width"] == "0.10"  # as typed: mlflow logged it before the entry point started
    assert run.data.params["optimizer"] == "auto"
    assert run.data.tags["mlflow.project.entryPoint"] == "train"
    assert {"val/emotion_ccc", "val/emotion_ccc_lo", "val/emotion_ccc_hi_by_speaker"} <= set(run.data.metrics)
    assert "cnn10 on table, val split, 12 clips\nCCC " in done.stdout
    assert f"run    {run.info.run_name} ({run.info.run_id})" in done.stdout
    assert f" ui --backend-store-uri {store}`, then http://127.0.0.1:5000/#/experiments/" in done.stdout


@pytest.mark.slow
def test_mlflow_run_with_a_wrong_option_fails_with_a_sentence(store: str) -> None:
    done = run_project("train", {"epochs": "abc"}, store)
    assert done.returncode != 0
    assert "exvo: epochs=abc is not a whole number or auto." in done.stderr
    (run,) = MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED"


@pytest.mark.parametrize(
    ("entry_point", "options", "sentence"),
    [
        ("train", {"epochs": "abc"}, "epochs=abc is not a whole number or auto."),
        ("train", {"model": "cnn41"}, "model=cnn41 is not a known system; did you mean cnn14 or cnn10 or cnn5?"),
        (
            "extract",
            {"corpus": "emogator"},
            "corpus=emogator needs its folder: give data=<folder>; the README says how",
        ),
        ("main", {"corpus": "table", "data": "nowhere"}, "the folder nowhere of corpus table is not there"),
        ("evaluate", {"run_id": "nobody"}, "has no run of that id or name, and no"),
        ("train", {"model": "cnn14-audioset"}, "This system starts from PANNs weights: download"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_status_2(
    entry_point: str,
    options: dict[str, str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_here(entry_point, options, monkeypatch) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("exvo: ")]
    assert sentence in line


def test_status_2_without_a_traceback_in_a_process_of_its_own(store: str) -> None:
    words = [sys.executable, "-m", "exvo", "train", "--learning_rate", "fast"]
    done = subprocess.run(words, env=environment(store), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "exvo: learning_rate=fast is not a number or auto.\n"


@pytest.fixture
def damaged_corpus(tmp_path: Path) -> Path:
    """The tiny corpus with a missing, an empty, a silent, a too short, a too long and a NaN file."""
    folder = tmp_path / "damaged"
    write_table_corpus(folder, speakers=8)
    (folder / "s0-0.wav").unlink()
    (folder / "s0-1.wav").write_bytes(b"")
    (folder / "s2-0.wav").write_bytes(b"RIFF not audio at all")
    soundfile.write(folder / "s3-0.wav", np.zeros(16_000), 16_000)
    soundfile.write(folder / "s4-0.wav", np.full(160, 0.1), 16_000)
    soundfile.write(folder / "s5-0.wav", np.full(16_000 * 600, 0.1), 16_000)
    soundfile.write(folder / "s6-0.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    return folder


def test_unreadable_clips_are_all_listed_and_left_out_only_on_request(
    damaged_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = SMALL | {"data": str(damaged_corpus)}
    assert run_here("train", options, monkeypatch) == 2
    told = capsys.readouterr().err
    bad = ["s0-0.wav", "s0-1.wav", "s2-0.wav", "s3-0.wav", "s4-0.wav", "s5-0.wav", "s6-0.wav"]
    assert all(name in told for name in bad)
    assert "skip_unreadable=true" in told
    assert run_here("train", options | {"skip_unreadable": "true"}, monkeypatch) == 0
    run = MlflowClient().search_runs(["0"])[0]
    audit = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/audit.json")
    assert sorted(item["file"] for item in audit["unreadable"]) == bad
    predictions = pd.read_parquet(
        mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/predictions/val.parquet")
    )
    assert set(predictions["file"]).isdisjoint(bad)


def test_a_test_split_without_labels_is_predicted_but_not_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "unlabelled"
    table = write_table_corpus(folder, speakers=8)
    table.loc[table["split"] == "test", ["High", "Loud"]] = np.nan
    table.to_csv(folder / "clips.csv", index=False)
    assert run_here("main", SMALL | {"data": str(folder)}, monkeypatch) == 0
    assert "no labels to score against" in capsys.readouterr().out
    run = MlflowClient().search_runs(["0"])[0]
    assert not [name for name in run.data.metrics if name.startswith("test/")]
    found = pd.read_parquet(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/predictions/test.parquet"))
    assert found["prediction.High"].notna().all()


def test_a_loss_that_is_not_finite_says_where_the_best_weights_are(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The objective breaks in the second epoch: three batches make one."""
    calls = []

    def breaks(truth: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return ccc_loss(truth, prediction) * (1.0 if len(calls) <= 4 else math.nan)

    monkeypatch.setattr("exvo.training.objectives.ccc_loss", breaks)
    assert run_here("train", SMALL | {"data": str(tiny_corpus), "epochs": "3"}, monkeypatch) == 1
    told = capsys.readouterr().err
    assert re.search(r"exvo: The loss is nan in epoch 2 on the batch of (s\d-\d\.wav(, )?){4}\. Look at", told)
    (run,) = MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED"
    kept = Path("output/runs") / run.info.run_id / "best.safetensors"
    assert f"The best weights before it are in {kept}." in told
    assert load_checkpoint(kept).notes["epoch"] == 1


def test_a_split_without_readable_clips_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "novals"
    table = write_table_corpus(folder, speakers=8)
    for file in table.query("split == 'val'")["file"]:
        (folder / file).unlink()
    assert run_here("train", SMALL | {"data": str(folder), "skip_unreadable": "true"}, monkeypatch) == 2
    assert "Of the val split 0 readable clips are left" in capsys.readouterr().err


def test_training_never_looks_at_the_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other labels in the test split change nothing that training logs."""
    metrics, tables = [], []
    for name in ("before", "after"):
        folder = tmp_path / name
        table = write_table_corpus(folder, speakers=8)
        if name == "after":
            table.loc[table["split"] == "test", ["High", "Loud"]] = 0.123
            table.to_csv(folder / "clips.csv", index=False)
        assert run_here("train", SMALL | {"data": str(folder), "precision": "float32"}, monkeypatch) == 0
        run = MlflowClient().search_runs(["0"])[0]
        metrics.append(run.data.metrics)
        tables.append(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/scores/val.csv"))
    kept = [name for name in metrics[0] if name.startswith("val/") or name in ("epoch/loss", "epoch/emotion_ccc")]
    assert len(kept) > 7
    assert tables[0] == tables[1]
    assert not [name for name in metrics[0] if name.startswith("test/")]
    assert {name: metrics[0][name] for name in kept} == {name: metrics[1][name] for name in kept}


@pytest.mark.slow
def test_the_main_job_against_a_real_server(server: str, tiny_corpus: Path, tmp_path: Path) -> None:
    options = SMALL | {"data": str(tiny_corpus), "output": str(tmp_path / "output")}
    with started("main", options, server) as one:
        said, _ = one.communicate()
    assert one.returncode == 0, said
    (run,) = MlflowClient().search_runs(["0"])
    assert {"val/emotion_ccc_lo", "test/emotion_ccc_lo"} <= set(run.data.metrics)
    assert f"open   {server}/#/experiments/0/runs/{run.info.run_id}" in said
    shutil.rmtree(tmp_path / "output" / "runs")  # the weights come from the server
    with started("evaluate", {"run_id": run.info.run_name, "output": str(tmp_path / "output")}, server) as one:
        said, _ = one.communicate()
    assert one.returncode == 0, said
    found = MlflowClient().search_runs(["0"], "tags.`exvo.entry_point` = 'evaluate'")[0]
    assert found.data.metrics["test/emotion_ccc"] == pytest.approx(run.data.metrics["test/emotion_ccc"], abs=1e-6)
    clip = next(tiny_corpus.glob("*.wav")).read_bytes()
    model = mlflow.pyfunc.load_model(run.data.tags["exvo.model_uri"])
    assert list(model.predict(pd.DataFrame({"audio": [clip]}))) == ["High", "Loud", "warnings"]


def test_extract_skips_what_is_there(tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"corpus": "table", "data": str(tiny_corpus)}
    assert run_here("extract", options, monkeypatch) == 0
    shards = sorted(Path("output/features").rglob("*.arrow"))
    assert shards
    assert run_here("extract", options, monkeypatch) == 0
    assert sorted(Path("output/features").rglob("*.arrow")) == shards
