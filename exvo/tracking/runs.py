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
from exvo.text import all_writable, default_text, writable
from exvo.tracking import artifacts, lookup, names, server
from exvo.tracking.delivery import Record, now
from exvo.tracking.provenance import Code, code, environment
from exvo.tracking.tags import (
    COMMAND_TAG,
    CORPUS_TAG,
    DIGEST_TAG,
    ENTRY_TAG,
    EVALUATED_TAG,
    FAILURE,
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

RECORDS: list[Record] = []
"""What this process logs now: the last one is the present run."""


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
    server.quiet()
    server.check_store()
    if code().changes is None:  # so that MLflow neither waits for git nor tags the commit of a repository around ours
        os.environ["GIT_PYTHON_GIT_EXECUTABLE"] = "/dev/no-git"
    try:
        place = MlflowClient().get_run(parent).info.experiment_id if parent else None
        active = mlflow.start_run(
            run_id or None, place, nested=True, parent_run_id=parent or None, tags=tags, log_system_metrics=True
        )
        earlier = lookup.logged(run_id) if run_id and entry_point != "tune" else {}  # whose counts change
        began = MlflowClient().get_run(active.info.run_id)
        if began.data.tags.get(NOTE, "").startswith(FAILURE):
            MlflowClient().delete_tag(began.info.run_id, NOTE)
    except MlflowException as error:
        raise _no_run(error, run_id or launched_run()) from None
    record = Record(began, Path(output) / "runs" / began.info.run_id / "journal", earlier)
    RECORDS.append(record)
    status, refused = "FAILED", False
    try:
        set_tags({ENTRY_TAG: entry_point})
        name_run()
        log_code()
        log_json("environment.json", environment())
        yield record.run_id
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except InputError:
        refused = not (
            record.has_results or run_id or parent or record.run_id == launched_run() or entry_point == "tune"
        )
        raise
    except MlflowException as error:
        if error.get_http_status_code() < 500:
            raise
        raise server.unusable(error) from None
    finally:
        RECORDS.remove(record)
        problem = "it could not be kept"
        try:
            problem = record.end(record.status or status)
        finally:
            with suppress(MlflowException):  # it has ended there already, or is to end when all is delivered
                mlflow.end_run("RUNNING" if problem else record.status or status)
        if refused:
            _remove(record.run_id)
        elif problem:
            print(
                f"What the run logged is not all on the tracking server ({problem}): the rest is kept in "
                f"{record.folder}, and `{command_line('sync', {'output': output})}` delivers it.",
                flush=True,
            )


def _no_run(error: MlflowException, run_id: str) -> InputError:
    """Why a run could not begin or go on."""
    known = names.run_of_id(run_id) if run_id else None
    if known is not None and known.info.lifecycle_stage == "deleted":
        return InputError(names.deleted([known]))
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
    if not run_id or server.known_to_fail():
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
    record = RECORDS[-1]
    entry_point = record.tags[ENTRY_TAG]
    random = re.fullmatch(rf"(?:{entry_point}-)?([a-z]+-[a-z]+-\d+)", record.name)
    words = [system] if system and entry_point in ("train", "main") else [entry_point, system]
    if system and TRIAL_TAG in record.tags:
        words = [f"trial-{int(record.tags[TRIAL_TAG]):03d}", system]
    if random:
        record.add({"kind": "name", "value": "-".join([*filter(None, words), random[1]])})


def log_code() -> None:
    """Tags the commit and whether the tree differs from it; the difference is an artifact. Says what git can't tell."""
    known = code()
    dirty = "unknown" if known.changes is None else default_text(bool(known.changes))
    set_tags({"git.commit": known.commit} | ({} if known.commit == "none" else {"git.dirty": dirty}))
    if known.problem:
        set_tags({"git.problem": known.problem})
        say_problem(known)
    if known.changes:
        log_text("uncommitted.diff.txt", f"{known.changes}\n{known.difference}")


@cache
def say_problem(known: Code) -> None:
    """Prints, once in a process, why it is not known of the code what git would tell."""
    if known.commit == "none":
        print(f"the run's commit is logged as none: {known.problem}", flush=True)
    else:
        print(
            f"the run's commit {known.commit[:12]} was read from the checkout's files, and uncommitted changes are not "
            f"known: {known.problem}",
            flush=True,
        )


def log_settings(settings: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Every resolved option as a param, and with all details as settings.json.

    A param that `mlflow run` has logged already stays as it was typed: params can't be changed.
    """
    record = RECORDS[-1]
    values = {name: default_text(value) for name, value in settings.items() if name not in record.params}
    if values:
        record.add({"kind": "params", "values": values})
    log_json("settings.json", {"options": dict(settings), **details})


def log_json(name: str, content: Any) -> None:
    """A JSON artifact."""
    log_text(name, json.dumps(all_writable(content), indent=2, ensure_ascii=False) + "\n")


def log_text(name: str, text: str) -> None:
    """A text artifact."""
    log_bytes(name, writable(text).encode())


def log_bytes(name: str, content: bytes) -> None:
    """A file as an artifact."""
    RECORDS[-1].add({"kind": "artifact", "name": name}, content)


def log_corpus(clips: pd.DataFrame, name: str, folder: Path, digest: str) -> None:
    """The corpus as an MLflow dataset with the digest of its whole content."""
    data = mlflow.data.from_pandas(clips, source=writable(str(folder)), name=name, digest=digest[:32])
    RECORDS[-1].add({"kind": "dataset", "dataset": data.to_dict()})
    set_tags({DIGEST_TAG: digest, CORPUS_TAG: name})


def log_system(system: str, task: str, protocol: str) -> None:
    """What the run trains or evaluates, as tags that `compare` and `continued` systems look for."""
    set_tags({SYSTEM_TAG: system, TASK_TAG: task, PROTOCOL_TAG: protocol})
    name_run(system)


def log_evaluated(source: Run, protocol: str) -> None:
    """Tags the training run that the present run evaluates, and what it trained."""
    set_tags({EVALUATED_TAG: source.info.run_id})
    log_system(source.data.tags[SYSTEM_TAG], source.data.tags[TASK_TAG], protocol)


def log_metrics(metrics: Mapping[str, float], step: int = 0) -> None:
    """Metrics in one request, those that an earlier process has logged at that step left out; undefined ones as NaN."""
    record = RECORDS[-1]
    values = {name: float(value) for name, value in metrics.items() if (name, step) not in record.earlier}
    if values:
        record.add({"kind": "metrics", "values": values, "step": step, "time": now()})


def trained(options: Mapping[str, Any]) -> artifacts.Trained:
    """The present run, which has trained with these options; no server is asked."""
    record = RECORDS[-1]
    return artifacts.Trained(record.run_id, record.name, record.tags, options, artifacts.epochs(record.metrics))


def log_table(table: pd.DataFrame, name: str) -> None:
    """A table as an artifact: CSV (which the UI shows) or Parquet, by its name's ending."""
    file = io.BytesIO()
    table.to_csv(file, index=False) if name.endswith(".csv") else table.to_parquet(file, index=False)
    log_bytes(name, file.getvalue())


def log_figure(figure: Figure, name: str) -> None:
    """A picture as an artifact, PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, bbox_inches="tight")
    log_bytes(name, file.getvalue())


def log_checkpoint(path: Path) -> None:
    """Logs the served model around a checkpoint, a file that must stay; its URI becomes a tag of the run."""
    RECORDS[-1].add({"kind": "model", "weights": str(path.resolve())})


def set_tags(tags: Mapping[str, Any]) -> None:
    """Tags of the present run."""
    RECORDS[-1].add({"kind": "tags", "values": {name: str(value)[:5000] for name, value in tags.items()}})


def keep_run() -> None:
    """The present run stays from now on, whatever ends it: what it computes takes time."""
    RECORDS[-1].has_results = True


def end_run(status: str) -> None:
    """The present run is to end as FAILED or KILLED."""
    RECORDS[-1].status = status


def bury_run(run_id: str) -> None:
    """Ends as killed the run of a trial whose process is gone, where this server has it and it has not ended."""
    client = MlflowClient()
    with suppress(MlflowException):
        if lookup.known_run(run_id) and client.get_run(run_id).info.status == "RUNNING":
            client.set_tag(run_id, TRIAL_STATE_TAG, "killed")
            client.set_terminated(run_id, "KILLED")


def log_parent(parent: Run) -> None:
    """Tags the run whose weights the present run starts from."""
    set_tags({PARENT_TAG: parent.info.run_id})


def where_to_look(run_id: str) -> str:
    """The run's name, and how to open it in the UI."""
    try:
        source = MlflowClient().get_run(run_id)
    except MlflowException:
        return f"run    {run_id}"
    place = f"#/experiments/{source.info.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"run    {source.info.run_name} ({run_id})\nopen   {server.page(place)}"


def log_page(name: str, page: Page) -> None:
    """Logs a page as `<name>.html`, its pictures as PNG and its numbers as Parquet in the folder `<name>`."""
    log_text(f"{name}.html", page.html())
    for section in page.sections:
        for picture in section.pictures:
            log_figure(picture.figure, f"{name}/{picture.name}.png")
        if section.numbers is not None:
            log_table(section.numbers, f"{name}/{section.name}.parquet")
