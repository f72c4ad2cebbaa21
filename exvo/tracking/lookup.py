"""Runs found on the tracking server."""

from __future__ import annotations

import re

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run as Run
from mlflow.exceptions import MlflowException

from exvo.errors import InputError
from exvo.systems import SHORT_NAMES
from exvo.text import writable
from exvo.tracking import names, server
from exvo.tracking.tags import (
    CONDITION,
    DIGEST_TAG,
    DONE,
    NO_TRIAL,
    PARENT_TAG,
    PROTOCOL_TAG,
    RESULT_TAGS,
    SYSTEM_TAG,
    TASK_TAG,
)


def find_run(name: str, option: str = "run_id") -> Run:
    """The run of that id, else of that name, else the newest finished training run of that system.

    A trial of a study is found by id and name alone: many are worse than what the study began with.

    Args:
        name: what the user gave.
        option: where.

    Raises:
        InputError: there is none, it is deleted, or the name fits several; says which.
    """
    server.quiet()
    server.check_store()
    name = writable(name)
    if not name.strip():
        raise InputError(f"{option} is empty; give the id or the name of a run, as `train` prints it, or a system.")
    spelled = list(names.spellings(name))
    for text in spelled:
        own = names.run_of_id(text)
        found = [own] if own else names.runs_of_name(text)
        if len(found) > 1:
            each = names.listed(map(names.about, found))
            raise InputError(f"{option}={name} is the name of {len(found)} runs; give the id of one: {each}.")
        if found and found[0].info.lifecycle_stage == "deleted":
            raise InputError(f"{option}={name}: {names.deleted(found)}")
        if found:
            return found[0]
    for text in spelled:
        found = _of_system(text)
        if found:
            names.require_one_condition(found, CONDITION, f"{option}={name}")
            return found[0]
    gone = [run for text in spelled for run in names.runs_of_name(text, deleted=True) or _of_system(text, deleted=True)]
    if gone:
        raise InputError(f"{option}={name}: {names.deleted(gone)}")
    raise InputError(
        f"{option}={name}: the tracking server {server.shown_uri()} has no run of that id or name, and no "
        "finished training run of a system of that name; `make personalisation` makes some to begin with."
    )


def run_of_id(run_id: str) -> Run:
    """The run of that id, also where it is deleted.

    Raises:
        InputError: it is gone for good.
    """
    found = names.run_of_id(run_id)
    if found is None:
        raise InputError(f"The run {run_id} has been removed from the tracking server {server.shown_uri()}.")
    return found


def _of_system(name: str, deleted: bool = False) -> list[Run]:
    """The finished training runs of a system, the newest first."""
    system = SHORT_NAMES.get(name, name)
    if not re.fullmatch(r"[\w.+-]+", system):
        return []
    return names.search(f"tags.`{SYSTEM_TAG}` = '{system}' and {DONE} and {NO_TRIAL}", deleted)


def logged(run_id: str, begins: str = "") -> dict[tuple[str, int], float]:
    """What a run has logged, by metric and step, but for metrics of the system; `begins`: how their names begin."""
    client = MlflowClient()
    names = [name for name in client.get_run(run_id).data.metrics if name.startswith(begins) and name[:7] != "system/"]
    points = [(name, point) for name in names for point in client.get_metric_history(run_id, name)]
    return {(name, point.step): point.value for name, point in points}


def parent_run(system: str, width: float, score: str) -> Run | None:
    """The finished training run of a system with the best `score` on val, of the present run's corpus, task, protocol.

    None where there is none of that width. A run that goes on keeps the one that it has started from.
    """
    active = mlflow.active_run()
    assert active is not None
    client = MlflowClient()
    tags = client.get_run(active.info.run_id).data.tags
    if PARENT_TAG in tags:
        return client.get_run(tags[PARENT_TAG])
    wanted = {SYSTEM_TAG: system} | {name: tags[name] for name in (DIGEST_TAG, TASK_TAG, PROTOCOL_TAG)}
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in wanted.items())
    query += f" and {DONE}"
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, query, order_by=[f"metrics.`val/{score}` DESC"], max_results=1000)
    return next((one for one in found if float(one.data.params["width"]) == width), None)


def known_run(run_id: str) -> bool:
    """Whether the server has this run, and it is not deleted."""
    server.quiet()
    try:
        return bool(run_id) and MlflowClient().get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        return False


def has_finished(run_id: str) -> bool:
    """Whether the server has this run, and it has ended well."""
    server.quiet()
    try:
        return bool(MlflowClient().get_run(run_id).info.status == "FINISHED")
    except MlflowException:
        return False


def finished_runs(trials: bool = True) -> pd.DataFrame:
    """The finished runs that train or evaluate a system, newest first; with the trials of studies, or without.

    Returns:
        One row a run: run_id, run (its name), start, the columns of `RESULT_TAGS` ('' where a run lacks the tag), and
        metrics, a dictionary.

    Raises:
        InputError: the store can't be used.
    """
    server.quiet()
    server.check_store()
    query = f"attributes.status = 'FINISHED' and tags.`{SYSTEM_TAG}` LIKE '%'{'' if trials else f' and {NO_TRIAL}'}"
    try:
        found = mlflow.search_runs(filter_string=query, output_format="list", search_all_experiments=True)
    except MlflowException as error:
        raise server.unusable(error) from None
    rows = []
    for one in found:
        tags = [one.data.tags.get(tag, "") for tag in RESULT_TAGS.values()]
        rows.append((one.info.run_id, one.info.run_name, one.info.start_time, *tags, one.data.metrics))
    return pd.DataFrame(rows, columns=["run_id", "run", "start", *RESULT_TAGS, "metrics"])
