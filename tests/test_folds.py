"""Cross-validation as a command: its runs, its pooled scores, and how it goes on after it was cut."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from sklearn.metrics import recall_score

from exvo.config import POOLED
from exvo.errors import InputError
from exvo.tracking import artifacts, lookup, registry

from helpers.commands import at_epoch, equal, history, models, run_here, weights
from helpers.corpora import write_category_corpus

pytestmark = pytest.mark.usefixtures("store")

OPTIONS = {"model": "cnn10", "corpus": "table", "epochs": "2", "batch_size": "8", "width": "0.05", "folds": "3"}
OPTIONS |= {"learning_rate": "0.01", "precision": "float32"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("categories")
    write_category_corpus(folder)
    return folder


def runs_of_folds(parent: Run) -> list[Run]:
    """The runs beneath a cross-validation, by the number of their fold."""
    beneath = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    return sorted(MlflowClient().search_runs(["0"], beneath), key=lambda run: int(run.data.tags["exvo.fold"]))


def parents() -> list[Run]:
    """The runs of the commands, the first one first."""
    found = MlflowClient().search_runs(["0"], order_by=["attributes.start_time"])
    return [run for run in found if "exvo.folds" in run.data.tags]


def table_of(run: Run, name: str) -> pd.DataFrame:
    table = artifacts.load_table(run.info.run_id, name)
    assert table is not None
    return table


def check_folds(parent: Run, corpus: Path) -> None:
    """That each clip was predicted once, by a model that had not heard its speaker, and is in the score."""
    folds, clips = runs_of_folds(parent), pd.read_csv(corpus / "clips.csv")
    assert [run.info.status for run in [parent, *folds]] == ["FINISHED"] * 4
    assert [run.data.tags["exvo.fold"] for run in folds] == ["1", "2", "3"]
    assert {run.data.tags["exvo.corpus_digest"] for run in [parent, *folds]} == {parent.data.tags["exvo.corpus_digest"]}
    pooled = table_of(parent, "predictions/folds.parquet")
    assert pooled["file"].tolist() == clips["file"].tolist()
    for number, run in enumerate(folds, 1):
        test, val = (table_of(run, f"predictions/{split}.parquet") for split in ("test", "val"))
        assert not set(test["speaker"]) & set(val["speaker"])
        own = pooled[pooled["fold"] == number].drop(columns="fold").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, test)
        next_fold = pooled[pooled["fold"] == number % 3 + 1]
        assert set(val["file"]) == set(next_fold["file"])
        assert len(models(run)) == 1
    uar = recall_score(pooled["truth.category"], pooled["prediction.category"], average="macro", zero_division=0)
    assert parent.data.metrics["folds/category_uar"] == pytest.approx(uar)
    assert parent.data.metrics["folds/category_uar_lo_by_speaker"] <= uar
    assert not [name for name in parent.data.metrics if name.startswith(("test/", "val/", "epoch/"))]
    page = mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/report/folds.html")
    assert "all folds, each as a test split" in page


def test_a_cross_validation_that_was_cut_goes_on_and_gives_what_an_undisturbed_one_gives(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = OPTIONS | {"data": str(corpus)}
    made = MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)  # as `mlflow run` does
    assert run_here("main", options | {"output": "whole"}, monkeypatch) == 0
    (whole,) = parents()
    assert whole.info.run_id == made
    check_folds(whole, corpus)
    began: list[int] = []

    def cut() -> None:
        began.append(1)
        if len(began) == 2:  # the second fold
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        at_epoch(2, cut, patch)
        assert run_here("main", options, monkeypatch) == 130
    assert "Stopped; the same command goes on in the same run, in fold 2, from epoch 2." in capsys.readouterr().err
    assert [run.info.status for run in runs_of_folds(parents()[1])] == ["FINISHED", "KILLED"]
    assert run_here("main", options, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "fold 1 of 3 is done" in said
    assert [line[:9] for line in said.splitlines() if line.startswith("epoch ")] == [
        "epoch   2",
        "epoch   1",
        "epoch   2",
    ]
    _, run = parents()
    check_folds(run, corpus)
    assert history(run) == history(whole)
    for one, other in zip(runs_of_folds(run), runs_of_folds(whole), strict=True):
        assert history(one) == history(other)
        assert equal(weights(one), weights(other, "whole"))
    folders = [path.name for path in Path("output/runs").iterdir() if list(path.glob("folds/*"))]
    assert folders == []
    check_what_takes_no_folds(run, whole, monkeypatch, capsys)


def check_what_takes_no_folds(
    run: Run, other: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fold is found by its id alone; two cross-validations can be compared."""
    fold = runs_of_folds(run)[0]
    assert registry.conditions() == []
    with pytest.raises(InputError, match="no finished training run of a system of that name"):
        lookup.find_run("cnn10")
    assert lookup.find_run(fold.info.run_id).info.run_id == fold.info.run_id
    assert lookup.newest_runs(POOLED)["run_id"].tolist() == [run.info.run_id]
    capsys.readouterr()
    assert run_here("register", {"run_id": fold.info.run_id}, monkeypatch) == 2
    assert f"{fold.info.run_name} is fold 1 of a cross-validation" in capsys.readouterr().err
    assert run_here("evaluate", {"run_id": run.info.run_id}, monkeypatch) == 2
    assert f"{run.info.run_name} is a cross-validation, which has a model for each fold" in capsys.readouterr().err
    assert run_here("evaluate", {"run_id": fold.info.run_id, "split": "test"}, monkeypatch) == 0
    evaluated = MlflowClient().search_runs(["0"], order_by=["attributes.start_time DESC"])[0]
    for name, value in fold.data.metrics.items():
        if name.startswith("test/"):
            np.testing.assert_equal(evaluated.data.metrics[name], value)
    words = {"a": run.info.run_id, "b": other.info.run_id, "split": "folds"}
    capsys.readouterr()
    assert run_here("compare", words, monkeypatch) == 0
    assert "UAR" in capsys.readouterr().out
    assert run_here("compare", {"split": "folds"}, monkeypatch) == 0
    assert "all folds, each as a test split" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("entry_point", "options", "sentence"),
    [
        ("train", {"folds": "9"}, "folds=9, but the corpus table has 8 speakers with labelled clips"),
        ("train", {"folds": "2"}, "folds=2: of the folds one tests, one validates and the others train"),
        ("train", {"folds": "-1"}, "folds=-1 is out of range"),
        ("main", {"task": "speaker"}, "folds test a model on new speakers, of whom task=speaker knows none"),
        (
            "main",
            {"model": "cnn14-random-init-continued"},
            "weights from a run of cnn14-random-init: that run may have",
        ),
        ("train", {"init": "runs:/abc"}, "folds=3 with weights from runs:/abc: that run may have learnt"),
        ("tune", {"trials": "1"}, "folds=3: a study compares its trials on one validation split; leave folds out"),
    ],
)
def test_what_can_not_be_cross_validated(
    entry_point: str,
    options: dict[str, str],
    sentence: str,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_here(entry_point, OPTIONS | {"data": str(corpus)} | options, monkeypatch) == 2
    assert sentence in capsys.readouterr().err
    assert MlflowClient().search_runs(["0"]) == []


def test_a_table_without_splits_trains_and_says_how_it_is_split(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("extract", {"corpus": "table", "data": str(corpus)}, monkeypatch) == 0
    assert "splits     by speaker (the corpus has none of its own)" in capsys.readouterr().out
    run = MlflowClient().search_runs(["0"])[0]
    assert run.data.tags["exvo.splits"] == "by speaker"
    audit = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/audit.json")
    assert audit["assigned_splits"] == "by speaker (the corpus has none of its own)"


def test_each_speaker_is_left_out_and_listed_the_worst_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_category_corpus(tmp_path / "four", 4, 12)
    monkeypatch.setattr("exvo.experiments.folds.LONG", 0.0)
    options = OPTIONS | {"data": str(tmp_path / "four"), "folds": "speakers", "epochs": "1"}
    assert run_here("train", options, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "4 folds, each a training of 1 epochs at most" in said
    assert "at this pace 4 folds take about " in said
    (parent,) = parents()
    assert (parent.data.params["folds"], parent.data.tags["exvo.folds"]) == ("speakers", "4")
    folds = runs_of_folds(parent)
    tested = [set(table_of(run, "predictions/test.parquet")["speaker"]) for run in folds]
    assert sorted(next(iter(one)) for one in tested) == sorted(set(table["speaker"]))
    assert {len(one) for one in tested} == {1}
    listed = pd.read_csv(mlflow.artifacts.download_artifacts(f"{parent.info.artifact_uri}/folds.csv"))
    pooled = table_of(parent, "predictions/folds.parquet")
    for row in listed.to_dict("records"):
        own = pooled[pooled["speaker"] == row["speaker"]]
        uar = recall_score(own["truth.category"], own["prediction.category"], average="macro", zero_division=0)
        assert row["category_uar"] == pytest.approx(uar)
        assert (own["fold"] == row["fold"]).all()
    assert listed["category_uar"].is_monotonic_increasing
    assert set(listed["speaker"]) == set(table["speaker"])
    page = mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/report/folds.html")
    assert "Speakers, each left out" in page
    assert "of each speaker, the worst first" in page
    assert run_here("evaluate", {"run_id": folds[2].info.run_id, "split": "test"}, monkeypatch) == 0
    newest = MlflowClient().search_runs(["0"], order_by=["attributes.start_time DESC"])[0]
    assert newest.data.metrics["test/category_uar"] == folds[2].data.metrics["test/category_uar"]


def test_a_speaker_with_a_single_clip_can_not_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_category_corpus(tmp_path / "five", 5, 6)
    table = table[(table["speaker"] != "speaker3") | (table.groupby("speaker").cumcount() == 0)]
    table.to_csv(tmp_path / "five" / "clips.csv", index=False)
    options = OPTIONS | {"data": str(tmp_path / "five"), "folds": "speakers", "epochs": "1"}
    assert run_here("train", options, monkeypatch) == 2
    assert "a score takes two: speaker3; leave them out (where=speaker!=speaker3)" in capsys.readouterr().err
