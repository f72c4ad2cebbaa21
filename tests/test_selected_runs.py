"""Commands on a table as others write it, and on one that does not say who speaks."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from exvo.text import NO_SPEAKERS
from exvo.tracking import artifacts

from helpers.commands import ROOT, newest, run_here
from helpers.corpora import write_category_corpus, write_public_table
from helpers.reports import text_of

pytestmark = pytest.mark.usefixtures("store")

TINY = {"model": "cnn10", "corpus": "table", "epochs": "1", "batch_size": "8", "width": "0.05"}
TINY |= {"precision": "float32", "objective": "cross-entropy"}
COLUMNS = "file:FileName,speaker:SpkrID,category:EmoClass,split:Split_Set"


def public(folder: Path) -> dict[str, str]:
    return {"data": str(folder / "labels" / "consensus.csv"), "root": str(folder / "Audios"), "columns": COLUMNS}


def text_artifact(run: Run, name: str) -> str:
    return str(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{name}"))


def documented() -> dict[str, str]:
    """The options of the command in docs/how-to/own-corpus.md that trains on such a table."""
    text = (ROOT / "docs" / "how-to" / "own-corpus.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^exvo main .*consensus(?:.*\\\n)+.*", text, re.MULTILINE)
    words = shlex.split(command.replace("\\\n", " "))[2:]
    return {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}


def test_the_public_table_of_the_docs_is_trained_on_and_evaluated_from_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "public"
    write_public_table(folder, clips=12)
    options = documented()
    assert (options["data"], options["root"], options["columns"]) == ("labels/consensus.csv", "Audios", COLUMNS)
    assert (options["labels"], options["where"]) == ("happy=H,sad=S,U=", "Gender=Female,seconds>=0.3")
    assert (options.pop("model"), options.pop("features")) == ("frozen", "compare2016")
    (tmp_path / "labels.txt").write_text("happy=H\nsad=S\nU=\n")
    options |= TINY | public(folder) | {"labels": f"@{tmp_path / 'labels.txt'}", "clips_per_speaker": "3"}
    assert run_here("main", options, monkeypatch) == 0
    said = capsys.readouterr().out
    selected = ["where Gender=Female: 36 of 72 clips left out", "H as happy (12 clips)", "S as sad (12 clips)"]
    selected += ["without U (12 clips)", "at most 3 clips of a speaker: 6 clips of 6 speakers left out"]
    selected += ["where seconds>=0.3: 0 of 18 clips left out"]
    assert all(f"selected   {phrase}\n" in said for phrase in selected)
    run = newest()
    logged = json.loads(text_artifact(run, "settings.json"))["options"]
    assert (logged["labels"], logged["columns"]) == ("happy=H,sad=S,U=", COLUMNS)
    audit = json.loads(text_artifact(run, "audit.json"))
    assert audit["selected"] == selected
    assert audit["categories"].keys() == {"happy", "sad"}
    report = text_of(text_artifact(run, "report/test.html"))
    assert "A part of the corpus: where Gender=Female: 36 of 72 clips left out; H as happy" in report
    predictions = artifacts.load_table(run.info.run_id, "predictions/test.parquet")
    assert predictions is not None
    assert set(predictions["truth.category"]) <= {"happy", "sad"}
    # what the run read is read again, wherever it lies now
    folder.rename(tmp_path / "moved")
    moved = {name: text for name, text in public(tmp_path / "moved").items() if name != "columns"}
    capsys.readouterr()
    assert run_here("evaluate", {"run_id": run.info.run_id, **moved}, monkeypatch) == 0
    metrics = newest().data.metrics
    assert metrics["test/category_uar"] == run.data.metrics["test/category_uar"]
    assert run_here("submit", {"run_id": run.info.run_id, "team": "a", **moved}, monkeypatch) == 2
    assert "was trained on a part of the corpus" in capsys.readouterr().err


def test_a_table_under_other_names_is_refused_with_the_mapping_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_public_table(tmp_path)
    assert run_here("extract", {"corpus": "table", "data": public(tmp_path)["data"]}, monkeypatch) == 2
    said = capsys.readouterr().err
    assert "give columns=file:FileName,speaker:SpkrID,category:EmoClass,split:Split_Set" in said
    missing = TINY | {"data": public(tmp_path)["data"], "labels": "@nowhere.txt"}
    assert run_here("train", missing, monkeypatch) == 2
    assert "labels=@nowhere.txt can't be read" in capsys.readouterr().err


def test_a_run_of_before_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings.json has none of the options."""
    folder = tmp_path / "own"
    write_category_corpus(folder)
    assert run_here("train", TINY | {"data": str(folder)}, monkeypatch) == 0
    run = newest()
    settings = json.loads(text_artifact(run, "settings.json"))
    for name in ("columns", "root", "splits", "labels", "where", "clips_per_speaker"):
        del settings["options"][name]
    MlflowClient().log_text(run.info.run_id, json.dumps(settings), "settings.json")
    assert run_here("evaluate", {"run_id": run.info.run_id, "split": "val"}, monkeypatch) == 0
    assert newest().data.metrics["val/category_uar"] == run.data.metrics["val/category_uar"]


@pytest.fixture
def nobody(tmp_path: Path) -> Path:
    """A corpus that does not say who speaks, nor has splits."""
    folder = tmp_path / "nobody"
    table = write_category_corpus(folder, 8, 6).drop(columns="speaker")
    table.to_csv(folder / "clips.csv", index=False)
    return folder


def test_without_speakers_nothing_is_claimed_for_strangers(
    nobody: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("main", TINY | {"data": str(nobody)}, monkeypatch) == 0
    said = capsys.readouterr().out
    assert f"warning: {NO_SPEAKERS}" in said
    assert "by speaker undefined" in said
    run = newest()
    assert run.data.tags["exvo.splits"] == "by clip"
    assert NO_SPEAKERS in run.data.tags["mlflow.note.content"]
    assert not [name for name in run.data.metrics if "speaker" in name]
    report = text_of(text_artifact(run, "report/test.html"))
    assert NO_SPEAKERS in " ".join(report.split())
    assert "that it has not heard" in report
    assert "people that" not in report
    scores = artifacts.scores(run, "test")
    assert scores is not None
    assert scores["lo_by_speaker"].isna().all()
    assert np.isfinite(scores.set_index("metric").loc["category_uar", "lo"])
    assert run_here("register", {"run_id": run.info.run_id}, monkeypatch) == 0
    assert "where the corpus does not say who speaks; gate=none asks for none" in capsys.readouterr().out
    card = MlflowClient().get_model_version("exvo-fewshot", "1").description
    assert f"**{NO_SPEAKERS}**" in card
    assert "resample" not in card


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": "cnn10-relative"}, "model=cnn10-relative needs to know who speaks (it adapts to a speaker"),
        ({"model": "cnn14-speaker-invariant"}, "(it tells training speakers apart)"),
        ({"task": "speaker", "objective": "auto"}, "task=speaker needs to know who speaks"),
        ({"folds": "3"}, "folds=3, but the corpus table does not say who speaks"),
        ({"clips_per_speaker": "3"}, "clips_per_speaker=3, but the corpus does not say who speaks"),
    ],
)
def test_what_needs_speakers_is_refused_with_the_reason(
    nobody: Path,
    options: dict[str, str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_here("train", TINY | {"data": str(nobody)} | options, monkeypatch) == 2
    assert sentence in capsys.readouterr().err
    assert MlflowClient().search_runs(["0"]) == []


def test_two_runs_without_speakers_are_compared_with_the_warning(
    nobody: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for seed in ("0", "1"):
        assert run_here("train", TINY | {"data": str(nobody), "seed": seed}, monkeypatch) == 0
        runs.append(newest().info.run_id)
    capsys.readouterr()
    assert run_here("compare", {"a": runs[0], "b": runs[1], "split": "val"}, monkeypatch) == 0
    assert NO_SPEAKERS in " ".join(capsys.readouterr().out.split())
