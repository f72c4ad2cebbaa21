"""Logged models: written around a checkpoint, and read back as one."""

from __future__ import annotations

import re
import tempfile
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from exvo import files
from exvo.errors import InputError
from exvo.networks.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from exvo.options import command_line
from exvo.serving.model import LOGGED_MODEL, example_request, signature
from exvo.text import writable
from exvo.tracking import names, server
from exvo.tracking.artifacts import require_model
from exvo.tracking.lookup import find_run
from exvo.tracking.provenance import PROJECT
from exvo.tracking.tags import FOLDS_TAG, LOGGED_URI, MODEL_TAG

REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "pyarrow", "soundfile", "soxr", "safetensors", "tqdm")
"""The packages of a logged model."""


def log_model(run_id: str, weights: Path) -> None:
    """Logs the served model around a checkpoint, in place of those that the run may have, and tags the run with it."""
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        client.delete_logged_model(model.model_id)
    checkpoint = load_checkpoint(weights)
    with files.plain_path(weights) as plain:
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(LOGGED_MODEL),
            artifacts={"weights": str(plain)},
            code_paths=[str(PROJECT / "exvo")],
            signature=signature(checkpoint.task),
            input_example=example_request(checkpoint),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
    client.set_tag(run_id, MODEL_TAG, info.model_uri)


def checkpoint_of(source: Run) -> Checkpoint:
    """The best weights of a training run, from its logged model.

    Raises:
        InputError: the run has logged no model; a cross-validation has none of its own.
    """
    uri = source.data.tags.get(MODEL_TAG)
    if uri is None and FOLDS_TAG in source.data.tags:
        raise InputError(
            f"The run {source.info.run_name} is a cross-validation, which has a model for each fold; give one of the "
            "runs beneath it, or train the system without folds."
        )
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
    logged = re.fullmatch(LOGGED_URI, uri)
    place = MlflowClient().get_logged_model(logged[1]).artifact_location if logged else uri
    with tempfile.TemporaryDirectory() as folder:
        file = mlflow.artifacts.download_artifacts(f"{place}/artifacts/{WEIGHTS}", dst_path=folder)
        try:
            return load_checkpoint(Path(file))
        except InputError as error:
            raise InputError(str(error).replace(file, f"The model {uri}", 1)) from None


def load_model(uri: str, option: str = "model_uri") -> Checkpoint:
    """The network of `models:/<name>@<alias>`, `models:/<name>/<version>`, `models:/m-<id>`, or a run, see `find_run`.

    Args:
        uri: what the user gave.
        option: where, for a sentence.

    Raises:
        InputError: there is none, it is deleted, or it is not a model of exvo.
    """
    uri = writable(uri)
    server.quiet()
    server.check_store()
    if not uri.startswith("models:/") or names.runs_of_name(uri):
        return checkpoint_of(find_run(uri, option))
    if not re.fullmatch(r"models:/(m-[0-9a-f]+|[^/@]+[/@][^/]+)", uri):
        raise InputError(f"{option}={uri} lacks a version: give models:/<name>@<alias> or models:/<name>/<version>.")
    require_model(uri)
    try:
        if not re.fullmatch(LOGGED_URI, uri):
            require_model(names.version_of_uri(uri).source)
        return load_weights(uri)
    except (MlflowException, OSError) as error:
        raise InputError(
            f"{option}={uri}: {server.shown_uri()} gives no model of exvo by that name "
            f"({server.why(error)}); register one with `{command_line('register', {})}`, or give a run."
        ) from None
