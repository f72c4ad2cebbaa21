"""`tune` in this process, read back from MLflow and from Optuna: what a study runs, shows, repeats and refuses."""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from optuna.exceptions import StorageInternalError

from exvo.errors import InputError, TrainingError
from exvo.experiments import trials
from exvo.experiments import trials as trials_module
from exvo.training.states import Epoch
from exvo.tuning.study import Pruned, Trial

from helpers.commands import at_epoch, run_here
from helpers.reports import text_of
from helpers.studies import STUDY, new_study, trial_runs

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def options(tiny_corpus: Path) -> dict[str, str]:
    return STUDY | {"data": str(tiny_corpus)}


def test_a_study_goes_on_to_its_total_and_its_best_trial_can_be_repeated(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("tune", options | {"trials": "2"}, monkeypatch) == 0
    assert run_here("tune", options | {"trials": "4"}, monkeypatch) == 0
    capsys.readouterr()
    assert run_here("tune", options | {"trials": "4"}, monkeypatch) == 0  # nothing left: the best is printed again
    said = capsys.readouterr().out
    assert "\nepoch " not in said
    assert "number" not in said
    (parent,), trials = trial_runs()
    assert [run.data.tags["exvo.trial"] for run in trials] == ["0", "1", "2", "3"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *trials]} == {"FINISHED"}
    kept = new_study().trials
    assert [trial.user_attrs["run_id"] for trial in kept] == [run.info.run_id for run in trials]
    assert [trial.value for trial in kept] == [run.data.metrics["val/emotion_ccc"] for run in trials]
    assert [str(2 ** trial.params["log2_batch_size"]) for trial in kept] == [
        run.data.params["batch_size"] for run in trials
    ]
    top = max(trials, key=lambda run: run.data.metrics["val/emotion_ccc"])
    assert parent.data.tags["exvo.best_run"] == top.info.run_id
    assert parent.data.metrics["study/best_emotion_ccc"] == top.data.metrics["val/emotion_ccc"]
    assert parent.data.metrics["study/finished"] == 4
    assert parent.data.params["learning_rate"] == "0.0001 to 0.1, log"
    for run in trials:  # all that a training run logs
        number = int(run.data.tags["exvo.trial"])
        assert run.info.run_name == f"trial-{number:03d}-cnn10-relative-{run.info.run_id[:4]}"
        assert {"exvo.model_uri", "exvo.corpus_digest", "git.commit", "exvo.study"} <= set(run.data.tags)
        assert run.data.tags["exvo.trial_state"] == "finished"
        assert {"epoch/loss", "best_epoch", "val/emotion_ccc_lo_by_speaker"} <= set(run.data.metrics)
        artifacts = {item.path for item in MlflowClient().list_artifacts(run.info.run_id)}
        assert {"settings.json", "predictions", "scores", "environment.json"} <= artifacts
    page = mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/study.html")
    assert "4 finished" in page
    pictures = {item.path for item in MlflowClient().list_artifacts(parent.info.run_id, "study")}
    names = ("history", "importances", "parallel-coordinates", "slice-batch_size", "slice-learning_rate")
    assert {f"study/{name}.png" for name in names} | {"study/trials.csv", "study/trials.parquet"} <= pictures
    (again,) = re.findall(r"^again  \S*exvo train (.*)$", said, flags=re.MULTILINE)
    repeated = dict(word.removeprefix("--").split("=", 1) for word in shlex.split(again))
    assert run_here("train", repeated, monkeypatch) == 0
    newest = MlflowClient().search_runs(["0"], "tags.`exvo.entry_point` = 'train'", order_by=["start_time DESC"])[0]
    assert "exvo.trial" not in newest.data.tags
    assert newest.data.metrics["val/emotion_ccc"] == top.data.metrics["val/emotion_ccc"]


def test_the_best_trial_is_trained_with_other_seeds_which_go_on_where_they_were_cut(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options |= {"trials": "2", "model": "cnn10", "epochs": "2", "seed": "5", "seeds": "2", "precision": "float32"}
    begun = []

    def cut_the_second_seed() -> None:
        begun.append(1)
        if len(begun) == 4:  # two trials, two seeds
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        at_epoch(2, cut_the_second_seed, patch)
        assert run_here("tune", options, patch) == 130
    assert "the same command goes on where this one was" in capsys.readouterr().err
    assert run_here("tune", options, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "seed 6 is done" in said
    (parent,), trials = trial_runs()
    top = max(trials, key=lambda run: run.data.metrics["val/emotion_ccc"])
    (several,) = MlflowClient().search_runs(
        ["0"], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' and tags.`exvo.seeds` = '2'"
    )
    beneath = MlflowClient().search_runs(["0"], f"tags.`mlflow.parentRunId` = '{several.info.run_id}'")
    each = {run.data.tags["exvo.seed"]: run for run in beneath}
    assert sorted(each) == ["6", "7"]
    assert {run.info.status for run in [parent, several, *beneath]} == {"FINISHED"}
    for run in beneath:
        assert run.data.params["batch_size"] == top.data.params["batch_size"]
        assert run.data.params["learning_rate"] == top.data.params["learning_rate"]
    scores = [each[seed].data.metrics["val/emotion_ccc"] for seed in ("6", "7")]
    mean = sum(scores) / 2
    assert parent.data.metrics["study/seeds_emotion_ccc"] == pytest.approx(mean)
    assert several.data.metrics["val/emotion_ccc"] == pytest.approx(mean)
    assert (parent.data.params["seeds"], parent.data.tags["exvo.seeds_run"]) == ("2", several.info.run_id)
    page = text_of(mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/study.html"))
    assert f"With 2 other seeds its options reach {mean:.4f} on average." in page
    assert all(f"{score:.4f}" in page for score in scores)

    alone = dict(top.data.params) | {"seed": "7", "output": "alone", "data": options["data"]}
    kept = ("model", "corpus", "data", "epochs", "width", "batch_size", "learning_rate", "seed", "output", "precision")
    assert run_here("train", {name: alone[name] for name in kept}, monkeypatch) == 0
    newest = MlflowClient().search_runs(["0"], "tags.`exvo.entry_point` = 'train'", order_by=["start_time DESC"])[0]
    assert newest.data.metrics["val/emotion_ccc"] == scores[1]

    capsys.readouterr()
    assert run_here("tune", options, monkeypatch) == 0  # all is done: nothing is trained again
    said = capsys.readouterr().out
    assert "\nepoch " not in said
    assert f"trial {top.data.tags['exvo.trial']} with 2 other seeds: val CCC {mean:.4f} on average" in said
    assert run_here("tune", options | {"seed": str(2**31 - 2), "trials": "3"}, monkeypatch) == 2
    assert "the last seed would be over" in capsys.readouterr().err


def test_pruned_failed_and_undefined_trials_show_as_such(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes: Iterator[float | Exception] = iter(
        [0.25, Pruned(), TrainingError("The loss is nan."), math.nan, 0.3, RuntimeError("out of memory"), 0.5]
    )

    def train(settings, system, ready, run_id, watch):  # type: ignore[no-untyped-def]
        outcome = next(outcomes)
        weights = Path(settings.output) / "runs" / run_id / "exvo.safetensors"
        weights.parent.mkdir(parents=True)
        score = outcome if isinstance(outcome, float) else 0.1
        watch(Epoch(1, 1.0, 0.1, 1.0, score, True))
        if isinstance(outcome, Exception):
            raise outcome
        return Epoch(1, 1.0, 0.1, 1.0, score, True)

    monkeypatch.setattr(trials_module, "train", train)
    assert run_here("tune", options | {"trials": "4"}, monkeypatch) == 0
    (parent,), trials = trial_runs()
    told = [(run.info.status, run.data.tags["exvo.trial_state"], run.data.tags.get("exvo.problem")) for run in trials]
    undefined = "The validation score was undefined in every epoch, so there is nothing to compare."
    assert told == [
        ("FINISHED", "finished", None),
        ("KILLED", "pruned", None),
        ("FAILED", "failed", "The loss is nan."),
        ("FAILED", "failed", undefined),
        ("FINISHED", "finished", None),
        ("FAILED", "failed", "out of memory"),
        ("FINISHED", "finished", None),
    ]
    kept = new_study().trials
    assert [trial.state.name for trial in kept] == [
        "COMPLETE",
        "PRUNED",
        "FAIL",
        "FAIL",
        "COMPLETE",
        "FAIL",
        "COMPLETE",
    ]
    assert [trial.user_attrs.get("problem") for trial in kept] == [problem for *_, problem in told]
    assert kept[1].intermediate_values == {1: 0.1}
    assert not kept[3].intermediate_values
    metrics = parent.data.metrics
    assert (metrics["study/finished"], metrics["study/pruned"], metrics["study/failed"]) == (3, 1, 3)
    assert parent.data.tags["exvo.best_trial"] == "6"
    said = capsys.readouterr().out
    assert re.search(r"trial +4/4  number +6  finished +0\.5000  best 0\.5000 \(trial 6\)", said)
    assert said.count("The loss is nan.") == 1


@pytest.mark.parametrize(
    ("error", "status", "tried", "sentence"),
    [
        (TrainingError("It diverged."), 1, 3, "because 3 of its trials have failed; the last one: It diverged."),
        (InputError("The disk is full."), 2, 1, "exvo: The disk is full."),
    ],
)
def test_a_study_stops_where_going_on_is_useless(
    error: Exception,
    status: int,
    tried: int,
    sentence: str,
    options: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(*_: object) -> None:
        raise error

    monkeypatch.setattr(trials_module, "train", train)
    assert run_here("tune", options, monkeypatch) == status
    (parent,), trials = trial_runs()
    assert [run.info.status for run in [parent, *trials]] == ["FAILED"] * (tried + 1)
    assert sentence in capsys.readouterr().err


def test_a_storage_that_goes_away_is_said(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(*_: object) -> None:
        raise StorageInternalError("the server has closed the connection")

    def train(settings, system, ready, run_id, watch):  # type: ignore[no-untyped-def]
        monkeypatch.setattr(Trial, "end", report)
        report()

    monkeypatch.setattr(trials, "train", train)
    assert run_here("tune", options, monkeypatch) == 2
    said = capsys.readouterr().err
    assert (
        "exvo: storage=output/studies.journal can't be used any more (the server has closed the connection); " in said
    )
    assert {run.info.status for runs_of in trial_runs() for run in runs_of} == {"FAILED"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"search": "width,batch_sise"}, "batch_sise can't be searched; did you mean batch_size?"),
        (
            {"batch_size": "8", "search": "batch_size,width"},
            "batch_size=8, width=0.05: what is searched can't be given",
        ),
        ({"model": "cnn14-random-init-continued", "search": "dropout"}, "search=dropout: dropout can't be searched"),
        (
            {"model": "cnn14-attention-cnn10-multitask", "search": "mixup"},
            "mixup can't be searched for model=cnn14-attention-cnn10-multitask: a mixture of two people's clips has no",
        ),
        (
            {"search": "label_smoothing"},
            "search=label_smoothing: label_smoothing can't be searched for model=cnn10-relative: objective=ccc",
        ),
        ({"search": "weight_decay"}, "optimizer=sgd has none, only adamw has"),
        ({"model": "prior", "search": "learning_rate"}, "learning_rate can't be searched for model=prior: nothing of"),
        ({"storage": "studies.db"}, "storage=studies.db is neither a journal file"),
        ({"trials": "0"}, "trials=0 is out of range"),
        ({"data": "nowhere"}, "the folder nowhere of corpus table is not there"),
    ],
)
def test_a_users_mistake_leaves_no_study(
    given: dict[str, str],
    sentence: str,
    options: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_here("tune", options | given, monkeypatch) == 2
    assert sentence in capsys.readouterr().err
    assert trial_runs() == ([], [])
    assert not Path("output/studies.journal").exists()


def test_dropout_width_and_optimiser_reach_network_and_command(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def train(settings, system, ready, run_id, watch):  # type: ignore[no-untyped-def]
        assert system.dropout == settings.dropout
        seen.append((settings.width, settings.dropout, settings.optimizer))
        return Epoch(1, 1.0, 0.1, 1.0, float(len(seen)), True)

    monkeypatch.setattr(trials, "train", train)
    given = {name: value for name, value in options.items() if name != "width"}
    assert run_here("tune", given | {"search": "dropout,width,optimizer"}, monkeypatch) == 0
    assert seen[0] == (1.0, 0.2, "sgd")  # the system's own
    assert len(set(seen)) == 3
    width, dropout, optimizer = seen[-1]
    said = capsys.readouterr().out
    (again,) = re.findall(r"^again  (.*)$", said, flags=re.MULTILINE)
    assert {f"--width={width:g}", f"--dropout={dropout:g}"} <= set(shlex.split(again))
    assert optimizer == "sgd" or f"--optimizer={optimizer}" in shlex.split(again)
    assert trial_runs()[1][-1].data.params["dropout"] == f"{dropout:g}"
