"""Runs and models found on the tracking server, and what they logged read back."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from exvo import names, server, serving
from exvo.config import InputError
from exvo.networks import Checkpoint, load
from exvo.options import command_line
from exvo.systems import SHORT_NAMES
from exvo.tables import check_predictions, read_parquet
from exvo.text import first_line, writable

EPOCH = "epoch/"
"""How the names of metrics of an epoch begin."""

LOGGED = r"models:/(m-[0-9a-f]+)"
"""The URI of a logged model."""

MODEL_TAG = "exvo.model_uri"
DIGEST_TAG = "exvo.corpus_digest"
ENTRY_TAG = "exvo.entry_point"
SYSTEM_TAG = "exvo.system"
TASK_TAG = "exvo.task"
PROTOCOL_TAG = "exvo.protocol"
CORPUS_TAG = "exvo.corpus"
EVALUATED_TAG = "exvo.evaluated_run"
CONDITION = (CORPUS_TAG, DIGEST_TAG, TASK_TAG, PROTOCOL_TAG)
"""What the runs of one system that can stand for each other have in common."""

DONE = f"tags.`{MODEL_TAG}` LIKE '%' and attributes.status = 'FINISHED'"
PARENT_TAG = "exvo.parent_run"
STUDY_TAG = "exvo.study"
TRIAL_TAG = "exvo.trial"
TRIAL_STATE_TAG = "exvo.trial_state"
NO_TRIAL = f"tags.`{TRIAL_TAG}` IS NULL"
CONTINUES_TAG = "exvo.continues"
COMMAND_TAG = "exvo.command"
CODE_TAG = "exvo.code"
REPEATS_TAG = "exvo.repeats"
EQUAL_TAG = "exvo.equal"
RESULT_TAGS = {
    "system": SYSTEM_TAG,
    "corpus": CORPUS_TAG,
    "digest": DIGEST_TAG,
    "task": TASK_TAG,
    "protocol": PROTOCOL_TAG,
    "evaluated_run": EVALUATED_TAG,
}


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


def load_table(run_id: str, name: str) -> pd.DataFrame | None:
    """A table that `log_table` has logged as Parquet, one in `predictions/` checked; None where the run has none.

    Raises:
        InputError: it is damaged, or no predictions table.
    """
    client = MlflowClient()
    if name not in {item.path for item in client.list_artifacts(run_id, str(Path(name).parent))}:
        return None
    told = f"{name} of the run {run_id}"
    with tempfile.TemporaryDirectory() as folder:
        table = read_parquet(Path(client.download_artifacts(run_id, name, folder)), told)
    found: pd.DataFrame = check_predictions(table, told) if name.startswith("predictions/") else table.to_pandas()
    return found


def history(run_id: str) -> pd.DataFrame:
    """The metrics of each epoch of a training run, see `epochs`."""
    return epochs(logged(run_id, EPOCH))


def epochs(points: Mapping[tuple[str, int], float]) -> pd.DataFrame:
    """What `logged` gives, of each epoch: one row an epoch, in the index, and a column a metric (`loss`, ...).

    Empty where there is none.
    """
    columns: dict[str, dict[int, float]] = {}
    for (name, step), value in points.items():
        if name.startswith(EPOCH):
            columns.setdefault(name.removeprefix(EPOCH), {})[step] = value
    return pd.DataFrame(columns).sort_index().rename_axis("epoch")


@dataclass(frozen=True)
class Trained:
    """What an evaluation tells of the training run.

    Attributes:
        run_id, name, tags: on the tracking server.
        options: with which it trained.
        epochs: see `epochs`.
    """

    run_id: str
    name: str
    tags: Mapping[str, str]
    options: Mapping[str, Any]
    epochs: pd.DataFrame


def trained(source: Run) -> Trained:
    """The same, of a run that has ended."""
    run_id, options = source.info.run_id, load_settings(source)["options"]
    return Trained(run_id, source.info.run_name, source.data.tags, options, history(run_id))


def load_settings(source: Run) -> dict[str, Any]:
    """The settings.json of a training run.

    Raises:
        InputError: the run has none, or it is damaged.
    """
    try:
        text = mlflow.artifacts.load_text(f"{source.info.artifact_uri}/settings.json")
    except Exception as error:  # each artifact store has its own errors
        raise InputError(
            f"The run {source.info.run_name} has no settings.json ({first_line(error)}); is it a training run?"
        ) from None
    try:
        loaded: dict[str, Any] = json.loads(text)
        options = dict(loaded["options"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"The settings.json of the run {source.info.run_name} is damaged; give another run.") from None
    return loaded | {"options": options}


def training_options(source: Run) -> dict[str, Any]:
    """The options of a training run.

    Raises:
        InputError: it is none, or its settings.json is missing or damaged.
    """
    evaluated = source.data.tags.get(EVALUATED_TAG)
    options: dict[str, Any] = load_settings(source)["options"]
    if evaluated or not {"model", "task"} <= options.keys():
        instead = f"it looks at the run {evaluated}; give that" if evaluated else "give one that train or main has made"
        raise InputError(f"The run {source.info.run_name} trained nothing: {instead}.")
    return options


def load_environment(source: Run) -> dict[str, Any]:
    """The environment.json of a run, with its commit and a digest of the changes that were not in it."""
    folder = source.info.artifact_uri
    try:
        found: dict[str, Any] = mlflow.artifacts.load_dict(f"{folder}/environment.json")
    except Exception:  # each artifact store has its own errors; runs of early versions have none
        found = {}
    commit, dirty = source.data.tags.get("git.commit", "none"), source.data.tags.get("git.dirty") == "true"
    none = "unknown" if source.data.tags.get("git.dirty") == "unknown" else "none"
    text = mlflow.artifacts.load_text(f"{folder}/uncommitted.diff.txt") if dirty else ""
    return found | {
        "commit": commit,
        "uncommitted changes": hashlib.sha256(text.encode()).hexdigest()[:12] if text else none,
    }


def load_checkpoint(source: Run) -> Checkpoint:
    """The best weights of a training run, from its logged model.

    Raises:
        InputError: the run has logged no model.
    """
    uri = source.data.tags.get(MODEL_TAG)
    if uri is None:
        raise InputError(
            f"The run {source.info.run_name} ({source.info.status.lower()}) has logged no model; wait until it has "
            "finished, or choose another run."
        )
    require_model(uri)
    try:
        return load_weights(uri)
    except (MlflowException, OSError) as error:
        raise InputError(
            f"The model of the run {source.info.run_name} can't be read ({server.why(error)}); choose another run."
        ) from None


def load_weights(uri: str) -> Checkpoint:
    """The best weights of a logged or registered model.

    Raises:
        InputError: they are not those of a network that this version of exvo computes.
    """
    logged = re.fullmatch(LOGGED, uri)
    place = MlflowClient().get_logged_model(logged[1]).artifact_location if logged else uri
    with tempfile.TemporaryDirectory() as folder:
        file = mlflow.artifacts.download_artifacts(f"{place}/artifacts/{serving.WEIGHTS}", dst_path=folder)
        try:
            return load(Path(file))
        except InputError as error:
            raise InputError(str(error).replace(file, f"The model {uri}", 1)) from None


def require_model(uri: str) -> None:
    """Refuses a logged model that is deleted, with the command that trains it again.

    Raises:
        InputError: it is deleted, or the store can't be used.
    """
    logged = re.fullmatch(LOGGED, uri)
    try:
        if logged:
            MlflowClient().get_logged_model(logged[1])
    except MlflowException as error:
        if error.error_code not in server.NOT_THERE:
            raise server.unusable(error) from None
        query = f"tags.`{MODEL_TAG}` = '{uri}'"
        trained_by = names.search(query) or names.search(query, deleted=True)
        again = "train it again"
        for run in trained_by[:1]:
            again = f"`{command_line(run.data.tags[ENTRY_TAG], load_settings(run)['options'])}` trains it again"
            again = f"it is that of the run {names.about(run)}, and {again}"
        raise InputError(
            f"The logged model {uri} is deleted, and MLflow has no command that restores one; {again}."
        ) from None


def load_model(uri: str) -> Checkpoint:
    """The network of `models:/<name>@<alias>`, `models:/<name>/<version>`, `models:/m-<id>`, or a run, see `find_run`.

    Raises:
        InputError: there is none, it is deleted, or it is not a model of exvo.
    """
    uri = writable(uri)
    server.quiet()
    server.check_store()
    if not uri.startswith("models:/") or names.runs_of_name(uri):
        return load_checkpoint(find_run(uri, "model_uri"))
    if not re.fullmatch(r"models:/(m-[0-9a-f]+|[^/@]+[/@][^/]+)", uri):
        raise InputError(f"model_uri={uri} lacks a version: give models:/<name>@<alias> or models:/<name>/<version>.")
    require_model(uri)
    try:
        if not re.fullmatch(LOGGED, uri):
            require_model(names.version_of_uri(uri).source)
        return load_weights(uri)
    except (MlflowException, OSError) as error:
        raise InputError(
            f"model_uri={uri}: {server.shown_uri()} gives no model of exvo by that name "
            f"({server.why(error)}); register one with `{command_line('register', {})}`, or give a run."
        ) from None
