"""Runs with predictions to compare: found, and read back."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pandas as pd
from mlflow.entities import Run

from exvo.errors import InputError
from exvo.evaluation import pairwise, results
from exvo.evaluation.pairwise import Scored
from exvo.evaluation.results import Condition
from exvo.options import command_line
from exvo.tracking import artifacts, lookup, names
from exvo.tracking.artifacts import artifact
from exvo.tracking.tags import CORPUS_TAG, DIGEST_TAG, ENTRY_TAG, EVALUATED_TAG, PROTOCOL_TAG, TASK_TAG

SPLIT = "val"
"""The split that chooses; the test split never does."""


def condition(run: Run) -> Condition:
    """Under which conditions a training run was validated."""
    names = (CORPUS_TAG, DIGEST_TAG, TASK_TAG, PROTOCOL_TAG)
    corpus, digest, task, protocol = (run.data.tags.get(name, "") for name in names)
    return Condition(corpus, digest, task, protocol, SPLIT)


def validated(run: Run) -> Scored:
    """A training run's predictions of the validation split.

    Raises:
        InputError: it has none.
    """
    predictions = artifacts.load_table(run.info.run_id, f"predictions/{SPLIT}.parquet")
    if predictions is None:
        raise InputError(
            f"The run {run.info.run_name} has no predictions of the {SPLIT} split, without which it can't be compared "
            "with the champion; train it again."
        )
    return Scored(run.info.run_name, condition(run), artifacts.load_settings(run)["options"]["shots"], predictions)


def evaluations(trained: Run, split: str) -> list[Run]:
    """The runs with predictions of a split under the options of training: itself, then its evaluations, newest first.

    Whether they do have predictions is left to `lookup.load_table`.
    """
    shots = artifacts.load_settings(trained)["options"]["shots"]
    found = looks(trained, "evaluate", f"tags.`{PROTOCOL_TAG}` = '{condition(trained).protocol}'")
    options = [(run, artifacts.load_settings(run)["options"]) for run in found]
    return [trained, *(run for run, own in options if (own["split"], own["shots"]) == (split, shots))]


def looks(trained: Run, entry_point: str, query: str = "") -> list[Run]:
    """The finished runs of an entry point that look at a training run, newest first; `query` narrows them."""
    of_it = f"tags.`{EVALUATED_TAG}` = '{trained.info.run_id}' and tags.`{ENTRY_TAG}` = '{entry_point}'"
    return names.search(f"{of_it} and attributes.status = 'FINISHED'{f' and {query}' if query else ''}")


def newest_curve(trained: Run) -> tuple[str, pd.DataFrame] | None:
    """The split and the table of the newest `enrolment-curve` of a training run; None where there is none."""
    for run in looks(trained, "enrolment-curve"):
        text = artifact(run, "enrolment/curve.csv")
        if text is not None:
            return artifacts.load_settings(run)["options"]["split"], pd.read_csv(io.StringIO(text))
    return None


def training(scored: Mapping[Any, Any]) -> dict[str, Any]:
    """How a scored run was trained: `run` (the training run's name), `evaluation` (its own, if another) and options.

    Args:
        scored: a row of `lookup.finished_runs`.
    """
    own = lookup.run_of_id(scored["run_id"])
    options, name, evaluation = artifacts.load_settings(own)["options"], scored["run"], ""
    if scored["evaluated_run"]:
        source = lookup.run_of_id(scored["evaluated_run"])
        options = artifacts.load_settings(source)["options"] | options
        name, evaluation = source.info.run_name, name
    return {"run": name, "evaluation": evaluation} | {option: options[option] for option in results.TRAINING}


def scored_run(source: Run, given: str, split: str) -> tuple[Scored, dict[str, Any]]:
    """A run's predictions of a split, its own or those of its newest evaluation, as a row of a table of results.

    Raises:
        InputError: it has not finished, it is no run of a system, or it has no predictions.
    """
    said = f"The run {source.info.run_name} ({given})"
    status = source.info.status
    if status != "FINISHED":
        ended = {"FAILED": "has failed", "KILLED": "was stopped"}.get(status, f"is {status.lower()}")
        raise InputError(f"{said} {ended}; give a run that has finished.")
    runs = lookup.finished_runs()
    known = runs[(runs["run_id"] == source.info.run_id) | (runs["evaluated_run"] == source.info.run_id)]
    if source.info.run_id not in set(known["run_id"]):
        raise InputError(f"{said} names no system; give a run that train, main or evaluate of this version has made.")
    own_first = known.sort_values("evaluated_run", key=lambda column: column == source.info.run_id, kind="stable")
    for row in own_first.to_dict("records"):
        about = row | training(row) | {"metrics": results.of_split(row["metrics"], split)}
        condition = results.make_condition((row[key] for key in results.KEYS), split)
        found = predictions_of(about | {"run": source.info.run_name}, condition)
        if found is not None:
            return found, about
    raise InputError(f"{said} {no_predictions(own_first.iloc[0].to_dict(), split)}")


def predictions_of(row: Mapping[Any, Any], condition: Condition) -> Scored | None:
    """The predictions of a run of a table of results; None where it has none of the condition's split."""
    predictions = artifacts.load_table(row["run_id"], f"predictions/{condition.split}.parquet")
    return None if predictions is None else pairwise.Scored(row["run"], condition, row["shots"], predictions)


def no_predictions(row: Mapping[Any, Any], split: str) -> str:
    """The end of a sentence about a run without predictions."""
    trained = row["evaluated_run"] or row["run_id"]
    again = command_line("evaluate", {"run_id": trained, "split": split})
    return f"has no predictions of the {split} split; write them with `{again}`."
