"""A transfer: each of several tables is trained on and all are tested on, and it goes on after it was cut."""

from __future__ import annotations

import math
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

from exvo.reports.transfer import transfer_verdict
from exvo.tracking import artifacts, lookup

from helpers.commands import at_epoch, run_here
from helpers.corpora import write_category_corpus, write_table_corpus
from helpers.reports import text_of

pytestmark = pytest.mark.usefixtures("store")

TINY = {"model": "cnn10", "corpus": "table", "epochs": "2", "batch_size": "8", "width": "0.05"}
TINY |= {"precision": "float32", "objective": "cross-entropy", "protocol": "published"}


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Two tables of joy, fear and awe, and of joy, fear and pain; and one whose categories nobody else has."""
    write_category_corpus(tmp_path / "near", 8, 6)
    for name, seconds, categories in (("far", 0.45, ("joy", "fear", "pain")), ("alone", 0.6, ("x", "y", "z"))):
        table = write_table_corpus(tmp_path / name, 6, 6, seconds).drop(columns=["split", "High", "Loud"])
        table["category"] = [categories[number % 3] for number in range(len(table))]
        table.to_csv(tmp_path / name / "clips.csv", index=False)
    return ",".join(str(tmp_path / name) for name in ("near", "far", "alone"))


def parent() -> Run:
    (found,) = MlflowClient().search_runs(["0"], "tags.`exvo.entry_point` = 'transfer'")
    return found


def beneath(run: Run) -> list[Run]:
    found = MlflowClient().search_runs(["0"], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    return sorted(found, key=lambda one: int(one.info.start_time))


def test_a_transfer_that_was_cut_goes_on_and_tests_each_model_on_all_tables(
    data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = []

    def cut_the_second_table() -> None:
        begun.append(1)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        at_epoch(2, cut_the_second_table, patch)
        assert run_here("transfer", TINY | {"data": data}, patch) == 130
    assert "goes on in the same run, in training 2, from epoch 2" in capsys.readouterr().err
    assert run_here("transfer", TINY | {"data": data}, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "near is done" in said
    run, children = parent(), beneath(parent())
    left_out = ["all but near", "all but far", "all but alone"]
    assert [one.data.tags["exvo.trained_on"] for one in children] == ["near", "far", "alone", *left_out]
    assert {one.info.status for one in [run, *children]} == {"FINISHED"}
    table = pd.read_csv(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/transfer.csv"))
    assert len(table) == 9 + 3
    rows = table.set_index(["trained_on", "tested_on"])
    for child, name in zip(children[:3], ("near", "far", "alone"), strict=True):
        assert child.info.run_id == rows.loc[(name, name), "run_id"]
        for other in ("near", "far"):
            if name == "alone":
                continue
            predictions = artifacts.load_table(child.info.run_id, f"transfer/{other}.parquet")
            assert predictions is not None
            assert set(predictions["speaker"].str.partition("/")[0]) == {other}
            expected = {"joy", "fear"} | ({{"near": "awe", "far": "pain"}[name]} if name == other else set())
            assert set(predictions["truth.category"]) == expected
            shares = predictions[[f"prediction.{category}" for category in expected]]
            assert np.allclose(shares.sum(axis=1), 1)
            uar = recall_score(predictions["truth.category"], predictions["prediction.category"], average="macro")
            row = rows.loc[(name, other)]
            assert row["value"] == pytest.approx(uar)
            assert (row["in_common"], row["chance"], row["n"]) == (
                len(expected), pytest.approx(1 / len(expected)), len(predictions),
            )  # fmt: skip
    for child, name in zip(children[3:5], ("near", "far"), strict=True):
        row = rows.loc[(f"all but {name}", name)]
        assert row["run_id"] == child.info.run_id
        learnt = artifacts.load_table(child.info.run_id, "corpus/learnt.parquet")
        predictions = artifacts.load_table(child.info.run_id, f"transfer/{name}.parquet")
        assert learnt is not None
        assert predictions is not None
        assert set(learnt["file"].str.partition("/")[0]) == {"near", "far", "alone"} - {name}
        assert set(predictions["file"].str.partition("/")[0]) == {name}
        assert set(predictions["truth.category"]) == {"joy", "fear"}
        uar = recall_score(predictions["truth.category"], predictions["prediction.category"], average="macro")
        assert (row["value"], row["n"]) == (pytest.approx(uar), len(predictions))
        assert row["speakers"] == predictions["speaker"].nunique() > 0
    assert "no categories in common" in rows.loc[("all but alone", "alone"), "why_not"]
    assert rows.loc[("near", "alone"), "n"] == 0
    assert "no categories in common" in rows.loc[("near", "alone"), "why_not"]
    page = text_of(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report/transfer.html"))
    assert "cnn10, trained and tested on 3 tables" in page
    assert "not scored" in page
    assert page.index("of the way from chance to perfect UAR") < page.index("Trained on, tested on")
    assert "all but that one" in said
    # no table of results has any of it, no name of a system means one of the runs; they are evaluated by their ids
    assert lookup.newest_runs("val").empty
    assert run_here("evaluate", {"run_id": "cnn10"}, monkeypatch) == 2
    assert run_here("evaluate", {"run_id": children[3].info.run_id}, monkeypatch) == 0
    (evaluation,) = MlflowClient().search_runs(["0"], "tags.`exvo.entry_point` = 'evaluate'")
    both = artifacts.load_table(evaluation.info.run_id, "predictions/test.parquet")
    assert both is not None
    assert set(both["corpus"]) == {"far", "alone"}
    MlflowClient().delete_run(evaluation.info.run_id)
    assert run_here("evaluate", {"run_id": children[1].info.run_id}, monkeypatch) == 0
    (evaluation,) = MlflowClient().search_runs(["0"], "tags.`exvo.entry_point` = 'evaluate'")
    assert evaluation.data.metrics["test/category_uar"] == pytest.approx(rows.loc[("far", "far"), "value"])


def test_the_sentence_that_sums_a_transfer_up() -> None:
    nan = math.nan
    cells = [  # trained on, tested on, UAR, chance, lower end by speaker and by clip
        ("a", "a", 0.60, 0.2, 0.5, 0.5),
        ("a", "b", 0.55, 0.5, 0.45, 0.52),
        ("b", "a", 0.70, 0.5, nan, 0.6),
        ("b", "b", 0.40, 0.2, 0.3, 0.3),
        ("all but a", "a", 0.80, 0.5, 0.7, 0.7),
        ("all but b", "b", nan, nan, nan, nan),
    ]
    columns = ["trained_on", "tested_on", "value", "chance", "lo_by_speaker", "lo"]
    table = pd.DataFrame(cells, columns=columns).assign(hi_by_speaker=0.9, hi=0.9, speakers=30)
    assert transfer_verdict(table, "category_uar", "svm") == (
        "svm goes 38% of the way from chance to perfect UAR on the table that it has learnt from (mean of 2), 25% on "
        "another table (mean of 2), 60% on a table that was left out, after learning from all others (mean of 1). 2 of "
        "3 scores on tables that were not learnt from are better than chance by their 95% interval."
    )
    few = transfer_verdict(table.assign(speakers=[2, 4, 0, 2, 9, 0]), "category_uar", "svm")
    assert few.startswith(transfer_verdict(table, "category_uar", "svm"))
    assert " The intervals by speaker resample 4 speakers; over fewer than 30 they are too narrow" in few
    assert transfer_verdict(table[5:], "category_uar", "svm") == "Nothing of svm could be scored."


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"folds": "3"}, "folds=3: each table is tested on its test split; leave folds out"),
        ({"task": "multitask", "objective": "auto"}, "task=multitask: tables have emotions in common alone"),
        ({"data": "near"}, "transfer trains on each of several tables; give two or more, as data=a.csv,b.csv"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: dict[str, str],
    sentence: str,
    data: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_here("transfer", TINY | {"data": data} | options, monkeypatch) == 2
    assert sentence in capsys.readouterr().err
    assert MlflowClient().search_runs(["0"]) == []
