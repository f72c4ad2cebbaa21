"""`tune` as processes of its own: killed, stopped, typed twice, by several workers, in a file and in PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import optuna
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from exvo.experiments import trials
from exvo.experiments import trials as trials_module
from exvo.training.states import Epoch

from helpers.commands import run_here
from helpers.processes import Process, started
from helpers.servers import Database, free_port
from helpers.studies import STUDY, counts, new_study, trial_runs

pytestmark = pytest.mark.usefixtures("store")

PASSWORD = "".join(["s3cret", "-Pa55"])  # not as it stands here: a run logs the uncommitted difference of this file


@pytest.fixture
def options(tiny_corpus: Path) -> dict[str, str]:
    return STUDY | {"data": str(tiny_corpus)}


def wait_for(what: str, check: object, process: Process, seconds: float = 90) -> object:
    """The first truth that `check` gives."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError, KeyError, SQLAlchemyError):  # tables that are being made
            if found := check():  # type: ignore[operator]
                return found
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"{what} did not come: {process.communicate()[0]}")


def running_worker(of: optuna.Study | None = None, besides: int = 0) -> int:
    """The process of a trial that has told of an epoch; 0 while there is none."""
    for trial in (of or new_study()).trials:
        pid = trial.user_attrs.get("worker", {}).get("pid", besides)
        if trial.state == TrialState.RUNNING and trial.intermediate_values and pid != besides:
            return int(pid)
    return 0


def test_a_killed_command_goes_on_in_the_same_run(
    options: dict[str, str], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options |= {"trials": "1", "epochs": "40"}
    process = started("tune", options, store)
    assert wait_for("an epoch", running_worker, process) == process.pid
    process.kill()
    process.wait()
    assert trial_runs()[1][0].info.status == "RUNNING"
    assert run_here("tune", options, monkeypatch) == 0
    (parent,), trials = trial_runs()
    assert [run.info.status for run in [parent, *trials]] == ["FINISHED", "KILLED", "FINISHED"]
    assert [run.data.tags["exvo.trial_state"] for run in trials] == ["killed", "finished"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert counts(new_study().trials) == {"COMPLETE": 1, "FAIL": 1}
    assert new_study().trials[0].user_attrs["problem"] == "Its worker was killed or lost."


@pytest.mark.slow
def test_the_same_command_twice_shares_one_study_and_one_run(options: dict[str, str], store: str) -> None:
    """With output folders of their own, as on two machines, and one storage."""
    options |= {"trials": "8", "storage": "shared.journal"}
    commands = [started("tune", options | {"output": folder}, store) for folder in ("one", "two")]
    said = [command.communicate(timeout=120)[0] for command in commands]
    assert [command.returncode for command in commands] == [0, 0], said
    shared = new_study(JournalStorage(JournalFileBackend("shared.journal"))).trials
    found = counts(shared)
    assert found["COMPLETE"] + found.get("PRUNED", 0) == 8
    assert found.get("FAIL", 0) <= 1  # that which stepped back
    (parent,), trials = trial_runs()
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert len(trials) == 8
    assert {trial.user_attrs["worker"]["pid"] for trial in shared if trial.state != TrialState.WAITING} == {
        command.pid for command in commands
    }


@pytest.mark.slow
def test_ctrl_c_ends_all_within_seconds(options: dict[str, str], store: str) -> None:
    process = started("tune", options | {"epochs": "400", "workers": "2"}, store)
    first = int(str(wait_for("an epoch", running_worker, process)))
    second = int(str(wait_for("an epoch", lambda: running_worker(besides=first), process)))
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 15
    assert process.returncode == 130
    assert "Stopped; the same command goes on where this one was." in said
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    (parent,), trials = trial_runs()
    assert [run.info.status for run in [parent, *trials]] == ["KILLED"] * 3
    problems = [trial.user_attrs["problem"] for trial in new_study().trials if trial.state == TrialState.FAIL]
    assert problems == ["Stopped."] * 2


def test_the_run_that_mlflow_made_is_tagged_with_the_one_that_goes_on(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Epoch(1, 1.0, 0.1, 1.0, 0.5, True)
    monkeypatch.setattr(trials_module, "train", lambda *_: score)
    assert run_here("tune", options | {"trials": "1"}, monkeypatch) == 0
    made = MlflowClient().create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    assert run_here("tune", options | {"trials": "2"}, monkeypatch) == 0
    (first, second), trials = trial_runs()
    assert second.info.run_id == made.info.run_id
    assert second.data.tags["exvo.continues"] == first.info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {first.info.run_id}
    assert [run.info.status for run in (first, second, *trials)] == ["FINISHED"] * 4


def test_optuna_dashboard_opens_on_the_journal(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials, "train", lambda *_: Epoch(1, 1.0, 0.1, 1.0, 0.5, True))
    assert run_here("tune", options, monkeypatch) == 0
    (command,) = re.findall(r"live: (optuna-dashboard .*)$", capsys.readouterr().out, flags=re.MULTILINE)
    port = free_port()
    words = [str(Path(sys.executable).parent / "optuna-dashboard"), *shlex.split(command)[1:], "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies") as answer:
                    assert answer.status == 200
                    shown = json.load(answer)
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/dashboard") as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        process.wait()
    assert new_study().study_name in json.dumps(shown)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of an empty database on a server of the test's own, which asks for a password."""
    folder = Path(tempfile.mkdtemp(prefix="exvo-postgres-"))
    database = Database(folder, PASSWORD)
    database.start()
    try:
        yield database.uri
    finally:
        database.stop()
        shutil.rmtree(folder)


@pytest.mark.slow
def test_postgresql_keeps_a_study_of_two_workers_one_killed_and_no_password_is_logged(
    postgres: str,
    options: dict[str, str],
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def kept() -> optuna.Study:
        url = postgres.replace("postgresql:", "postgresql+psycopg:")
        return new_study(RDBStorage(url, {"poolclass": NullPool}))  # closes its connections at once

    options |= {"storage": postgres, "workers": "2", "epochs": "100"}  # long enough to be killed in the middle
    process = started("tune", options, store)
    killed = int(str(wait_for("an epoch", lambda: running_worker(kept()), process)))
    os.kill(killed, signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "a worker was killed (SIGKILL); another takes its place" in said
    found = counts(kept().trials)
    assert (found["FAIL"], found["COMPLETE"] + found.get("PRUNED", 0)) == (1, 3)
    assert run_here("tune", options | {"workers": "1", "trials": "4"}, monkeypatch) == 0
    found = counts(kept().trials)
    assert (found["FAIL"], found["COMPLETE"] + found.get("PRUNED", 0)) == (1, 4)
    (parent,), trials = trial_runs()
    assert [trial.user_attrs["run_id"] for trial in kept().trials] == [run.info.run_id for run in trials]
    assert sorted(run.data.tags["exvo.trial_state"] for run in trials).count("killed") == 1
    assert "RUNNING" not in {run.info.status for run in [parent, *trials]}
    assert len({trial.user_attrs["worker"]["pid"] for trial in kept().trials}) >= 3
    hidden = postgres.replace(f":{PASSWORD}", "").replace("postgresql:", "postgresql+psycopg:")
    assert parent.data.params["storage"] == parent.data.tags["exvo.storage"] == hidden
    assert hidden in said
    printed = capsys.readouterr()
    assert PASSWORD not in said + printed.out + printed.err
    for run in [parent, *trials]:
        mlflow.artifacts.download_artifacts(run.info.artifact_uri, dst_path=str(tmp_path / run.info.run_id))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 40
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]


def test_a_password_that_mlflow_run_has_logged_is_refused(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    given = {"storage": f"postgresql://ada:{PASSWORD}@127.0.0.1/studies"}
    assert run_here("tune", options | given, monkeypatch) == 2
    said = capsys.readouterr().err
    assert "storage holds a password, which `mlflow run` has just logged as a param" in said
    assert PASSWORD not in said
