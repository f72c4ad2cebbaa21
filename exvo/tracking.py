"""What a run logs: options, code, metrics, tables, pictures, models. With `lookup` the home of MLflow."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException

from exvo import lookup, serving
from exvo.config import default_text
from exvo.networks import Checkpoint
from exvo.provenance import PROJECT, code, environment

SERVED = ("mlflow", "torch", "numpy", "pandas", "pyarrow", "soundfile", "soxr", "safetensors", "tqdm")


EARLIER: dict[str, frozenset[tuple[str, int]]] = {}
"""What earlier processes have logged of the runs that this one goes on with: metrics and steps."""


@contextmanager
def run(entry_point: str, run_id: str = "", parent: str = "", tags: Mapping[str, Any] | None = None) -> Iterator[str]:
    """A run on the tracking server: the one that `mlflow run` made, or a new one; gives its id.

    It ends as finished, as killed when the user stops it, or as failed when an error passes through. Logs commit,
    uncommitted changes, hardware and library versions.

    Args:
        entry_point: what makes it.
        run_id: of a run that goes on.
        parent: id of the run whose child it is; it stands in the same experiment.
        tags: to begin with.

    Raises:
        InputError: the store can't be used.
    """
    lookup.quiet()
    lookup.check_store()
    try:
        place = MlflowClient().get_run(parent).info.experiment_id if parent else None
        active = mlflow.start_run(
            run_id or None, place, nested=True, parent_run_id=parent or None, tags=tags, log_system_metrics=True
        )
    except MlflowException as error:
        raise lookup.unusable(error) from None
    with active:
        try:
            if run_id and entry_point != "tune":  # whose counts change
                EARLIER[run_id] = lookup.logged(run_id)
            mlflow.set_tag(lookup.ENTRY_TAG, entry_point)
            name_run()
            log_code()
            log_json("environment.json", environment())
            yield active.info.run_id
        except KeyboardInterrupt:
            mlflow.end_run("KILLED")
            raise


def name_run(system: str = "") -> None:
    """Puts what the run does before the random name that MLflow made, so that lists of runs can be read."""
    active = mlflow.active_run()
    assert active is not None
    run = MlflowClient().get_run(active.info.run_id)
    entry_point = run.data.tags[lookup.ENTRY_TAG]
    random = re.fullmatch(rf"(?:{entry_point}-)?([a-z]+-[a-z]+-\d+)", run.info.run_name)
    words = [system] if system and entry_point in ("train", "main") else [entry_point, system]
    if system and lookup.TRIAL_TAG in run.data.tags:
        words = [f"trial-{int(run.data.tags[lookup.TRIAL_TAG]):03d}", system]
    if random:
        mlflow.set_tag("mlflow.runName", "-".join([*filter(None, words), random[1]]))


def log_code() -> None:
    """Tags the commit and whether the tree differs from it; the difference is an artifact."""
    commit, changes, difference = code()
    mlflow.set_tags({"git.commit": commit} | ({} if commit == "none" else {"git.dirty": default_text(bool(changes))}))
    if changes:
        mlflow.log_text(f"{changes}\n{difference}", "uncommitted.diff.txt")


def log_settings(settings: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Every resolved option as a param, and with all details as settings.json.

    A param that `mlflow run` has logged already stays as it was typed: params can't be changed.
    """
    active = mlflow.active_run()
    assert active is not None
    client = MlflowClient()
    logged = client.get_run(active.info.run_id).data.params
    params = [Param(name, default_text(value)) for name, value in settings.items() if name not in logged]
    client.log_batch(active.info.run_id, params=params)
    log_json("settings.json", {"options": dict(settings), **details})


def log_json(name: str, content: Any) -> None:
    """A JSON artifact."""
    log_text(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def log_text(name: str, text: str) -> None:
    """A text artifact."""
    mlflow.log_text(text, name)


def log_corpus(clips: pd.DataFrame, name: str, folder: Path, digest: str) -> None:
    """The corpus as an MLflow dataset with the digest of its whole content."""
    data = mlflow.data.from_pandas(clips, source=str(folder), name=name, digest=digest[:32])
    mlflow.log_input(data, context="corpus")
    mlflow.set_tags({lookup.DIGEST_TAG: digest, lookup.CORPUS_TAG: name})


def log_system(system: str, task: str, protocol: str) -> None:
    """What the run trains or evaluates, as tags that `compare` and `continued` systems look for."""
    mlflow.set_tags({lookup.SYSTEM_TAG: system, lookup.TASK_TAG: task, lookup.PROTOCOL_TAG: protocol})
    name_run(system)


def log_evaluated(source: Run, protocol: str) -> None:
    """Tags the training run that the present run evaluates, and what it trained."""
    mlflow.set_tag(lookup.EVALUATED_TAG, source.info.run_id)
    log_system(source.data.tags[lookup.SYSTEM_TAG], source.data.tags[lookup.TASK_TAG], protocol)


def log_metrics(metrics: Mapping[str, float], step: int = 0) -> None:
    """Metrics in one request, those that an earlier process has logged at that step left out; undefined ones as NaN."""
    active = mlflow.active_run()
    assert active is not None
    now = int(np.datetime64("now", "ms").astype(np.int64))
    earlier = EARLIER.get(active.info.run_id, ())
    entries = [Metric(name, float(value), now, step) for name, value in metrics.items() if (name, step) not in earlier]
    for start in range(0, len(entries), 1000):
        MlflowClient().log_batch(active.info.run_id, metrics=entries[start : start + 1000])


def log_table(table: pd.DataFrame, name: str) -> None:
    """A table as an artifact: CSV (which the UI shows) or Parquet, by its name's ending."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
        mlflow.log_artifact(str(path), str(Path(name).parent))


def log_figure(figure: Figure, name: str) -> None:
    """A picture as an artifact, PNG."""
    mlflow.log_figure(figure, name, save_kwargs={"dpi": 150})


def log_checkpoint(path: Path, checkpoint: Checkpoint) -> str:
    """Logs the served model around a checkpoint; returns its URI, also kept as a tag of the run.

    Args:
        path: the checkpoint's file.
        checkpoint: what it holds, for signature and example.
    """
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(serving.__file__)),
        artifacts={"weights": str(path)},
        code_paths=[str(PROJECT / "exvo")],
        signature=serving.signature(checkpoint.task),
        input_example=serving.example(checkpoint),
        pip_requirements=[f"{name}=={version(name)}" for name in SERVED],
    )
    mlflow.set_tag(lookup.MODEL_TAG, info.model_uri)
    return str(info.model_uri)


def drop_models() -> None:
    """Deletes the models that earlier processes have logged in the present run, perhaps by halves."""
    active = mlflow.active_run()
    assert active is not None
    if active.info.run_id not in EARLIER:
        return
    client = MlflowClient()
    query = f"source_run_id = '{active.info.run_id}'"
    for model in client.search_logged_models([active.info.experiment_id], query):
        client.delete_logged_model(model.model_id)


def set_tags(tags: Mapping[str, Any]) -> None:
    """Tags of the present run."""
    mlflow.set_tags({name: str(value)[:5000] for name, value in tags.items()})


def end_run(status: str) -> None:
    """Ends the present run as FAILED or KILLED."""
    mlflow.end_run(status)


def bury_run(run_id: str) -> None:
    """Ends as killed the run of a trial whose process is gone, where this server has it and it has not ended."""
    client = MlflowClient()
    if lookup.known_run(run_id) and client.get_run(run_id).info.status == "RUNNING":
        client.set_tag(run_id, lookup.TRIAL_STATE_TAG, "killed")
        client.set_terminated(run_id, "KILLED")


def log_parent(parent: Run) -> None:
    """Tags the run whose weights the present run starts from."""
    mlflow.set_tag(lookup.PARENT_TAG, parent.info.run_id)


def where_to_look(run_id: str) -> str:
    """The run's name, and how to open it in the UI."""
    source = MlflowClient().get_run(run_id)
    place = f"#/experiments/{source.info.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        return f"run    {source.info.run_name} ({run_id})\nopen   {uri.rstrip('/')}/{place}"
    return f"run    {source.info.run_name} ({run_id})\nopen   `make ui`, then http://127.0.0.1:5000/{place}"
