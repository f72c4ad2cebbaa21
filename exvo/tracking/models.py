"""Logged models: written around a checkpoint, and read back as one."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from exvo import files
from exvo.errors import InputError
from exvo.features.shards import Features
from exvo.networks.carried import ENCODER, needs_encoder, with_encoder
from exvo.networks.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from exvo.options import command_line
from exvo.serving.model import LOGGED_MODEL, example_request, signature
from exvo.text import writable
from exvo.tracking import names, server
from exvo.tracking.artifacts import require_model
from exvo.tracking.lookup import find_run
from exvo.tracking.provenance import PROJECT
from exvo.tracking.tags import LOGGED_URI, MODEL_TAG

REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "pyarrow", "soundfile", "soxr", "safetensors", "tqdm")
"""The packages of a logged model."""

KIND_REQUIREMENTS = {"functionals": ["opensmile"], "states": ["transformers"]}
"""Those that it needs besides, by the kind of its features."""


def log_model(run_id: str, weights: Path) -> None:
    """Logs the served model around a checkpoint, in place of those that the run may have, and tags the run with it."""
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        client.delete_logged_model(model.model_id)
    checkpoint = load_checkpoint(weights)
    with files.plain_path(weights) as plain, plain_encoder(weights, checkpoint) as encoder:
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(LOGGED_MODEL),
            artifacts={"weights": str(plain)} | encoder,
            code_paths=[str(PROJECT / "exvo")],
            signature=signature(checkpoint.task),
            input_example=example_request(checkpoint),
            pip_requirements=requirements(checkpoint),
        )
    client.set_tag(run_id, MODEL_TAG, info.model_uri)


def requirements(checkpoint: Checkpoint) -> list[str]:
    """The pinned packages of a logged model."""
    names = list(REQUIREMENTS)
    if isinstance(checkpoint.features, Features):
        names += KIND_REQUIREMENTS.get(checkpoint.features.kind, [])
    return [f"{name}=={version(name)}" for name in names]


@contextlib.contextmanager
def plain_encoder(weights: Path, checkpoint: Checkpoint) -> Iterator[dict[str, str]]:
    """The artifact of the encoder that lies beside the weights, at a path that MLflow can take; empty without one."""
    folder = weights.parent / ENCODER
    if not needs_encoder(checkpoint):
        yield {}
    elif writable(str(folder)) == str(folder):
        yield {ENCODER: str(folder)}
    else:
        with tempfile.TemporaryDirectory() as plain:
            yield {ENCODER: shutil.copytree(folder, Path(plain) / ENCODER).as_posix()}


def checkpoint_of(source: Run, device: str | None = None) -> Checkpoint:
    """The best weights of a training run, from its logged model.

    Args:
        source: the run.
        device: where the encoder that the model carries is to compute; None: it is not loaded, as audio is not needed.

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
        return load_weights(uri, device)
    except (MlflowException, OSError) as error:
        raise InputError(
            f"The model of the run {source.info.run_name} can't be read ({server.why(error)}); choose another run."
        ) from None


def load_weights(uri: str, device: str | None = None) -> Checkpoint:
    """The best weights of a logged or registered model; `device` as for `checkpoint_of`.

    Raises:
        InputError: they are not those of a network that this version of exvo computes.
    """
    logged = re.fullmatch(LOGGED_URI, uri)
    place = MlflowClient().get_logged_model(logged[1]).artifact_location if logged else uri
    with tempfile.TemporaryDirectory() as folder:
        file = mlflow.artifacts.download_artifacts(f"{place}/artifacts/{WEIGHTS}", dst_path=folder)
        try:
            checkpoint = load_checkpoint(Path(file))
            if device is None or not needs_encoder(checkpoint):
                return checkpoint
            encoder = mlflow.artifacts.download_artifacts(f"{place}/artifacts/{ENCODER}", dst_path=folder)
            return with_encoder(checkpoint, Path(encoder), device)
        except InputError as error:
            raise InputError(str(error).replace(file, f"The model {uri}", 1)) from None


def load_model(uri: str, option: str = "model_uri", device: str = "cpu") -> Checkpoint:
    """The network, with the encoder that it carries, of a model or run.

    Args:
        uri: what the user gave: `models:/<name>@<alias>`, `models:/<name>/<version>`, `models:/m-<id>`, or a run, see
            `find_run`.
        option: where, for a sentence.
        device: where its encoder is to compute, cpu or cuda.

    Raises:
        InputError: there is none, it is deleted, or it is not a model of exvo.
    """
    uri = writable(uri)
    server.quiet()
    server.check_store()
    if not uri.startswith("models:/") or names.runs_of_name(uri):
        return checkpoint_of(find_run(uri, option), device)
    if not re.fullmatch(r"models:/(m-[0-9a-f]+|[^/@]+[/@][^/]+)", uri):
        raise InputError(f"{option}={uri} lacks a version: give models:/<name>@<alias> or models:/<name>/<version>.")
    require_model(uri)
    try:
        if not re.fullmatch(LOGGED_URI, uri):
            require_model(names.version_of_uri(uri).source)
        return load_weights(uri, device)
    except (MlflowException, OSError) as error:
        raise InputError(
            f"{option}={uri}: {server.shown_uri()} gives no model of exvo by that name "
            f"({server.why(error)}); register one with `{command_line('register', {})}`, or give a run."
        ) from None
