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
from exvo.reports.prediction import reached_line
from exvo.serving.model import example_request, signature
from exvo.text import writable
from exvo.tracking import encoders, names, server
from exvo.tracking.artifacts import require_model
from exvo.tracking.lookup import find_run
from exvo.tracking.provenance import PROJECT
from exvo.tracking.tags import FOLDS_TAG, LOGGED_URI, MODEL_TAG

LOGGED_MODEL = Path(__file__).with_name("logged_model.py")
REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "pyarrow", "soundfile", "soxr", "safetensors", "tqdm")
"""The packages of a logged model."""

KIND_REQUIREMENTS = {"functionals": ["opensmile"], "states": ["transformers"]}
"""Those that it needs besides, by the kind of its features."""


def log_model(run_id: str, weights: Path) -> None:
    """Logs the served model around a checkpoint, in place of those that the run may have, and tags the run with it.

    An encoder of its features, which lies beside it, is not in the model: the artifact store keeps it once for all.
    """
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        try:
            client.delete_logged_model(model.model_id)
        except MlflowException as error:
            if error.error_code != server.DENIED:  # one logged by halves stays then, and nothing names it
                raise
    checkpoint = load_checkpoint(weights)
    if needs_encoder(checkpoint.features):
        with plain_folder(weights.parent / ENCODER) as folder:
            encoders.keep(checkpoint.features, folder)
    client.set_tag(run_id, MODEL_TAG, _log(checkpoint, weights))


def whole_model(source: Run) -> str:
    """The address of a run's model with all that it needs; one that lacks its encoder is logged anew with it.

    Raises:
        InputError: the encoder is not there, or can't be read.
    """
    uri = str(source.data.tags[MODEL_TAG])
    if not needs_encoder(checkpoint_of(source).features):
        return uri
    with tempfile.TemporaryDirectory() as folder:
        weights = _download(uri, folder) / WEIGHTS
        encoder = weights.parent / ENCODER
        if encoder.is_dir():
            return uri
        checkpoint = load_checkpoint(weights)
        assert isinstance(checkpoint.features, Features)
        encoders.fetch(checkpoint.features, weights.parent, "cpu")
        return _log(checkpoint, weights, encoder)


def _log(checkpoint: Checkpoint, weights: Path, encoder: Path | None = None) -> str:
    """Logs the served model in the active run, with the encoder that is given; its address."""
    with files.plain_path(weights) as plain:
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(LOGGED_MODEL),
            artifacts={"weights": str(plain)} | ({ENCODER: str(encoder)} if encoder else {}),
            code_paths=[str(PROJECT / "exvo")],
            signature=signature(checkpoint.task),
            input_example=example_request(checkpoint),
            metadata={"reaches": reached_line(checkpoint.task, checkpoint.notes)},
            pip_requirements=requirements(checkpoint),
        )
    return str(info.model_uri)


def requirements(checkpoint: Checkpoint) -> list[str]:
    """The pinned packages of a logged model."""
    names = list(REQUIREMENTS)
    if isinstance(checkpoint.features, Features):
        names += KIND_REQUIREMENTS.get(checkpoint.features.kind, [])
    return [f"{name}=={version(name)}" for name in names]


@contextlib.contextmanager
def plain_folder(folder: Path) -> Iterator[Path]:
    """The path of a folder, or that of a copy, that MLflow can take: in UTF-8."""
    if writable(str(folder)) == str(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as plain:
        yield Path(shutil.copytree(folder, Path(plain) / folder.name))


def checkpoint_of(source: Run, device: str | None = None) -> Checkpoint:
    """The best weights of a training run, from its logged model.

    Args:
        source: the run.
        device: where its encoder is to compute; None: it is not loaded, as audio is not needed.

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
        return load_weights(uri, device)
    except (MlflowException, OSError) as error:
        server.require_artifacts(error)
        raise InputError(
            f"The model of the run {source.info.run_name} can't be read ({server.why(error)}); choose another run."
        ) from None


def load_weights(uri: str, device: str | None = None) -> Checkpoint:
    """The best weights of a logged or registered model; `device` as for `checkpoint_of`.

    Raises:
        InputError: they are not those of a network that this version of exvo computes.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights = _download(uri, folder, WEIGHTS if device is None else "")
        weights = weights if device is None else weights / WEIGHTS
        try:
            checkpoint = load_checkpoint(weights)
            if device is None:
                return checkpoint
            return with_encoder(checkpoint, weights.parent / ENCODER, device, encoders.load_kept)
        except InputError as error:
            shown = str(error).replace(str(weights), f"The model {uri}", 1)
            raise InputError(shown.replace(str(weights.parent), f"the model {uri}")) from None


def _download(uri: str, folder: str, name: str = "") -> Path:
    """Copies the weights of a logged or registered model, with its encoder where it carries one, into a folder.

    Args:
        uri: of the model.
        folder: into which they are copied.
        name: of a single file; empty: all of them.

    Returns:
        The path of that file, or of the folder in which they all lie.
    """
    logged = re.fullmatch(LOGGED_URI, uri)
    place = MlflowClient().get_logged_model(logged[1]).artifact_location if logged else uri
    path = f"{place}/artifacts/{name}".rstrip("/")
    return Path(mlflow.artifacts.download_artifacts(path, dst_path=folder))


def load_model(uri: str, option: str = "model_uri", device: str = "cpu") -> Checkpoint:
    """The network, with the encoder of its features, of a model or run.

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
        server.require_artifacts(error)
        raise InputError(
            f"{option}={uri}: {server.shown_uri()} gives no model of exvo by that name "
            f"({server.why(error)}); register one with `{command_line('register', {})}`, or give a run."
        ) from None
