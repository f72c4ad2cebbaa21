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
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from exvo.errors import InputError
from exvo.text import all_writable
from exvo.tracking import names, server
from exvo.tracking.journal import Entry, Journal

FILES = ("artifact", "model")
"""Entries for the artifact store, which may be away when the rest of the server is not."""

RESULTS = (*FILES, "metrics")
"""Entries that hold what was computed, but for the files of `DESCRIPTIONS`."""

DESCRIPTIONS = ("environment.json", "settings.json", "audit.json", "uncommitted.diff.txt")

PATIENCE = 30.0
"""Seconds before a server that was away is asked again; more where it takes long not to answer."""

SHARE = 10
"""The server is asked in at most one part in so many of the time."""


class Record:
    """What a run logs, on its way to the server.

    Attributes:
        run_id: on the server.
        name: of the run.
        tags, params: what it has, also of earlier processes.
        earlier: what earlier processes have logged, by metric and step.
        metrics: the same with what this one does.
        status: with which it is to end; empty: finished, unless an error comes.
        has_results: whether it has logged more than what describes it, or is about to.
        folder: of its journal, which is made when the server is away.
    """

    def __init__(self, run: Run, folder: Path, earlier: Mapping[tuple[str, int], float] | None = None) -> None:
        self.run_id, self.name = run.info.run_id, run.info.run_name
        self.tags, self.params = dict(run.data.tags), dict(run.data.params)
        self.folder, self.status, self.has_results = folder, "", False
        self.earlier = dict(earlier or {})
        self.metrics = dict(self.earlier)
        self._journal = Journal(folder) if folder.is_dir() else None
        self._again = 0.0

    def add(self, entry: Entry, content: bytes | None = None) -> None:
        """Sends an entry, or keeps it where it or an earlier one of its kind can't be sent.

        Bytes of a file's name that are not UTF-8 reach the server as backslash escapes.

        Args:
            entry: `kind`, and what `send` takes.
            content: of an artifact.

        Raises:
            InputError: the server refuses it for good, or it can be neither sent nor kept.
        """
        entry = entry if entry["kind"] == "model" else all_writable(entry)
        self.name = entry["value"] if entry["kind"] == "name" else self.name
        self.has_results |= entry["kind"] in RESULTS and entry.get("name") not in DESCRIPTIONS
        for own in (self.tags, self.params):
            own.update(entry["values"] if entry["kind"] == ("tags" if own is self.tags else "params") else {})
        if entry["kind"] == "metrics":
            self.metrics |= {(name, entry["step"]): value for name, value in entry["values"].items()}
        if self._journal is None or not any(_waits_for(entry, one) for one in self._journal.pending.values()):
            try:
                self._send(entry, content)
            except Exception as error:
                if not away(entry, error):
                    raise
                self._keep(entry, content, error)
        else:
            self._journal.keep(entry, content)
        if self._journal is not None and time.monotonic() > self._again:
            self.deliver()

    def deliver(self) -> str:
        """Sends what is kept, as far as the server takes it; returns what is in the way, or an empty text."""
        problem, closed, began = "", set[bool](), time.monotonic()
        for number, entry in list((self._journal.pending if self._journal else {}).items()):
            assert self._journal
            if closed and entry["kind"] == "end":
                continue
            if (entry["kind"] in FILES) in closed:
                continue
            try:
                send(self.run_id, entry, self._journal.artifact(entry) if entry["kind"] == "artifact" else None)
                self._journal.done(number)
            except Exception as error:
                problem = problem or server.why(error)
                if away(entry, error):
                    closed.add(entry["kind"] in FILES)
        self._again = time.monotonic() + max(PATIENCE, SHARE * (time.monotonic() - began) if problem else 0)
        if self._journal and not self._journal.pending:
            self._journal.close()
            self._journal = None
            print("what was kept of the run has been delivered to the tracking server")
        return problem

    def end(self, status: str) -> str:
        """Ends the run, and delivers what is left; returns what is in the way, or an empty text."""
        try:
            self.add({"kind": "end", "status": status, "time": now()})
            return self.deliver()
        finally:
            self.close()

    def close(self) -> None:
        """Lets go of the journal, if there is one; what is in it stays."""
        if self._journal:
            self._journal.close()

    def _send(self, entry: Entry, content: bytes | None) -> None:
        if content is None:
            return send(self.run_id, entry)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(entry["name"]).name
            path.write_bytes(content)
            send(self.run_id, entry, path)

    def _keep(self, entry: Entry, content: bytes | None, error: Exception) -> None:
        if self._journal is None:
            self._journal = Journal(self.folder)
            self._again = time.monotonic() + PATIENCE
            what = "artifact store" if entry["kind"] in FILES else "tracking server"
            where = f"The {what} of {server.shown_uri()} is away ({server.why(error)})"
            if server.DELETED in str(error):
                run = names.run_of_id(self.run_id)
                where = names.deleted([run])[:-1] if run else f"The run {self.run_id} is deleted"
            kept = f"this goes on, and what it logs is kept in {self.folder} until it can be delivered"
            print(f"{where}; {kept}.", flush=True)
        self._journal.keep(entry, content)


def _waits_for(entry: Entry, other: Entry) -> bool:
    """Whether an entry must not overtake another: the end none, files no files, the rest nothing but files."""
    return entry["kind"] == "end" or (entry["kind"] in FILES) == (other["kind"] in FILES)


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def away(entry: Entry, error: Exception) -> bool:
    """Whether an error says that the server or the run is away or has a problem, not that this is refused for good."""
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return status >= 500 or status in (401, 403, 404, 408, 429) or server.DELETED in str(error)
    return isinstance(error, OSError) or (entry["kind"] in FILES and not isinstance(error, InputError | ImportError))


def send(run_id: str, entry: Mapping[str, Any], file: Path | None = None) -> None:
    """Sends one entry; what it raises is MLflow's or the system's."""
    client = MlflowClient()
    match entry["kind"]:
        case "name":
            client.update_run(run_id, name=entry["value"])
        case "tags":
            client.log_batch(run_id, tags=[RunTag(name, value) for name, value in entry["values"].items()])
        case "params":
            client.log_batch(run_id, params=[Param(name, value) for name, value in entry["values"].items()])
        case "metrics":
            points = [Metric(name, value, entry["time"], entry["step"]) for name, value in entry["values"].items()]
            for start in range(0, len(points), 1000):
                client.log_batch(run_id, metrics=points[start : start + 1000])
        case "dataset":
            tags = [InputTag("mlflow.data.context", "corpus")]
            client.log_inputs(run_id, [DatasetInput(Dataset(**entry["dataset"]), tags)])
        case "artifact":
            assert file
            if file.exists():  # else a later one of the same name has been sent in its place
                parent = Path(entry["name"]).parent.as_posix()
                client.log_artifact(run_id, str(file), None if parent == "." else parent)
        case "model":
            from exvo.tracking.models import log_model  # and with it the served model and PyTorch

            log_model(run_id, Path(entry["weights"]))
        case "end":
            client.set_terminated(run_id, entry["status"], entry["time"])


def deliver(folder: Path) -> None:
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
        kinds = {entry["kind"]: entry for entry in journal.pending.values()}
        journal.close()
        if not kinds:
            return
        if "model" in kinds:
            mlflow.start_run(run_id, log_system_metrics=False)
        record = Record(run, folder)
        try:
            problem = record.deliver()
        finally:
            record.close()
            if "model" in kinds:
                ended = kinds.get("end", {"status": "RUNNING", "time": None})
                with suppress(MlflowException):
                    mlflow.end_run("RUNNING" if folder.exists() else ended["status"])
                    if not folder.exists() and ended["time"]:
                        MlflowClient().set_terminated(run_id, ended["status"], ended["time"])
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
