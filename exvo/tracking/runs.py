"""What a run logs: options, code, metrics, tables, pictures, models."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from exvo.errors import InputError
from exvo.options import command_line, launched_run
from exvo.settings import TrainSettings
from exvo.text import all_writable, default_text, writable
from exvo.tracking import artifacts, lookup, names, server
from exvo.tracking.delivery import RunLog, now
from exvo.tracking.entries import Artifact, Dataset, Metrics, Model, Name, Params, Tags
from exvo.tracking.provenance import Code, code, environment
from exvo.tracking.tags import (
    COMMAND_TAG,
    CORPUS_TAG,
    DIGEST_TAG,
    ENTRY_TAG,
    EVALUATED_TAG,
    FAILURE,
    FOLD_TAG,
    NOTE,
    PARENT_TAG,
    PROTOCOL_TAG,
    SYSTEM_TAG,
    TASK_TAG,
    TRIAL_STATE_TAG,
    TRIAL_TAG,
)

if TYPE_CHECKING:  # drawing takes part of a second to import, and most commands draw nothing
    from matplotlib.figure import Figure

    from exvo.reports.page import Page

_logs: list[RunLog] = []
"""What this process logs to now: the last one is the present run's."""


def present_run() -> RunLog:
    """The present run, the one that this process has begun last and not ended: all that is logged goes to it."""
    return _logs[-1]


@contextmanager
def logging_to(log: RunLog) -> Iterator[None]:
    """Makes a run the present one."""
    _logs.append(log)
    try:
        yield
    finally:
        _logs.remove(log)


@contextmanager
def start_run(
    entry_point: str, run_id: str = "", parent: str = "", tags: Mapping[str, Any] | None = None, output: str = "output"
) -> Iterator[str]:
    """A run on the tracking server: the one that `mlflow run` made, or a new one; gives its id.

    It ends as finished, as killed when the user stops it, or as failed when an error passes through; a new run whose
    input is refused is removed, unless MLflow has made it or something was computed. Logs commit,
    uncommitted changes, hardware and library versions. Where the server goes away in the middle, what is logged is
    kept in `<output>/runs/<run_id>/journal` and delivered when it is back, or by `sync`.

    Args:
        entry_point: what makes it.
        run_id: of a run that goes on.
        parent: id of the run whose child it is; it stands in the same experiment.
        tags: to begin with.
        output: the output folder.

    Raises:
        InputError: the store can't be used, or the run or its experiment is deleted.
    """
    log = _begin(entry_point, run_id, parent, tags, output)
    status, is_refused = "FAILED", False
    try:
        with logging_to(log):
            set_tags({ENTRY_TAG: entry_point})
            name_run()
            log_code()
            log_json("environment.json", environment())
            yield log.run_id
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except InputError:
        was_there = run_id or parent or log.run_id == launched_run() or entry_point == "tune"
        is_refused = not (log.has_results or was_there)
        raise
    except MlflowException as error:
        if error.get_http_status_code() < 500:
            raise
        raise server.unusable(error) from None
    finally:
        problem = _end(log, log.status or status)
        if is_refused:
            _remove(log.run_id)
        elif problem:
            print(
                f"What the run logged is not all on the tracking server ({problem}): the rest is kept in "
                f"{log.folder}, and `{command_line('sync', {'output': output})}` delivers it.",
                flush=True,
            )


def _begin(entry_point: str, run_id: str, parent: str, tags: Mapping[str, Any] | None, output: str) -> RunLog:
    """Begins a run, or goes on with one, see `start_run`."""
    server.quiet()
    server.check_store()
    if code().changes is None:  # so that MLflow neither waits for git nor tags the commit of a repository around ours
        os.environ["GIT_PYTHON_GIT_EXECUTABLE"] = "/dev/no-git"
    client = MlflowClient()
    try:
        experiment = client.get_run(parent).info.experiment_id if parent else None
        active = mlflow.start_run(
            run_id or None, experiment, nested=True, parent_run_id=parent or None, tags=tags, log_system_metrics=True
        )
        earlier = lookup.logged_metrics(run_id) if run_id and entry_point != "tune" else {}  # a study's counts change
        run = client.get_run(active.info.run_id)
        if run.data.tags.get(NOTE, "").startswith(FAILURE):
            client.delete_tag(run.info.run_id, NOTE)
    except MlflowException as error:
        raise _no_run(error, run_id or launched_run()) from None
    return RunLog(run, Path(output) / "runs" / run.info.run_id / "journal", earlier)


def _end(log: RunLog, status: str) -> str | None:
    """Ends a run with that status; returns why not all of it is on the server, or None."""
    problem: str | None = "it could not be kept"
    try:
        problem = log.end(status)
    finally:
        with suppress(MlflowException):  # it has ended there already, or is to end when all is delivered
            mlflow.end_run("RUNNING" if problem else status)
    return problem


def _no_run(error: MlflowException, run_id: str) -> InputError:
    """Why a run could not begin or go on."""
    run = names.run_of_id(run_id) if run_id else None
    if run is not None and run.info.lifecycle_stage == "deleted":
        return InputError(names.deleted([run]))
    deleted = re.search(r"The experiment (\S+) " + server.DELETED, str(error))
    if deleted:
        restores = names.restore_experiment(MlflowClient().get_experiment(deleted[1]))
        return InputError(f"New runs can't begin. {restores} Or set MLFLOW_EXPERIMENT_NAME to another one.")
    return server.unusable(error)


def _remove(run_id: str) -> None:
    """Deletes a run whose input was refused; it is not taken for an unfinished one."""
    with suppress(MlflowException):
        MlflowClient().delete_tag(run_id, COMMAND_TAG)
    with suppress(MlflowException):
        MlflowClient().delete_run(run_id)


def describe_failure(sentence: str) -> None:
    """Ends the run that `mlflow run` has made for this command as failed, with the reason as its description."""
    run_id = launched_run()
    if not run_id or server.has_failed():
        return
    server.quiet()
    with suppress(MlflowException, InputError):
        server.check_store()
        client = MlflowClient()
        client.set_tag(run_id, NOTE, writable(f"{FAILURE}{sentence}")[:5000])
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, "FAILED")


def name_run(system: str = "") -> None:
    """Puts what the run does before the random name that MLflow made, so that lists of runs can be read."""
    log = present_run()
    entry_point = log.tags[ENTRY_TAG]
    random = re.fullmatch(rf"(?:{entry_point}-)?([a-z]+-[a-z]+-\d+)", log.name)
    words = [system] if system and entry_point in ("train", "main") else [entry_point, system]
    if system and TRIAL_TAG in log.tags:
        words = [f"trial-{int(log.tags[TRIAL_TAG]):03d}", system]
    if system and FOLD_TAG in log.tags:
        words = [f"fold-{log.tags[FOLD_TAG]}", system]
    if random:
        log.add(Name("-".join([*filter(None, words), random[1]])))


def log_code() -> None:
    """Tags the commit and whether the tree differs from it; the difference is an artifact. Says what git can't tell."""
    present = code()
    dirty = "unknown" if present.changes is None else default_text(bool(present.changes))
    set_tags({"git.commit": present.commit} | ({} if present.commit == "none" else {"git.dirty": dirty}))
    if present.problem:
        set_tags({"git.problem": present.problem})
        say_problem(present)
    if present.changes:
        log_text("uncommitted.diff.txt", f"{present.changes}\n{present.difference}")


@cache
def say_problem(present: Code) -> None:
    """Prints, once in a process, why git could not tell all about the code."""
    if present.commit == "none":
        print(f"the run's commit is logged as none: {present.problem}", flush=True)
    else:
        print(
            f"the run's commit {present.commit[:12]} was read from the checkout's files, and uncommitted changes are "
            f"not known: {present.problem}",
            flush=True,
        )


def log_settings(settings: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Logs every resolved option as a param, and all of them with the details as settings.json.

    A param that `mlflow run` has logged already stays as it was typed: params can't be changed.
    """
    log = present_run()
    values = {name: default_text(value) for name, value in settings.items() if name not in log.params}
    if values:
        log.add(Params(values))
    log_json("settings.json", {"options": dict(settings), **details})


def log_json(name: str, content: Any) -> None:
    """Logs a JSON artifact."""
    log_text(name, json.dumps(all_writable(content), indent=2, ensure_ascii=False) + "\n")


def log_text(name: str, text: str) -> None:
    """Logs a text artifact."""
    log_bytes(name, writable(text).encode())


def log_bytes(name: str, content: bytes) -> None:
    """Logs a file as an artifact."""
    present_run().add(Artifact(name), content)


def log_dataset(clips: pd.DataFrame, name: str, folder: Path, digest: str) -> None:
    """Logs the corpus as an MLflow dataset with the digest of its whole content."""
    data = mlflow.data.from_pandas(clips, source=writable(str(folder)), name=name, digest=digest[:32])
    present_run().add(Dataset(data.to_dict()))
    set_tags({DIGEST_TAG: digest, CORPUS_TAG: name})


def log_system(system: str, task: str, protocol: str) -> None:
    """Tags what the run trains or evaluates; `compare` and systems that continue another one look for these tags."""
    set_tags({SYSTEM_TAG: system, TASK_TAG: task, PROTOCOL_TAG: protocol})
    name_run(system)


def log_evaluated(source: Run, protocol: str) -> None:
    """Tags the training run that the present run evaluates, and what it trained."""
    set_tags({EVALUATED_TAG: source.info.run_id})
    log_system(source.data.tags[SYSTEM_TAG], source.data.tags[TASK_TAG], protocol)


def log_metrics(metrics: Mapping[str, float], step: int = 0) -> None:
    """Logs metrics, but for those that an earlier process has logged at that step; undefined ones as NaN."""
    log = present_run()
    values = {name: float(value) for name, value in metrics.items() if (name, step) not in log.earlier}
    if values:
        log.add(Metrics(values, step, now()))


def trained(settings: TrainSettings) -> artifacts.Trained:
    """The present run, which has trained with these settings; no server is asked."""
    log = present_run()
    return artifacts.Trained(log.run_id, log.name, log.tags, settings, artifacts.epochs(log.metrics))


def log_table(table: pd.DataFrame, name: str) -> None:
    """Logs a table as an artifact: CSV (which the UI shows) or Parquet, by its name's ending."""
    file = io.BytesIO()
    table.to_csv(file, index=False) if name.endswith(".csv") else table.to_parquet(file, index=False)
    log_bytes(name, file.getvalue())


def log_figure(figure: Figure, name: str) -> None:
    """Logs a picture as a PNG artifact."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, bbox_inches="tight")
    log_bytes(name, file.getvalue())


def log_checkpoint(path: Path) -> None:
    """Logs the served model around a checkpoint, a file that must stay; its URI becomes a tag of the run."""
    present_run().add(Model(str(path.resolve())))


def set_tags(tags: Mapping[str, Any]) -> None:
    """Tags the present run; MLflow takes 5,000 characters of a value."""
    present_run().add(Tags({name: str(value)[:5000] for name, value in tags.items()}))


def keep_run() -> None:
    """Keeps the present run from now on, whatever ends it: what it computes takes time."""
    present_run().has_results = True


def end_run_as(status: str) -> None:
    """Has the present run end as FAILED or KILLED."""
    present_run().status = status


def end_run_of_dead_trial(run_id: str) -> None:
    """Ends as killed the run of a trial whose process is gone, where this server has it and it has not ended."""
    client = MlflowClient()
    with suppress(MlflowException):
        if lookup.run_exists(run_id) and client.get_run(run_id).info.status == "RUNNING":
            client.set_tag(run_id, TRIAL_STATE_TAG, "killed")
            client.set_terminated(run_id, "KILLED")


def log_parent(parent: Run) -> None:
    """Tags the run whose weights the present run starts from."""
    set_tags({PARENT_TAG: parent.info.run_id})


def where_to_look(run_id: str, to_see: bool = True) -> str:
    """The run's name, and how to open it in the UI where it has curves or a page `to_see`."""
    try:
        source = MlflowClient().get_run(run_id)
    except MlflowException:
        return f"run    {run_id}"
    place = f"#/experiments/{source.info.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"run    {source.info.run_name} ({run_id})" + (f"\nopen   {server.page(place)}" if to_see else "")


def log_page(name: str, page: Page) -> None:
    """Logs a page as `<name>.html`, its pictures as PNG and its numbers as Parquet in the folder `<name>`."""
    log_text(f"{name}.html", page.html())
    for section in page.sections:
        for picture in section.pictures:
            log_figure(picture.figure, f"{name}/{picture.name}.png")
        if section.numbers is not None:
            log_table(section.numbers, f"{name}/{section.name}.parquet")
