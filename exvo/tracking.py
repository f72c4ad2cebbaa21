"""Runs, artifacts and models on the tracking server. The only importer of MLflow beside the served model."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import warnings
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

from exvo import serving
from exvo.config import InputError, default_text
from exvo.networks import Checkpoint, load
from exvo.provenance import PROJECT, code, environment
from exvo.systems import SHORT_NAMES

SERVED = ("mlflow", "torch", "torchaudio", "numpy", "pandas", "pyarrow", "soundfile", "soxr", "safetensors", "tqdm")
MODEL_TAG = "exvo.model_uri"
DIGEST_TAG = "exvo.corpus_digest"
ENTRY_TAG = "exvo.entry_point"
SYSTEM_TAG = "exvo.system"
TASK_TAG = "exvo.task"
PROTOCOL_TAG = "exvo.protocol"
CORPUS_TAG = "exvo.corpus"
EVALUATED_TAG = "exvo.evaluated_run"
DONE = f"tags.`{MODEL_TAG}` LIKE '%' and attributes.status = 'FINISHED'"
PARENT_TAG = "exvo.parent_run"
RESULT_TAGS = {
    "system": SYSTEM_TAG,
    "corpus": CORPUS_TAG,
    "digest": DIGEST_TAG,
    "task": TASK_TAG,
    "protocol": PROTOCOL_TAG,
    "evaluated_run": EVALUATED_TAG,
}


def quiet() -> None:
    """MLflow's and its database's own messages only from warnings on, and no bars of single downloads."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    warnings.filterwarnings("ignore", "The specified dataset source can be interpreted in multiple ways")


def check_store() -> None:
    """Refuses a folder in which MLflow's default store can't work.

    Raises:
        InputError: runs of an old file store lie in ./mlruns.
    """
    if mlflow.get_tracking_uri().startswith("sqlite") and any(Path("mlruns").glob("*/meta.yaml")):
        raise InputError(
            "The folder mlruns holds runs of MLflow's old file store, which MLflow 3 no longer reads; move them with "
            "`mlflow migrate-filestore`, or move the folder away."
        )


@contextmanager
def run(entry_point: str) -> Iterator[str]:
    """A run on the tracking server: the one that `mlflow run` made, or a new one; gives its id.

    It ends as finished, or as failed when an error passes through. Logs commit, uncommitted changes, hardware and
    library versions.

    Raises:
        InputError: the store can't be used.
    """
    quiet()
    check_store()
    try:
        active = mlflow.start_run(log_system_metrics=True)
    except MlflowException as error:
        raise unusable(error) from None
    with active:
        mlflow.set_tag(ENTRY_TAG, entry_point)
        name_run()
        log_code()
        log_json("environment.json", environment())
        yield active.info.run_id


def name_run(system: str = "") -> None:
    """Puts what the run does before the random name that MLflow made, so that lists of runs can be read."""
    active = mlflow.active_run()
    assert active is not None
    run = MlflowClient().get_run(active.info.run_id)
    entry_point = run.data.tags[ENTRY_TAG]
    random = re.fullmatch(rf"(?:{entry_point}-)?([a-z]+-[a-z]+-\d+)", run.info.run_name)
    words = [system] if system and entry_point in ("train", "main") else [entry_point, system]
    if random:
        mlflow.set_tag("mlflow.runName", "-".join([*filter(None, words), random[1]]))


def unusable(error: MlflowException) -> InputError:
    """What to raise where the tracking server fails."""
    return InputError(f"The tracking server {mlflow.get_tracking_uri()} can't be used: {first_line(error)}")


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
    mlflow.set_tags({DIGEST_TAG: digest, CORPUS_TAG: name})


def log_system(system: str, task: str, protocol: str) -> None:
    """What the run trains or evaluates, as tags that `compare` and `continued` systems look for."""
    mlflow.set_tags({SYSTEM_TAG: system, TASK_TAG: task, PROTOCOL_TAG: protocol})
    name_run(system)


def log_evaluated(source: Run, protocol: str) -> None:
    """Tags the training run that the present run evaluates, and what it trained."""
    mlflow.set_tag(EVALUATED_TAG, source.info.run_id)
    log_system(source.data.tags[SYSTEM_TAG], source.data.tags[TASK_TAG], protocol)


def log_metrics(metrics: Mapping[str, float], step: int = 0) -> None:
    """Metrics in one request; an undefined one is logged as NaN."""
    active = mlflow.active_run()
    assert active is not None
    now = int(np.datetime64("now", "ms").astype(np.int64))
    entries = [Metric(name, float(value), now, step) for name, value in metrics.items()]
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


def log_checkpoint(path: Path, checkpoint: Checkpoint, example: pd.DataFrame) -> str:
    """Logs the served model around a checkpoint; returns its URI, also kept as a tag of the run.

    Args:
        path: the checkpoint's file.
        checkpoint: what it holds, for the signature.
        example: a request of one clip.
    """
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(serving.__file__)),
        artifacts={"weights": str(path)},
        code_paths=[str(PROJECT / "exvo")],
        signature=serving.signature(checkpoint.task),
        input_example=example,
        pip_requirements=[f"{name}=={version(name)}" for name in SERVED],
    )
    mlflow.set_tag(MODEL_TAG, info.model_uri)
    return str(info.model_uri)


def find_run(name: str, option: str = "run_id") -> Run:
    """The run with that id, else the newest of that name, else the newest finished training run of that system.

    Args:
        name: what the user gave.
        option: where.

    Raises:
        InputError: there is none.
    """
    quiet()
    check_store()
    if not name:
        raise InputError(f"{option} is empty; give the id or the name of a run, as `train` prints it, or a system.")
    client = MlflowClient()
    try:
        return client.get_run(name)
    except MlflowException:
        pass
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    quoted = name.replace("'", "")
    queries = [
        f"attributes.run_name = '{quoted}'",
        f"tags.`{SYSTEM_TAG}` = '{SHORT_NAMES.get(quoted, quoted)}' and {DONE}",
    ]
    newest = ["attributes.start_time DESC"]
    found = [run for query in queries for run in client.search_runs(experiments, query, max_results=1, order_by=newest)]
    if not found:
        raise InputError(
            f"{option}={name}: the tracking server {mlflow.get_tracking_uri()} has no run of that id or name, and no "
            "finished training run of a system of that name; `make personalisation` makes some to begin with."
        )
    return found[0]


def parent_run(system: str, width: float, score: str) -> Run | None:
    """The finished training run of a system with the best `score` on val, of the present run's corpus, task, protocol.

    None where there is none of that width.
    """
    active = mlflow.active_run()
    assert active is not None
    client = MlflowClient()
    tags = client.get_run(active.info.run_id).data.tags
    wanted = {SYSTEM_TAG: system} | {name: tags[name] for name in (DIGEST_TAG, TASK_TAG, PROTOCOL_TAG)}
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in wanted.items())
    query += f" and {DONE}"
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, query, order_by=[f"metrics.`val/{score}` DESC"], max_results=1000)
    return next((one for one in found if float(one.data.params["width"]) == width), None)


def log_parent(parent: Run) -> None:
    """Tags the run whose weights the present run starts from."""
    mlflow.set_tag(PARENT_TAG, parent.info.run_id)


def finished_runs() -> pd.DataFrame:
    """The finished runs that train or evaluate a system, newest first.

    Returns:
        One row a run: run_id, run (its name), start, the columns of `RESULT_TAGS` ('' where a run lacks the tag), and
        metrics, a dictionary.

    Raises:
        InputError: the store can't be used.
    """
    quiet()
    check_store()
    query = f"attributes.status = 'FINISHED' and tags.`{SYSTEM_TAG}` LIKE '%'"
    try:
        found = mlflow.search_runs(filter_string=query, output_format="list", search_all_experiments=True)
    except MlflowException as error:
        raise unusable(error) from None
    rows = []
    for one in found:
        tags = [one.data.tags.get(tag, "") for tag in RESULT_TAGS.values()]
        rows.append((one.info.run_id, one.info.run_name, one.info.start_time, *tags, one.data.metrics))
    return pd.DataFrame(rows, columns=["run_id", "run", "start", *RESULT_TAGS, "metrics"])


def load_table(run_id: str, name: str) -> pd.DataFrame | None:
    """A table that `log_table` has logged as Parquet; None where the run has none of that name."""
    client = MlflowClient()
    if name not in {item.path for item in client.list_artifacts(run_id, str(Path(name).parent))}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return pd.read_parquet(client.download_artifacts(run_id, name, folder))


def history(run_id: str) -> pd.DataFrame:
    """The metrics of each epoch of a training run: one row an epoch, in the index, and a column a metric (`loss`, ...).

    Empty where the run has logged none.
    """
    client = MlflowClient()
    logged = [name for name in client.get_run(run_id).data.metrics if name.startswith("epoch/")]
    columns = {
        name.removeprefix("epoch/"): {point.step: point.value for point in client.get_metric_history(run_id, name)}
        for name in logged
    }
    return pd.DataFrame(columns).sort_index().rename_axis("epoch")


def load_settings(source: Run) -> dict[str, Any]:
    """The settings.json of a training run.

    Raises:
        InputError: the run has none.
    """
    try:
        text = mlflow.artifacts.load_text(f"{source.info.artifact_uri}/settings.json")
    except Exception as error:  # each artifact store has its own errors
        raise InputError(
            f"The run {source.info.run_name} has no settings.json ({first_line(error)}); is it a training run?"
        ) from None
    loaded: dict[str, Any] = json.loads(text)
    return loaded


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
    with tempfile.TemporaryDirectory() as folder:
        place = MlflowClient().get_logged_model(uri.rsplit("/", 1)[1]).artifact_location
        return load(Path(mlflow.artifacts.download_artifacts(f"{place}/artifacts/{serving.WEIGHTS}", dst_path=folder)))


def where_to_look(run_id: str) -> str:
    """The run's name, and how to open it in the UI."""
    source = MlflowClient().get_run(run_id)
    place = f"#/experiments/{source.info.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        return f"run    {source.info.run_name} ({run_id})\nopen   {uri.rstrip('/')}/{place}"
    return f"run    {source.info.run_name} ({run_id})\nopen   `make ui`, then http://127.0.0.1:5000/{place}"
