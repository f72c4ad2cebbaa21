"""In which experiment of the tracking server a run stands.

Trainings and studies stand in that of their corpus and task, what looks at one run beside that run, all else in
`UTILITIES`. Under `mlflow run` MLflow has made the run already, where its launcher says.
"""

from __future__ import annotations

import os
import re

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from exvo.errors import InputError
from exvo.options import launched_run
from exvo.settings import TrainSettings
from exvo.tracking import names, server
from exvo.tracking.tags import CORPUS_TAG, TASK_TAG

UTILITIES = "exvo/utilities"
"""Of runs that train nothing and do not look at one training alone: audits, comparisons, predictions."""

DEFAULT = "0"
"""The id of MLflow's own experiment."""

VARIABLES = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")
"""By which a user has MLflow put all runs into one experiment."""


def unless_chosen(name: str) -> str:
    """The name of an experiment; empty where a variable says another one, which MLflow reads."""
    return "" if any(os.environ.get(variable) for variable in VARIABLES) else name


def of_training(settings: TrainSettings) -> str:
    """The name of the experiment of a training or a study; empty where MLflow's variables say which.

    Raises:
        InputError: the option `experiment` is given under `mlflow run`, which has made the run already.
    """
    if settings.experiment and launched_run():
        raise InputError(
            f"experiment={settings.experiment}: `mlflow run` has made the run already; leave the option out, and give "
            f"--experiment-name {settings.experiment} to `mlflow run`."
        )
    return settings.experiment or unless_chosen(f"exvo/{settings.corpus}/{settings.task}")


def place(name: str | None, beside: str) -> str | None:
    """The id of the experiment of a new run; None where MLflow knows it: it has made the run, or a variable has the id.

    Args:
        name: of the experiment, empty where MLflow's variables say; None: `UTILITIES`, unless they do.
        beside: id of a run in the same experiment; empty where there is none.
    """
    if os.environ.get("MLFLOW_RUN_ID"):
        return None
    if beside:
        return str(MlflowClient().get_run(beside).info.experiment_id)
    name = unless_chosen(UTILITIES) if name is None else name
    if not name and not os.environ.get("MLFLOW_EXPERIMENT_ID"):
        name = os.environ["MLFLOW_EXPERIMENT_NAME"]  # MLflow would make it too, but fails where another process does
    return id_of(name) if name else None


def id_of(name: str) -> str:
    """The id of an experiment, which is made where there is none of that name.

    Of two processes that make the same one, the server refuses one, which finds it when it asks again.
    """
    client = MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, _artifact_location(client, name)))
        except MlflowException:  # where PostgreSQL refuses it, the error is one of the database
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _artifact_location(client: MlflowClient, name: str) -> str | None:
    """A folder beside that of MLflow's own experiment; None where the server chooses.

    For a database that no server stands before, MLflow would choose the folder in which the command was typed.
    """
    if mlflow.get_tracking_uri().startswith("http") or not re.fullmatch(r"[\w./-]+", name) or ".." in name:
        return None
    try:
        place = str(client.get_experiment(DEFAULT).artifact_location)
    except MlflowException:
        return None
    return f"{place.removesuffix(DEFAULT)}{name}" if place.endswith(f"/{DEFAULT}") else None


def cannot_begin(error: MlflowException, run_id: str) -> InputError:
    """Why a run could not begin or go on.

    Args:
        error: of MLflow.
        run_id: of a run that was to go on, or that `mlflow run` has made; else empty.
    """
    run = names.run_of_id(run_id) if run_id else None
    if run is not None and run.info.lifecycle_stage == "deleted":
        return InputError(names.deleted([run]))
    deleted = re.search(r"The experiment (\S+) " + server.DELETED, str(error))
    if deleted:
        restores = names.restore_experiment(MlflowClient().get_experiment(deleted[1]))
        return InputError(f"New runs can't begin. {restores} Or set MLFLOW_EXPERIMENT_NAME to another one.")
    return server.unusable(error)


def where_to_look(run_id: str, to_see: bool = True) -> str:
    """The run's name and experiment, and how to open it in the UI where it has curves or a page `to_see`.

    Under `mlflow run` a last line says how to choose the experiment, where nobody has chosen one.
    """
    client = MlflowClient()
    try:
        run = client.get_run(run_id)
        experiment = client.get_experiment(run.info.experiment_id)
    except MlflowException:
        return f"run    {run_id}"
    place = f"#/experiments/{experiment.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    lines = [f"run    {run.info.run_name} ({run_id}) in {experiment.name}"]
    if to_see:
        lines.append(f"open   {server.page(place)}")
    if run_id == launched_run() and experiment.experiment_id == DEFAULT:
        corpus, task = (run.data.tags.get(tag) for tag in (CORPUS_TAG, TASK_TAG))
        name = f"exvo/{corpus}/{task}" if corpus and task else UTILITIES
        lines.append(
            f"It went to MLflow's experiment {experiment.name}; `mlflow run` with --experiment-name {name} chooses one."
        )
    return "\n".join(lines)
