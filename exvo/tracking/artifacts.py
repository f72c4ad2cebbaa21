"""Reads back what a run has logged."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from exvo.errors import InputError
from exvo.options import command_line
from exvo.settings import TrainSettings
from exvo.tables import MAX_PREDICTION_COLUMNS, read_flat_parquet, validated_predictions
from exvo.text import first_line
from exvo.tracking import names, server
from exvo.tracking.lookup import logged_metrics
from exvo.tracking.tags import ENTRY_TAG, EPOCH, EVALUATED_TAG, LOGGED_URI, MODEL_TAG

LEARNT = "corpus/learnt.parquet"
"""The clips that have made a model, of train and val: file, split, speaker and a key of the samples (`recording`)."""

FORMER: dict[str, Any] = {
    "protocol": "published",
    "objective": "ccc",
    "schedule": "plateau",
    "weight_decay": 0.0001,
    "label_smoothing": 0.0,
    "warp": 0.0,
    "spec_augment": 0.0,
    "mixup": 0.0,
    "clip_gradient": 0.0,
    "patience": 0,
}
"""Options that runs of early versions lack, where what these runs did is not what the option's default says."""


def load_table(run_id: str, name: str) -> pd.DataFrame | None:
    """A table that `log_table` has logged as Parquet, one in `predictions/` checked; None where the run has none.

    Raises:
        InputError: it is damaged, or no predictions table.
    """
    client = MlflowClient()
    if name not in {item.path for item in client.list_artifacts(run_id, str(Path(name).parent))}:
        return None
    place = f"{name} of the run {run_id}"
    with tempfile.TemporaryDirectory() as folder:
        table = read_flat_parquet(Path(client.download_artifacts(run_id, name, folder)), place, MAX_PREDICTION_COLUMNS)
    frame: pd.DataFrame = validated_predictions(table, place) if name.startswith("predictions/") else table.to_pandas()
    return frame


def seed_table(split: str, seed: int) -> str:
    """The name of the predictions table of one of several seeds, in the run of all of them."""
    return f"predictions/{split}-seed-{seed}.parquet"


def history(run_id: str) -> pd.DataFrame:
    """The metrics of each epoch of a training run, see `epochs`."""
    return epochs(logged_metrics(run_id, EPOCH))


def epochs(points: Mapping[tuple[str, int], float]) -> pd.DataFrame:
    """The metrics of each epoch among those that `logged_metrics` gives.

    Returns:
        One row an epoch, in the index, and a column a metric (`loss`, ...); empty where there is none.
    """
    columns: dict[str, dict[int, float]] = {}
    for (name, step), value in points.items():
        if name.startswith(EPOCH):
            columns.setdefault(name.removeprefix(EPOCH), {})[step] = value
    return pd.DataFrame(columns).sort_index().rename_axis("epoch")


@dataclass(frozen=True)
class Trained:
    """What the report of an evaluation says of the training run.

    Attributes:
        run_id: on the tracking server.
        name: of the run.
        tags: of the run.
        settings: with which it trained.
        epochs: see `epochs`.
    """

    run_id: str
    name: str
    tags: Mapping[str, str]
    settings: TrainSettings
    epochs: pd.DataFrame


def trained(source: Run) -> Trained:
    """The same, of a training run that has ended."""
    run_id = source.info.run_id
    return Trained(run_id, source.info.run_name, source.data.tags, training_settings(source), history(run_id))


def load_settings(source: Run) -> dict[str, Any]:
    """The settings.json of a run: its `options`, and what else its entry point has logged there.

    Raises:
        InputError: the run has none, or it is damaged.
    """
    try:
        text = mlflow.artifacts.load_text(f"{source.info.artifact_uri}/settings.json")
    except Exception as error:  # each artifact store has its own errors
        server.require_artifacts(error)
        raise InputError(
            f"The run {source.info.run_name} has no settings.json ({first_line(error)}); is it a training run?"
        ) from None
    try:
        loaded: dict[str, Any] = json.loads(text)
        options = dict(loaded["options"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"The settings.json of the run {source.info.run_name} is damaged; give another run.") from None
    return loaded | {"options": options}


def training_settings(source: Run) -> TrainSettings:
    """The settings of a training run.

    Options that its version of exvo did not have yet are what that version did; options that this version no longer
    has are left out.

    Raises:
        InputError: its settings.json is missing or damaged.
    """
    return _settings(load_settings(source)["options"])


def _settings(options: Mapping[str, Any]) -> TrainSettings:
    available = {field.name for field in fields(TrainSettings)}
    return TrainSettings(**FORMER | {name: value for name, value in options.items() if name in available})


def require_training(source: Run) -> TrainSettings:
    """The settings of a run that a user names as a training run.

    Raises:
        InputError: it trained nothing, or its settings.json is missing or damaged.
    """
    options, evaluated = load_settings(source)["options"], source.data.tags.get(EVALUATED_TAG)
    if evaluated or not {"model", "task"} <= options.keys():
        instead = f"it looks at the run {evaluated}; give that" if evaluated else "give one that train or main has made"
        raise InputError(f"The run {source.info.run_name} trained nothing: {instead}.")
    return _settings(options)


def load_environment(source: Run) -> dict[str, Any]:
    """The environment.json of a run, with its commit and a digest of its uncommitted changes."""
    folder = source.info.artifact_uri
    try:
        environment: dict[str, Any] = mlflow.artifacts.load_dict(f"{folder}/environment.json")
    except Exception:  # each artifact store has its own errors; runs of early versions have none
        environment = {}
    commit, dirty = source.data.tags.get("git.commit", "none"), source.data.tags.get("git.dirty") == "true"
    none = "unknown" if source.data.tags.get("git.dirty") == "unknown" else "none"
    text = mlflow.artifacts.load_text(f"{folder}/uncommitted.diff.txt") if dirty else ""
    return environment | {
        "commit": commit,
        "uncommitted changes": hashlib.sha256(text.encode()).hexdigest()[:12] if text else none,
    }


def artifact(run: Run, name: str) -> str | None:
    """A text artifact of a run; None where it has none of that name."""
    folder = name.rpartition("/")[0]
    if name not in {item.path for item in MlflowClient().list_artifacts(run.info.run_id, folder or None)}:
        return None
    return str(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{name}"))


def scores(run: Run, split: str) -> pd.DataFrame | None:
    """The scores that a run has logged for a split, as `scoring.score` gives them; None where it has none.

    Raises:
        InputError: they are damaged.
    """
    text = artifact(run, f"scores/{split}.csv")
    try:
        return None if text is None else pd.read_csv(io.StringIO(text), float_precision="round_trip")
    except ValueError:
        raise InputError(
            f"The scores/{split}.csv of the run {run.info.run_name} is damaged; evaluate it again."
        ) from None


def load_json(run: Run, name: str) -> dict[str, Any]:
    """A JSON artifact of a run; empty where it has none of that name.

    Raises:
        InputError: it is damaged.
    """
    try:
        return dict(json.loads(artifact(run, name) or "{}"))
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"The {name} of the run {run.info.run_name} is damaged; give another run.") from None


def require_model(uri: str) -> None:
    """Refuses a logged model that is deleted, with the command that trains it again.

    Raises:
        InputError: it is deleted, or the store can't be used.
    """
    logged = re.fullmatch(LOGGED_URI, uri)
    try:
        if logged:
            MlflowClient().get_logged_model(logged[1])
    except MlflowException as error:
        if error.error_code not in server.NOT_THERE:
            raise server.unusable(error) from None
        query = f"tags.`{MODEL_TAG}` = '{uri}'"
        trained_by = names.search(query) or names.search(query, deleted=True)
        advice = "train it again"
        for run in trained_by[:1]:
            command = command_line(run.data.tags[ENTRY_TAG], load_settings(run)["options"])
            advice = f"it is that of the run {names.describe_run(run)}, and `{command}` trains it again"
        raise InputError(
            f"The logged model {uri} is deleted, and MLflow has no command that restores one; {advice}."
        ) from None
