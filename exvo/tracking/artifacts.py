"""What a run has logged, read back."""

from __future__ import annotations

import hashlib
import io
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

from exvo.errors import InputError
from exvo.options import command_line
from exvo.tables import read_flat_parquet, validated_predictions
from exvo.text import first_line
from exvo.tracking import names, server
from exvo.tracking.lookup import logged
from exvo.tracking.tags import ENTRY_TAG, EPOCH, EVALUATED_TAG, LOGGED_URI, MODEL_TAG


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
        table = read_flat_parquet(Path(client.download_artifacts(run_id, name, folder)), told)
    found: pd.DataFrame = validated_predictions(table, told) if name.startswith("predictions/") else table.to_pandas()
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
        return None if text is None else pd.read_csv(io.StringIO(text))
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
        again = "train it again"
        for run in trained_by[:1]:
            again = f"`{command_line(run.data.tags[ENTRY_TAG], load_settings(run)['options'])}` trains it again"
            again = f"it is that of the run {names.about(run)}, and {again}"
        raise InputError(
            f"The logged model {uri} is deleted, and MLflow has no command that restores one; {again}."
        ) from None
