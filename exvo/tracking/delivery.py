"""Brings what a run logs to the tracking server, at once or, where the server is away, from its journal later.

Whatever is sent may be sent again: tags, params and artifacts take the place of their equals, a point of a metric has
its time from when it was made, and of equal points MLflow's databases keep one; a model of the same run is deleted
before it is logged. So nothing is doubled when a process dies between sending and noting that it has sent.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset as LoggedDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from exvo.errors import InputError
from exvo.extras import require
from exvo.tracking import names, server
from exvo.tracking.entries import (
    Artifact,
    Dataset,
    Destination,
    End,
    Entry,
    Metrics,
    Model,
    Name,
    Params,
    Tags,
    destination,
    holds_results,
    must_wait,
    with_writable_texts,
)
from exvo.tracking.journal import Journal

RETRY_SECONDS = 30.0
"""Seconds before a server that was away is asked again; more where it takes long not to answer."""

PAUSE_FACTOR = 10
"""A pause is at least so many times as long as the attempt before it."""

CONTEXT = ("mlflow.data.context", "corpus")
"""Of a dataset: MLflow's tag, and what it is here."""

METRICS_A_REQUEST = 1000
"""What MLflow takes in one request."""


class RunLog:
    """What one run logs, on its way to the server.

    Attributes:
        run_id: on the server.
        name: of the run.
        experiment_id: of its experiment.
        tags: by name, also those of earlier processes.
        params: by name, also those of earlier processes.
        earlier: the metrics that earlier processes have logged, by name and step.
        metrics: those and this process' own.
        status: with which the run is to end; empty: finished, unless an error comes.
        has_results: whether it has logged more than what describes it, or is about to.
        folder: of its journal, which is made when the server is away.
    """

    def __init__(self, run: Run, folder: Path, earlier: Mapping[tuple[str, int], float] | None = None) -> None:
        self.run_id, self.name, self.experiment_id = run.info.run_id, run.info.run_name, run.info.experiment_id
        self.tags, self.params = dict(run.data.tags), dict(run.data.params)
        self.folder, self.status, self.has_results = folder, "", False
        self.earlier = dict(earlier or {})
        self.metrics = dict(self.earlier)
        self._journal = Journal(folder) if folder.is_dir() else None
        self._next_delivery = 0.0

    def add(self, entry: Entry, content: bytes | None = None) -> None:
        """Sends an entry, or keeps it where it, or an earlier one for the same destination, can't be sent.

        Bytes of a file's name that are not UTF-8 reach the server as backslash escapes.

        Args:
            entry: what is logged.
            content: of an artifact.

        Raises:
            InputError: the server refuses it for good, or it can be neither sent nor kept.
        """
        entry = with_writable_texts(entry)
        self._note(entry)
        if self._journal is None or not must_wait(entry, destinations(self._journal)):
            try:
                self._send(entry, content)
            except Exception as error:
                if not is_away(entry, error):
                    raise
                self._keep(entry, content, error)
        else:
            self._journal.keep(entry, content)
        if self._journal is not None and time.monotonic() > self._next_delivery:
            self.deliver_kept()

    def deliver_kept(self) -> str | None:
        """Sends what is kept, as far as the server takes it.

        Returns:
            The first reason why something is still kept; None where nothing is.
        """
        if self._journal is None:
            return None
        problem: str | None = None
        away, began = set[Destination](), time.monotonic()
        for number, entry in list(self._journal.pending.items()):
            if must_wait(entry, away):
                continue
            try:
                send(self.run_id, entry, self._journal.file_of(entry) if isinstance(entry, Artifact) else None)
                self._journal.done(number)
            except Exception as error:
                problem = problem or server.why(error)
                if is_away(entry, error):
                    away.add(destination(entry))
        seconds = time.monotonic() - began
        self._next_delivery = time.monotonic() + max(RETRY_SECONDS, PAUSE_FACTOR * seconds if problem else 0)
        if not self._journal.pending:
            self._journal.close()
            self._journal = None
            print("what was kept of the run has been delivered to the tracking server")
        return problem

    def end(self, status: str) -> str | None:
        """Ends the run, and delivers what is left.

        Returns:
            As `deliver_kept`.
        """
        try:
            self.add(End(status, now()))
            return self.deliver_kept()
        finally:
            self.close()

    def close(self) -> None:
        """Lets go of the journal, if there is one; what is in it stays."""
        if self._journal:
            self._journal.close()

    def _note(self, entry: Entry) -> None:
        """Keeps in memory what the run has from now on."""
        self.has_results |= holds_results(entry)
        match entry:
            case Name(name):
                self.name = name
            case Tags(tags):
                self.tags.update(tags)
            case Params(params):
                self.params.update(params)
            case Metrics(values, step):
                self.metrics |= {(name, step): value for name, value in values.items()}
            case _:
                pass

    def _send(self, entry: Entry, content: bytes | None) -> None:
        if content is None or not isinstance(entry, Artifact):
            return send(self.run_id, entry)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(entry.name).name
            path.write_bytes(content)
            send(self.run_id, entry, path)

    def _keep(self, entry: Entry, content: bytes | None, error: Exception) -> None:
        if self._journal is None:
            self._journal = Journal(self.folder)
            self._next_delivery = time.monotonic() + RETRY_SECONDS
            reason = f"The {destination(entry)} of {server.shown_uri()} is away ({server.why(error)})"
            if server.DELETED in str(error):
                run = names.run_of_id(self.run_id)
                reason = names.deleted([run])[:-1] if run else f"The run {self.run_id} is deleted"
            print(
                f"{reason}; this goes on, and what it logs is kept in {self.folder} until it can be delivered.",
                flush=True,
            )
        self._journal.keep(entry, content)


def destinations(journal: Journal) -> set[Destination]:
    """Where the entries that a journal keeps are to go."""
    return {destination(entry) for entry in journal.pending.values()}


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def is_away(entry: Entry, error: Exception) -> bool:
    """Whether an error says that the server or the run is away or has a problem, not that this is refused for good."""
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return status >= 500 or status in (401, 403, 404, 408, 429) or server.DELETED in str(error)
    to_artifact_store = destination(entry) == "artifact store"
    return isinstance(error, OSError) or (to_artifact_store and not isinstance(error, InputError | ImportError))


def send(run_id: str, entry: Entry, file: Path | None = None) -> None:
    """Sends one entry; what else it raises is MLflow's or the system's.

    Args:
        run_id: of the run.
        entry: what is sent.
        file: the content of an artifact.

    Raises:
        InputError: the artifact store needs a library that is not installed.
    """
    client = MlflowClient()
    match entry:
        case Name(name):
            client.update_run(run_id, name=name)
        case Tags(values):
            client.log_batch(run_id, tags=[RunTag(name, value) for name, value in values.items()])
        case Params(values):
            client.log_batch(run_id, params=[Param(name, value) for name, value in values.items()])
        case Metrics(metrics, step, milliseconds):
            points = [Metric(name, value, milliseconds, step) for name, value in metrics.items()]
            for start in range(0, len(points), METRICS_A_REQUEST):
                client.log_batch(run_id, metrics=points[start : start + METRICS_A_REQUEST])
        case Dataset(dataset):
            send_dataset(client, run_id, DatasetInput(LoggedDataset(**dataset), [InputTag(*CONTEXT)]))
        case Artifact(name):
            assert file
            if file.exists():  # else a later one of the same name has been sent in its place
                parent = Path(name).parent.as_posix()
                try:
                    client.log_artifact(run_id, str(file), None if parent == "." else parent)
                except ModuleNotFoundError as error:
                    if error.name == "boto3":
                        require("boto3", "server", "An artifact store in S3")
                    raise
        case Model(weights):
            from exvo.tracking.models import log_model  # and with it the served model and PyTorch

            log_model(run_id, Path(weights))
        case End(status, milliseconds):
            client.set_terminated(run_id, status, milliseconds)


def send_dataset(client: MlflowClient, run_id: str, dataset: DatasetInput) -> None:
    """Logs the dataset of a run; what it raises is MLflow's.

    Of two runs that log the same one for the first time at once, MLflow's database refuses one (a key that is there
    already), which finds it when it asks again.
    """
    try:
        client.log_inputs(run_id, [dataset])
    except MlflowException as error:
        if not any(words in str(error).lower() for words in ("unique", "duplicate")):
            raise
        client.log_inputs(run_id, [dataset])


def deliver_journal(folder: Path) -> None:
    """Delivers the journal of a run that has ended or was killed, in `<output>/runs/<run_id>/journal`.

    Raises:
        InputError: something is in the way; what is not delivered is still kept.
    """
    server.quiet()
    run_id = folder.parent.name
    try:
        run = MlflowClient().get_run(run_id)
        if run.info.lifecycle_stage == "deleted":
            raise InputError(f"{folder} keeps what a run logged that is deleted. {names.deleted([run])}")
        journal = Journal(folder)
        entries = list(journal.pending.values())
        journal.close()
        if not entries:
            return
        problem = _deliver_entries(run, folder, entries)
    except MlflowException as error:
        if error.get_http_status_code() == 404:
            raise InputError(
                f"The tracking server {server.shown_uri()} has no run {run_id}, of which {folder} keeps what it "
                "logged; set MLFLOW_TRACKING_URI to the server where it began, or remove that folder."
            ) from None
        raise server.unusable(error) from None
    if problem:
        raise InputError(
            f"What {folder} keeps of the run {run_id} could not all be delivered ({problem}); it is still kept."
        )
    shutil.rmtree(folder, ignore_errors=True)


def _deliver_entries(run: Run, folder: Path, entries: list[Entry]) -> str | None:
    """Delivers a journal, whose entries these are; returns as `RunLog.deliver_kept`.

    A model can only be logged in a run that goes on, so the run begins again for that, and ends as it had.
    """
    has_model = any(isinstance(entry, Model) for entry in entries)
    end = next((entry for entry in reversed(entries) if isinstance(entry, End)), None)
    if has_model:
        mlflow.start_run(run.info.run_id, log_system_metrics=False)
    log = RunLog(run, folder)
    try:
        return log.deliver_kept()
    finally:
        log.close()
        if has_model:
            with suppress(MlflowException):
                mlflow.end_run("RUNNING" if end is None or folder.exists() else end.status)
                if end is not None and not folder.exists():
                    MlflowClient().set_terminated(run.info.run_id, end.status, end.time)
