"""`reproduce`: a run repeated from what it logged is equal bit for bit, and what differs is said."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import load_file

from exvo.experiments.repetition import Outcome, changes, compare_outcomes, digest, outcome_text
from exvo.training import loop

from helpers.commands import history, newest, run_here
from helpers.corpora import write_table_corpus

SMALL = {"model": "cnn10-relative", "corpus": "table", "epochs": "2", "batch_size": "4", "width": "0.1"}
SMALL |= {"learning_rate": "0.01"}


@pytest.fixture
def options(tiny_corpus: Path, store: str) -> dict[str, str]:
    return SMALL | {"data": str(tiny_corpus)}


def weights(run: Run) -> dict[str, bytes]:
    """The weights' bits, read without exvo."""
    tensors = load_file(Path("output/runs") / run.info.run_id / "best.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets PyTorch's threads; they are as before when the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_a_run_is_repeated_bit_for_bit(
    options: dict[str, str],
    threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the threads that it had, by default those of the environment that the command is typed in."""
    threads(2)
    assert run_here("main", options, monkeypatch) == 0
    first = newest()
    threads(1)
    assert run_here("reproduce", {"run": first.info.run_id}, monkeypatch) == 0
    said = capsys.readouterr().out
    again = newest()
    assert again.data.tags["exvo.repeats"] == first.info.run_id != again.info.run_id
    assert again.data.tags["exvo.equal"] == "true"
    assert again.data.tags["exvo.entry_point"] == "main"
    assert weights(again) == weights(first)
    assert history(again) == history(first)
    assert {"epoch/loss", "val/emotion_ccc", "test/emotion_ccc", "best_epoch"} <= set(history(again))
    params = first.data.params | {"workers": "auto"}
    assert again.data.params == params
    assert "Equal, bit for bit." in said
    assert "differs" not in said.lower()
    assert mlflow.artifacts.load_dict(f"{again.info.artifact_uri}/environment.json")["threads"] == 2
    lines = mlflow.artifacts.download_artifacts(f"{again.info.artifact_uri}/repetition/outcome.csv")
    assert (pd.read_csv(lines)["difference"] == 0).all()


def test_what_differs_is_said_with_what_may_be_the_reason(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("train", options, monkeypatch) == 0
    first = newest()
    made = loop.make_optimizer
    monkeypatch.setattr(loop, "make_optimizer", lambda *words: halved(made(*words)))
    monkeypatch.setattr("exvo.tracking.provenance.version", lambda name: "9.9")
    assert run_here("reproduce", {"run": first.info.run_name}, monkeypatch) == 1
    said = capsys.readouterr().out
    again = newest()
    assert again.info.status == "FINISHED"
    assert again.data.tags["exvo.equal"] == "false"
    assert weights(again) != weights(first)
    assert "Not equal: " in said
    (line,) = [line for line in said.splitlines() if line.startswith("val/emotion_ccc ")]
    scores = [run.data.metrics["val/emotion_ccc"] for run in (first, again)]
    first_score, score = (re.escape(f"{score:.6g}") for score in scores)
    difference = re.escape(f"{abs(scores[0] - scores[1]):.2g}")
    assert re.fullmatch(rf"val/emotion_ccc +{first_score} +{score} +differs by up to {difference}", line)
    assert any(line.split() == ["torch", version("torch"), "9.9"] for line in said.splitlines())


def halved(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser with half of its step size."""
    for group in optimizer.param_groups:
        group["lr"] /= 2
    return optimizer


def test_a_trial_is_repeated_with_what_it_tried(options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    search = {name: value for name, value in options.items() if name not in ("batch_size", "learning_rate")}
    assert run_here("tune", search | {"trials": "2"}, monkeypatch) == 0
    study = (
        newest()
        if "exvo.trial" not in newest().data.tags
        else MlflowClient().get_run(newest().data.tags["mlflow.parentRunId"])
    )
    (trial,) = MlflowClient().search_runs(["0"], "tags.`exvo.trial` = '1'")
    assert run_here("reproduce", {"run": trial.info.run_id}, monkeypatch) == 0
    again = newest()
    assert again.data.tags["exvo.equal"] == "true"
    assert "exvo.trial" not in again.data.tags
    assert again.data.params["learning_rate"] == trial.data.params["learning_rate"] != "0.001"
    assert study.data.tags["exvo.entry_point"] == "tune"
    assert run_here("reproduce", {"run": study.info.run_id}, monkeypatch) == 2


def test_a_continued_run_starts_from_the_very_same_run(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`init` may name a system, whose newest run is another one by now."""
    assert run_here("train", options, monkeypatch) == 0
    parent = newest()
    assert run_here("train", options | {"init": "runs:/cnn10-relative"}, monkeypatch) == 0
    continued = newest()
    assert continued.data.tags["exvo.parent_run"] == parent.info.run_id
    assert run_here("reproduce", {"run": continued.info.run_id}, monkeypatch) == 0
    assert newest().data.tags["exvo.parent_run"] == parent.info.run_id
    MlflowClient().delete_run(parent.info.run_id)
    capsys.readouterr()
    assert run_here("reproduce", {"run": continued.info.run_id}, monkeypatch) == 2
    said = capsys.readouterr().err
    assert "started from the weights of another run. The run " in said
    assert " is deleted; `" in said
    assert f"mlflow runs restore --run-id {parent.info.run_id}` restores it." in said


def test_what_cannot_be_repeated_is_refused_before_anything_is_made(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "corpus"
    table = write_table_corpus(folder, speakers=8)
    given = SMALL | {"model": "cnn10", "epochs": "1", "data": str(folder)}
    assert run_here("train", given, monkeypatch) == 0
    first = newest()
    assert run_here("evaluate", {"run_id": first.info.run_id}, monkeypatch) == 0
    evaluated = newest()
    moved = shutil.copytree(folder, tmp_path / "moved")
    table.loc[0, "High"] = 0.5
    table.to_csv(folder / "clips.csv", index=False)
    count = len(MlflowClient().search_runs(["0"]))
    capsys.readouterr()
    for run, sentence in (
        (first.info.run_id, f"but the run {first.info.run_name} was trained on"),
        (evaluated.info.run_id, f"trains nothing; give the training run, run={first.info.run_id}."),
        ("nobody", "run=nobody: the tracking server"),
        ("", "run is empty"),
    ):
        assert run_here("reproduce", {"run": run}, monkeypatch) == 2
        assert sentence in capsys.readouterr().err
    assert len(MlflowClient().search_runs(["0"])) == count
    elsewhere = {"run": first.info.run_id, "data": str(moved), "output": "fresh"}
    for change in ({"options": {"optimism": 1}}, {"features": {"bands": 65}}):
        change_settings(first, change)
        assert run_here("reproduce", elsewhere, monkeypatch) == 2
        assert "was made by another version of exvo; this one" in capsys.readouterr().err
        change_settings(first, {"options": {"optimism": None}, "features": {"bands": 64}})
    assert len(MlflowClient().search_runs(["0"])) == count
    assert run_here("reproduce", elsewhere, monkeypatch) == 0


KEPT = ("workers",)
"""Options that are None when they are auto."""


def change_settings(run: Run, change: dict[str, dict[str, object]]) -> None:
    """Writes other settings into the run's settings.json; None takes one away."""
    settings = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/settings.json")
    for part, values in change.items():
        settings[part] = {
            name: one for name, one in (settings[part] | values).items() if one is not None or name in KEPT
        }
    MlflowClient().log_dict(run.info.run_id, settings, "settings.json")


def outcome() -> Outcome:
    return Outcome(
        weights={"a": torch.tensor([1.0, -0.0]), "b": torch.tensor([3])},
        epochs=pd.DataFrame({"loss": [0.5, 0.25], "ccc": [math.nan, 0.125], "seconds": [1.0, 2.0]}, index=[1, 2]),
        metrics={"val/ccc": 0.125, "val/mae": math.nan, "best_epoch": 2.0, "valuable/ccc": 7.0},
        predictions={
            "val": pd.DataFrame({"file": ["x", "y"], "prediction.a": [0.1, math.nan], "scored": [True, True]})
        },
    )


def differences(first: Outcome, again: Outcome) -> dict[str, float]:
    """The lines that differ, and by how much."""
    found = compare_outcomes(first, again, "ccc")
    return {row.what: row.difference for row in found.itertuples() if row.difference != 0}


def test_every_part_of_an_outcome_is_compared_to_the_last_bit() -> None:
    first = outcome()
    assert differences(first, outcome()) == {}
    smallest = np.nextafter(np.float64(0.125), 1)
    step = float(smallest - 0.125)
    other = replace(first, metrics=first.metrics | {"val/ccc": float(smallest)})
    assert differences(first, other) == {"val/ccc": step, "all val scores": step}
    assert differences(first, replace(first, metrics=first.metrics | {"val/mae": 0.0})) == {"all val scores": math.inf}
    assert differences(first, replace(first, metrics=first.metrics | {"best_epoch": 1.0})) == {"best epoch": 1.0}
    assert differences(first, replace(first, epochs=first.epochs.assign(seconds=9.0))) == {}
    assert differences(first, replace(first, epochs=first.epochs[:1])) == {
        f"{name} of every epoch (last)": math.inf for name in ("loss", "ccc")
    }
    values = first.weights | {"a": torch.tensor([1.5, 0.0])}
    assert differences(first, replace(first, weights=values)) == {"weights, SHA-256": 0.5}
    assert differences(first, replace(first, weights=first.weights | {"a": torch.tensor([1.0, 0.0])})) == {
        "weights, SHA-256": math.inf  # the bits of 0 and -0
    }
    assert differences(first, replace(first, weights={"a": first.weights["a"]})) == {"weights, SHA-256": math.inf}
    table = first.predictions["val"]
    for change, gap in (
        ({"prediction.a": [0.3, math.nan]}, 0.3 - 0.1),
        ({"file": ["y", "x"]}, math.inf),
        ({"scored": [True, False]}, math.inf),
        ({"prediction.b": [0.0, 0.0]}, math.inf),
    ):
        other = replace(first, predictions={"val": table.assign(**change)})
        assert differences(first, other) == {"val predictions": gap}
    assert differences(first, replace(first, predictions={})) == {"val predictions": math.inf}


def test_a_digest_knows_names_types_and_shapes() -> None:
    every = [{"a": torch.zeros(4)}, {"b": torch.zeros(4)}, {"a": torch.zeros(2, 2)}, {"a": torch.zeros(4).int()}, {}]
    assert len({digest(one) for one in every}) == len(every)
    assert digest({"a": torch.ones(1), "b": torch.zeros(1)}) == digest({"b": torch.zeros(1), "a": torch.ones(1)})


def test_changes_of_the_environment() -> None:
    old = {"processor": "P", "memory_gib": 1.0, "gpus": [], "libraries": {"torch": "1", "numpy": "2"}}
    new = old | {"memory_gib": 2.0, "threads": 4, "libraries": {"torch": "3", "numpy": "2"}}
    found = changes(old, new)
    assert found.to_numpy().tolist() == [["threads", "not logged", "4"], ["torch", "1", "3"]]
    same = compare_outcomes(outcome(), outcome(), "ccc")
    assert "threads" in outcome_text(same, found)
    assert outcome_text(same, found[:0]).endswith("Equal, bit for bit.")
    other = compare_outcomes(outcome(), replace(outcome(), metrics={}), "ccc")
    assert outcome_text(other, found[:0]).endswith("Nothing that is logged of machine, libraries and code differs.")
