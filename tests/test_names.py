"""Names of files that are not UTF-8, wherever a file or a folder can be named: read, logged as escapes, saved."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from helpers.commands import run_here

pytestmark = pytest.mark.usefixtures("store")

ODD = os.fsdecode(b"caf\xe9")
"""In Latin-1. Beside it `café` in UTF-8 is another file."""

ESCAPED = r"caf\xe9"
SMALL = {"model": "cnn10", "corpus": "table", "epochs": "1", "batch_size": "4", "width": "0.05"}


@pytest.fixture
def trained(store: str, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose corpus and output folder have such names."""
    shutil.copytree(tiny_corpus, ODD)
    assert run_here("train", SMALL | {"data": ODD, "output": f"{ODD}-out"}, monkeypatch) == 0


@pytest.mark.usefixtures("trained")
def test_folders_of_corpus_and_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (run,) = MlflowClient().search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert run.data.params["data"] == ESCAPED
    assert run.data.params["output"] == f"{ESCAPED}-out"
    assert json.loads(run.inputs.dataset_inputs[0].dataset.source)["uri"] == ESCAPED
    settings = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/settings.json")
    assert settings["options"]["output"] == f"{ESCAPED}-out"
    assert list(Path(f"{ODD}-out/features").glob("*/*.arrow"))
    capsys.readouterr()
    assert run_here("evaluate", {"run_id": "cnn10", "data": ODD, "output": f"{ODD}-out"}, monkeypatch) == 0
    assert "is away" not in capsys.readouterr().out
    options = {"data": ODD, "output": f"{ODD}-out", "trials": "1", "search": "dropout", "storage": f"{ODD}.journal"}
    assert run_here("tune", SMALL | options, monkeypatch) == 0
    assert f"optuna-dashboard {ESCAPED}.journal" in capsys.readouterr().out.replace(ODD, ESCAPED)
    assert (tmp_path / f"{ODD}.journal").exists()
    assert run_here("sync", {"output": f"{ODD}-out"}, monkeypatch) == 0


@pytest.mark.usefixtures("trained")
def test_audio_and_tables(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("clips").mkdir()
    for name, source in ((f"{ODD}.wav", "s0-0.wav"), ("café.wav", "s0-1.wav")):
        shutil.copy(tiny_corpus / source, Path("clips") / name)
    Path(f"clips/{ODD}-bad.wav").write_text("no audio")
    capsys.readouterr()
    for ending, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        options = {"audio": "clips", "model_uri": "cnn10", "save": f"{ODD}{ending}", "enrolment": f"clips/{ODD}.wav"}
        assert run_here("predict", options, monkeypatch) == 2  # of one file's fault
        said = capsys.readouterr()
        assert rf"clips/{ESCAPED}-bad.wav: not audio" in said.err
        assert ESCAPED in said.out
        assert "is away" not in said.out
        assert read(io.BytesIO(Path(f"{ODD}{ending}").read_bytes()))["file"].tolist() == [
            "clips/café.wav",
            f"clips/{ESCAPED}.wav",
        ]
    run = MlflowClient().search_runs(["0"])[0]
    assert run.data.params["enrolment"] == f"clips/{ESCAPED}.wav"
    logged = pd.read_csv(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/predictions/audio.csv"))
    assert logged["file"].tolist() == ["clips/café.wav", f"clips/{ESCAPED}.wav"]
    assert run_here("predict", {"audio": f"clips/{ODD}.*", "model_uri": "cnn10"}, monkeypatch) == 0


@pytest.mark.parametrize(
    ("entry_point", "options"),
    [
        ("evaluate", {"run_id": ODD}),
        ("compare", {"a": ODD, "b": ODD}),
        ("compare", {"corpus": ODD}),
        ("register", {"corpus": ODD}),
        ("reproduce", {"run": ODD}),
        ("predict", {"audio": ODD, "model_uri": ODD}),
        ("predict", {"audio": ODD, "model_uri": f"models:/{ODD}@champion"}),
        ("submit", {"run_id": ODD, "check": ODD}),
        ("train", SMALL | {"data": ODD}),
        ("train", {"model": ODD}),
        ("tune", SMALL | {"data": ODD, "storage": ODD}),
    ],
)
def test_what_is_not_there_is_one_sentence(
    entry_point: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(entry_point, options, monkeypatch) == 2
    said = capsys.readouterr()
    assert "exvo: " in said.err
    assert "surrogates" not in said.err
    assert all(run.info.status == "FAILED" for run in MlflowClient().search_runs(["0"]))


def test_a_working_folder_that_mlflows_database_cannot_hold_is_one_sentence(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(ODD).mkdir()
    monkeypatch.chdir(ODD)
    assert run_here("train", SMALL | {"data": str(tiny_corpus)}, monkeypatch) == 2
    assert f"{ESCAPED} has a name that is not UTF-8, which MLflow's database can't hold" in capsys.readouterr().err
