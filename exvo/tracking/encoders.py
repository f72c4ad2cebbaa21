"""The encoders whose features models take: each lies once in the artifact store, and is found by its digest.

An encoder is the folder `encoder` of a run of the experiment `EXPERIMENT`. The run is tagged with the digest once all
files are there, so a copy that was cut short is never found.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from exvo.errors import InputError
from exvo.features.extractors import Encoder
from exvo.features.shards import Features
from exvo.networks.carried import ENCODER, load_carried
from exvo.tracking import server
from exvo.tracking.experiments import id_of
from exvo.tracking.tags import ENCODER_TAG

EXPERIMENT = "exvo/encoders"


def digest_of(features: Features) -> str:
    """The tag of the run that keeps the encoder of these features."""
    return f"{features.kind}-{features.key}"


def keep(features: Features, folder: Path) -> None:
    """Puts an encoder into the artifact store, unless it is there.

    Several processes may put the same one at once: whoever sees several removes all but the first, so one stays. (A
    process that removed only its own could miss one that is older by its clock and came to the store later.)

    Args:
        features: of the encoder.
        folder: in which it lies.
    """
    if kept_runs(features):
        return
    client, name = MlflowClient(), digest_of(features)
    run_id = client.create_run(_experiment(), run_name=f"encoder-{name[:24]}").info.run_id
    try:
        client.log_artifacts(run_id, str(folder), ENCODER)
        client.set_tag(run_id, ENCODER_TAG, name)
        client.set_terminated(run_id)
    except BaseException:
        _remove(run_id)
        raise
    for other in kept_runs(features)[1:]:
        _remove(other.info.run_id)


def kept_runs(features: Features) -> list[Run]:
    """The runs that keep the encoder of these features, the first that was whole before the others.

    Raises:
        InputError: the store can't be used.
    """
    client = MlflowClient()
    try:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return []
        query = f"tags.`{ENCODER_TAG}` = '{digest_of(features)}' and attributes.status = 'FINISHED'"
        runs = client.search_runs([experiment.experiment_id], query)
    except MlflowException as error:
        raise server.unusable(error) from None
    return sorted(runs, key=lambda run: (run.info.end_time, run.info.run_id))


def load_kept(features: Features, device: str) -> Encoder:
    """The encoder of these features, from the artifact store; see `fetch`."""
    with tempfile.TemporaryDirectory() as folder:
        return fetch(features, Path(folder), device)


def fetch(features: Features, folder: Path, device: str) -> Encoder:
    """Copies the encoder of these features from the artifact store, and loads it.

    Args:
        features: that a model takes.
        folder: in which it will lie, in the folder `encoder`.
        device: where it is to compute, cpu or cuda.

    Raises:
        InputError: it is not there, can't be read, or has been changed.
    """
    server.quiet()
    server.check_store()
    runs = kept_runs(features)
    if not runs:
        raise InputError(
            f"The model takes {features.text} of an encoder, which the tracking server {server.shown_uri()} does not "
            f"keep in its experiment {EXPERIMENT}: set MLFLOW_TRACKING_URI to the server of the training run, train "
            "again where the encoder is at hand, or take a registered model, which carries its encoder."
        )
    (run, *_) = runs
    try:
        place = mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/{ENCODER}", dst_path=str(folder))
        return load_carried(Path(place), features, device)
    except (MlflowException, OSError, InputError) as error:
        server.require_artifacts(error)
        problem = server.why(error).replace(f"{folder}/", "").partition(";")[0]
        raise InputError(
            f"The encoder of {features.text}, which the run {run.info.run_id} of the experiment {EXPERIMENT} keeps, "
            f"can't be used ({problem}): delete that run, and train again where the encoder is at hand, which puts it "
            "there anew."
        ) from None


def _experiment() -> str:
    """The id of the experiment of encoders, which is made, or restored where it was deleted."""
    client, experiment_id = MlflowClient(), id_of(EXPERIMENT)
    if client.get_experiment(experiment_id).lifecycle_stage == "deleted":
        client.restore_experiment(experiment_id)
    return experiment_id


def _remove(run_id: str) -> None:
    """Deletes a run and, as far as the artifact store can, what lies there of it."""
    client = MlflowClient()
    with suppress(Exception):  # each artifact store has its own errors
        get_artifact_repository(client.get_run(run_id).info.artifact_uri).delete_artifacts()
    with suppress(MlflowException):
        client.delete_run(run_id)
