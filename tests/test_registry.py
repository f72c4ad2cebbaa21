"""What the registry decides, and which runs it takes, on runs made by hand."""

from __future__ import annotations

import math
import re
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from exvo.errors import InputError
from exvo.tracking import registry, runs, scored

from helpers.commands import run_by_hand

pytestmark = pytest.mark.usefixtures("store")


def make_run(name: str, status: str = "FINISHED", metric: float = 0.5, **tags: str) -> Run:
    """A run with the tags of a few-shot training run; a tag given as '' is left out."""
    every = {"entry_point": "train", "system": "cnn14-random-init", "task": "fewshot", "protocol": "published"}
    model = MlflowClient().create_logged_model("0")
    every |= {"corpus": "sample", "corpus_digest": "a1" * 32, "model_uri": f"models:/{model.model_id}"} | tags
    with run_by_hand(name) as active:
        mlflow.set_tags({f"exvo.{tag}": value for tag, value in every.items() if value})
        mlflow.log_metric("val/emotion_ccc", metric)
        split = "test" if every["entry_point"] == "evaluate" else "val"
        runs.log_settings({"shots": 2, "split": every.get("split", split)}, {})
        run_id = active.info.run_id
    MlflowClient().set_terminated(run_id, status)
    return MlflowClient().get_run(run_id)


@pytest.mark.parametrize(
    ("gate", "low", "high", "moves"),
    [
        ("not-worse", 0.01, 0.05, True),
        ("not-worse", -0.01, 0.05, True),
        ("not-worse", -0.05, 0.0, True),
        ("not-worse", -0.05, -0.01, False),
        ("better", 0.01, 0.05, True),
        ("better", 0.0, 0.05, False),
        ("better", -0.01, 0.05, False),
        ("better", -0.05, -0.01, False),
        ("none", -0.05, -0.01, True),
        ("none", math.nan, math.nan, True),
        ("not-worse", math.nan, math.nan, False),
        ("better", math.nan, math.nan, False),
    ],
)
def test_the_gate_weighs_the_interval(gate: str, low: float, high: float, moves: bool) -> None:
    decided, why = registry.decide(gate, (low + high) / 2, low, high)
    assert decided is moves
    if gate != "none" and not math.isnan(low):
        truth = {"below": high < 0, "above": low > 0}
        (where,) = re.findall(r"lies? (below|above) zero$", why)
        assert ("does not lie" in why) is not truth[where]


def test_an_undefined_difference_moves_nothing() -> None:
    assert registry.decide("not-worse", math.nan, 0.1, 0.2)[0] is False


def test_candidates_are_finished_few_shot_training_runs_with_a_score() -> None:
    kept = [make_run("plain"), make_run("trial", trial="3", study="a study")]
    make_run("running", status="RUNNING")
    make_run("killed", status="KILLED")
    make_run("modelless", model_uri="")
    make_run("multi", task="multitask")
    make_run("constant", metric=math.nan)
    (condition,) = registry.conditions()
    assert {run.info.run_name for run in registry.best_first(condition)} == {run.info.run_name for run in kept}
    for run in kept:
        registry.require_candidate(run)


@pytest.mark.parametrize(
    ("different", "told"),
    [
        ({"task": "multitask"}, "was trained for task=multitask; exvo-fewshot takes few-shot runs alone"),
        ({"task": "speaker"}, "was trained for task=speaker"),
        ({"task": ""}, "is no training run"),
        ({"evaluated_run": "abc", "entry_point": "evaluate"}, "trained nothing: it looks at the run abc"),
        ({"status": "RUNNING"}, "has not finished (it is running)"),
        ({"status": "FAILED"}, "has not finished (it is failed)"),
        ({"model_uri": ""}, "has logged no model"),
    ],
)
def test_other_runs_are_refused_with_what_they_are(different: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as refused:
        registry.require_candidate(make_run("odd", **different))
    assert told in str(refused.value)


def test_evaluations_under_the_options_of_training_the_newest_first() -> None:
    trained = make_run("trained")
    about = {"entry_point": "evaluate", "evaluated_run": trained.info.run_id, "model_uri": ""}
    old = make_run("old", **about)
    make_run("other protocol", protocol="strict", **about)
    make_run("other split", split="val", **about)
    make_run("failed", status="FAILED", **about)
    make_run("embedded", **about | {"entry_point": "embed"})
    new = make_run("new", **about)
    found = [run.info.run_id for run in scored.evaluations(trained, "test")]
    assert found == [run.info.run_id for run in (trained, new, old)]


def test_lineage_names_run_data_commit_study_and_trial() -> None:
    run = make_run("trial", trial="3", study="a study")
    MlflowClient().set_tag(run.info.run_id, "mlflow.parentRunId", "f" * 32)
    MlflowClient().set_tag(run.info.run_id, "git.commit", "c" * 40)
    assert registry.lineage(MlflowClient().get_run(run.info.run_id)) == {
        "exvo.run_id": run.info.run_id,
        "exvo.system": "cnn14-random-init",
        "exvo.corpus": "sample",
        "exvo.corpus_digest": "a1" * 32,
        "exvo.protocol": "published",
        "git.commit": "c" * 40,
        "exvo.study": "a study",
        "exvo.trial": "3",
        "exvo.study_run": "f" * 32,
        "exvo.val_emotion_ccc": "0.500000",
    }


def test_there_is_no_champion_to_begin_with() -> None:
    assert registry.champion() is None
    MlflowClient().create_registered_model(registry.MODEL)
    assert registry.champion() is None


def test_a_run_without_predictions_can_not_be_weighed() -> None:
    with pytest.raises(InputError, match="has no predictions of the val split"):
        scored.validated(make_run("bare"))
