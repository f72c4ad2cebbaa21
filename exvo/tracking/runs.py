"""What a run logs: options, code, metrics, tables, pictures, models."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from exvo.config import ELSEWHERE
from exvo.errors import InputError
from exvo.options import command_line, launched_run
from exvo.settings import ENTRY_POINTS, TrainSettings, automatic
from exvo.systems import SHORT_NAMES
from exvo.text import all_writable, default_text, writable
from exvo.tracking import artifacts, ends, experiments, labels, lookup, server
from exvo.tracking.delivery import RunLog, now
from exvo.tracking.entries import Artifact, Dataset, Metrics, Model, Name, Params, Tags
from exvo.tracking.provenance import code, environment, say_problem
from exvo.tracking.tags import (
    CORPUS_TAG,
    DIGEST_TAG,
    ELSEWHERE_TAG,
    ENTRY_TAG,
    EVALUATED_TAG,
    FAILURE,
    NOTE,
    PARENT_TAG,
    PROTOCOL_TAG,
    SYSTEM_TAG,
    TASK_TAG,
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
    entry_point: str,
    run_id: str = "",
    parent: str = "",
    tags: Mapping[str, Any] | None = None,
    output: str = "output",
    experiment: str | None = None,
    beside: str = "",
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
        experiment: the name of that of a new run, empty where MLflow's variables say; None: see `UTILITIES`.
        beside: id of a run in whose experiment a new one stands, whatever the variables say.

    Raises:
        InputError: the store can't be used, or the run or its experiment is deleted.
    """
    log = _begin(entry_point, run_id, parent, tags, output, experiment, beside)
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
            ends.remove(log.run_id)
            shutil.rmtree(log.folder, ignore_errors=True)  # of a run that is not there `sync` would complain for ever
        elif problem:
            print(
                f"What the run logged is not all on the tracking server ({problem}): the rest is kept in "
                f"{log.folder}, and `{command_line('sync', {'output': output})}` delivers it.",
                flush=True,
            )


def _begin(
    entry_point: str,
    run_id: str,
    parent: str,
    tags: Mapping[str, Any] | None,
    output: str,
    experiment: str | None,
    beside: str,
) -> RunLog:
    """Begins a run, or goes on with one, see `start_run`."""
    server.quiet()
    server.check_store()
    if code().changes is None:  # so that MLflow neither waits for git nor tags the commit of a repository around ours
        os.environ["GIT_PYTHON_GIT_EXECUTABLE"] = "/dev/no-git"
    client = MlflowClient()
    try:
        place = None if run_id else experiments.place(experiment, parent or beside)
        active = mlflow.start_run(
            run_id or None, place, nested=True, parent_run_id=parent or None, tags=tags, log_system_metrics=True
        )
        earlier = lookup.logged_metrics(run_id) if run_id and entry_point != "tune" else {}  # a study's counts change
        run = client.get_run(active.info.run_id)
        if run.data.tags.get(NOTE, "").startswith(FAILURE):
            client.delete_tag(run.info.run_id, NOTE)
    except MlflowException as error:
        raise experiments.cannot_begin(error, run_id or launched_run()) from None
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


def name_run(system: str = "", details: str = "") -> None:
    """Gives the present run the name of `labels.run_name`."""
    log = present_run()
    name = labels.run_name(log, system, details)
    if name != log.name:
        log.add(Name(name))


def describe(text: str) -> None:
    """Describes the present run, in Markdown, unless a user has."""
    log = present_run()
    if labels.may_describe(log.tags.get(NOTE, "")):
        set_tags({NOTE: text})


def artifact_page(name: str) -> str:
    """The address of an artifact of the present run within the UI."""
    log = present_run()
    return labels.artifact_page(log.experiment_id, log.run_id, name)


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


def log_settings(settings: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Logs every option as a param, those that can be `auto` as `resolved.<option>` too, and all as settings.json.

    A param that `mlflow run` has logged already stays as it was typed: params can't be changed.

    Args:
        settings: as far as they are resolved.
        details: that settings.json holds besides.
    """
    log = present_run()
    values = {name: default_text(value) for name, value in settings.items() if name not in log.params}
    if values:
        log.add(Params(values))
    log_resolved(settings)
    log_json("settings.json", {"options": dict(settings), **details})


def log_resolved(settings: Mapping[str, Any]) -> None:
    """Logs what became of options that can be `auto`, once each; passes over those that still are."""
    log = present_run()
    options = automatic(ENTRY_POINTS[log.tags[ENTRY_TAG]]) if ENTRY_TAG in log.tags else []
    texts = {f"resolved.{name}": default_text(settings[name]) for name in options if name in settings}
    values = {name: text for name, text in texts.items() if text != "auto" and name not in log.params}
    if values:
        log.add(Params(values))


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


def log_system(system: str, task: str, protocol: str, details: str = "") -> None:
    """Tags what the run trains or evaluates; `compare` and systems that continue another one look for these tags.

    `details` are those of its name, see `name_run`.
    """
    set_tags({SYSTEM_TAG: system, TASK_TAG: task, PROTOCOL_TAG: protocol})
    name_run(next((short for short, full in SHORT_NAMES.items() if full == system), system), details)


def log_evaluated(source: Run, protocol: str, elsewhere: str = "") -> None:
    """Tags the training run that the present run evaluates, and what it trained.

    Where that is done on another corpus, `elsewhere` is its kind, and the tag of the protocol is one of its own.
    """
    set_tags({EVALUATED_TAG: source.info.run_id} | ({ELSEWHERE_TAG: elsewhere} if elsewhere else {}))
    tagged = f"{ELSEWHERE}-{protocol}" if elsewhere else protocol
    log_system(source.data.tags[SYSTEM_TAG], source.data.tags[TASK_TAG], tagged)


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


def log_parent(parent: Run) -> None:
    """Tags the run whose weights the present run starts from."""
    set_tags({PARENT_TAG: parent.info.run_id})


def log_page(name: str, page: Page) -> None:
    """Logs a page as `<name>.html`, its pictures as PNG and its numbers as Parquet in the folder `<name>`."""
    log_text(f"{name}.html", page.html())
    for section in page.sections:
        for picture in section.pictures:
            log_figure(picture.figure, f"{name}/{picture.name}.png")
        if section.numbers is not None:
            log_table(section.numbers, f"{name}/{section.name}.parquet")
