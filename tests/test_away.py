"""A tracking server that is away, an artifact store that refuses, a database that is locked or full: nothing is lost.

Most tests pull the plug of an embedded store (its address is changed to one at which nobody listens); some stop and
start a real `mlflow server`, and one has real processes and a minute's absence: those are in `make faults`.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from exvo.errors import InputError
from exvo.experiments import evaluate, trials
from exvo.tracking import delivery, server
from exvo.tracking.entries import Artifact, End, Metrics, Tags
from exvo.tracking.journal import Journal

from helpers.commands import SMALL, artifacts, at_epoch, check_equal, newest, run_here
from helpers.disks import Disk
from helpers.processes import Process, started
from helpers.servers import Server, free_port

KEPT = "What the run logged is not all on the tracking server ("
DELIVERED = "what was kept of the run has been delivered to the tracking server\n"


class Plug:
    """Between this process and its tracking server."""

    def __init__(self) -> None:
        self.uri = mlflow.get_tracking_uri()

    def pull(self) -> None:
        mlflow.set_tracking_uri(f"http://127.0.0.1:{free_port()}")

    def put_back(self) -> None:
        mlflow.set_tracking_uri(self.uri)


@pytest.fixture
def plug(store: str) -> Plug:
    return Plug()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was away is asked again each time, where a test does not say otherwise."""
    monkeypatch.setattr(delivery, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(delivery, "PAUSE_FACTOR", 0)


def sync(monkeypatch: pytest.MonkeyPatch, status: int = 0, output: str = "output") -> None:
    assert run_here("sync", {"output": output}, monkeypatch) == status


def undisturbed(options: dict[str, str], monkeypatch: pytest.MonkeyPatch, entry_point: str = "train") -> Run:
    assert run_here(entry_point, options | {"output": "whole"}, monkeypatch) == 0
    return newest()


def other_than(whole: Run) -> Run:
    """The one run beside the undisturbed one."""
    (run,) = [run for run in MlflowClient().search_runs(["0"]) if run.info.run_id != whole.info.run_id]
    return run


def check_complete(run: Run, whole: Run) -> None:
    """That a run has what an undisturbed one has, once, and that nothing is kept any more."""
    check_equal(run, whole)
    assert run.data.params.keys() == whole.data.params.keys()
    assert run.data.tags.keys() - {"exvo.continues"} == whole.data.tags.keys()
    assert artifacts(run) == artifacts(whole)
    assert not list(Path("output/runs").glob("*/journal"))


# At the start


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("entry_point", "options"),
    [
        ("train", {}),
        ("main", {}),
        ("tune", {"trials": "1"}),
        ("extract", {}),
        ("evaluate", {"run_id": "cnn10"}),
        ("compare", {}),
        ("register", {}),
        ("predict", {"audio": "one.wav"}),
        ("reproduce", {"run": "cnn10"}),
    ],
)
def test_a_server_that_is_away_at_the_start_is_one_sentence(
    entry_point: str,
    options: dict[str, str],
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    mlflow.set_tracking_uri(uri)
    if entry_point in ("train", "main", "tune", "extract"):
        options = options | {"corpus": "table", "data": str(tiny_corpus)}
    if entry_point == "predict":
        shutil.copy(tiny_corpus / "s0-0.wav", "one.wav")
    if entry_point == "tune":
        options |= {"model": "cnn10", "epochs": "1", "width": "0.1"}
    began = time.monotonic()
    assert run_here(entry_point, options, monkeypatch) == 2
    assert time.monotonic() - began < 30  # MLflow's own retries take four minutes
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if line.startswith("exvo: ")]
    assert uri in line
    assert "Connection refused" in line
    assert "Traceback" not in said.err + said.out


def test_a_password_in_the_servers_address_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow.set_tracking_uri(f"http://ada:{'love'}{'lace'}@127.0.0.1:{free_port()}")
    try:
        told = str(server.unusable(mlflow.MlflowException("broken")))
        assert "lovelace" not in told
        assert "http://127.0.0.1:" in told
    finally:
        mlflow.set_tracking_uri(None)


# In the middle


@pytest.mark.parametrize("entry_point", ["train", "main"])
def test_a_server_that_is_away_for_some_epochs_gets_all(
    entry_point: str,
    plug: Plug,
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = SMALL | {"data": str(tiny_corpus)}
    whole = undisturbed(options, monkeypatch, entry_point)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        at_epoch(2, plug.pull, patch)
        at_epoch(4, plug.put_back, patch)
        assert run_here(entry_point, options, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "is away (Connection refused); this goes on, and what it logs is kept in output/runs/" in said
    assert said.count("is away") == said.count(DELIVERED) == 1
    check_complete(other_than(whole), whole)


@pytest.mark.parametrize(("entry_point", "when"), [("train", 1), ("train", 3), ("main", 3), ("main", 0)])
def test_what_a_server_that_went_for_good_has_missed_is_delivered_by_sync(
    entry_point: str,
    when: int,
    plug: Plug,
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = SMALL | {"data": str(tiny_corpus)}
    whole = undisturbed(options, monkeypatch, entry_point)
    with monkeypatch.context() as patch:
        at_epoch(when, plug.pull, patch)
        if when == 0:  # between the training and the test split
            true = evaluate.evaluate
            patch.setattr(evaluate, "evaluate", lambda *words: (plug.pull(), true(*words)))
        assert run_here(entry_point, options, monkeypatch) == 0
    ended = time.time()
    said = capsys.readouterr().out
    assert KEPT + "Connection refused): the rest is kept in output/runs/" in said
    assert re.search(r"`\S*exvo sync` delivers it\.", said)
    sync(monkeypatch, 2)  # it is still away
    assert "could not all be delivered" in (told := capsys.readouterr().err) or "can't be used" in told
    plug.put_back()
    assert other_than(whole).info.status == "RUNNING"
    sync(monkeypatch)
    assert "runs in output with something to deliver: 1; delivered: 1\n" in capsys.readouterr().out
    run = other_than(whole)
    check_complete(run, whole)
    assert run.info.end_time / 1000 < ended
    sync(monkeypatch)
    assert "runs in output with something to deliver: 0; delivered: 0\n" in capsys.readouterr().out


def test_a_run_that_was_cut_while_the_server_was_away_goes_on(
    plug: Plug, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = SMALL | {"data": str(tiny_corpus)}
    whole = undisturbed(options, monkeypatch)

    def fail() -> None:
        raise InputError("a cut")

    with monkeypatch.context() as patch:
        at_epoch(2, plug.pull, patch)
        at_epoch(4, fail, patch)
        assert run_here("train", options, monkeypatch) == 2
    assert run_here("train", options, monkeypatch) == 2  # nothing can be known without the server
    assert "can't be used: Connection refused." in capsys.readouterr().err
    plug.put_back()
    assert run_here("train", options, monkeypatch) == 0
    assert "training resumes after epoch 3" in capsys.readouterr().out
    check_complete(other_than(whole), whole)


class Cut(BaseException):
    """In place of a kill."""


def test_a_delivery_that_is_cut_anywhere_doubles_nothing(
    plug: Plug, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after each entry has been sent and before that is noted."""
    options = SMALL | {"data": str(tiny_corpus)}
    whole = undisturbed(options, monkeypatch)
    with monkeypatch.context() as patch:
        at_epoch(2, plug.pull, patch)
        assert run_here("train", options, monkeypatch) == 0
    plug.put_back()
    (folder,) = Path("output/runs").glob("*/journal")
    journal = Journal(folder)
    entries = len(journal.pending)
    journal.close()
    assert entries > 5
    true, cuts = Journal.done, 0

    def done(journal: Journal, number: int) -> None:
        if last.get("number") != number:
            last["number"] = number
            raise Cut
        true(journal, number)

    last: dict[str, int] = {}
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "done", done)
        while folder.exists():
            try:
                delivery.deliver_journal(folder)
            except Cut:
                cuts += 1
    assert cuts == entries
    sync(monkeypatch)  # nothing but states of the training to remove
    check_complete(other_than(whole), whole)


def test_a_study_waits_for_the_server_between_its_trials(
    plug: Plug, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials, "POLL", 0.1)
    options = SMALL | {"data": str(tiny_corpus), "trials": "2", "search": "dropout", "epochs": "2"}
    back = threading.Timer(4.0, plug.put_back)

    def away() -> None:
        if not back.is_alive() and not back.finished.is_set():
            plug.pull()
            back.start()

    with monkeypatch.context() as patch:
        at_epoch(2, away, patch)
        assert run_here("tune", options, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "waits for the tracking server http://127.0.0.1:" in said
    sync(monkeypatch)
    runs = MlflowClient().search_runs(["0"])
    assert sorted(run.data.tags["exvo.entry_point"] for run in runs) == ["train", "train", "tune"]
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}  # killed: pruned
    for run in runs:
        if "exvo.trial" in run.data.tags and run.info.status == "FINISHED":
            points = MlflowClient().get_metric_history(run.info.run_id, "epoch/loss")
            assert [point.step for point in points] == [1, 2]


def test_a_study_stops_where_the_server_stays_away(
    plug: Plug, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials, "POLL", 0.1)
    monkeypatch.setattr(trials, "SERVER_WAIT_SECONDS", 0.5)
    options = SMALL | {"data": str(tiny_corpus), "trials": "3", "search": "dropout", "epochs": "2"}
    with monkeypatch.context() as patch:
        at_epoch(2, plug.pull, patch)
        assert run_here("tune", options, monkeypatch) == 2
    assert "has not answered for 0 minutes; start it, and the same command goes on." in capsys.readouterr().err
    plug.put_back()
    assert run_here("tune", options, monkeypatch) == 0
    runs = MlflowClient().search_runs(["0"])
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    assert not list(Path("output/runs").glob("*/journal"))


# A real server


@pytest.mark.slow
def test_a_real_server_that_is_stopped_and_started_gets_all(
    own_server: Server, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own_server.folder)
    options = SMALL | {"data": str(tiny_corpus), "epochs": "6"}
    whole = undisturbed(options, monkeypatch)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        at_epoch(2, own_server.stop, patch)
        at_epoch(4, own_server.start, patch)
        at_epoch(6, own_server.stop, patch)
        assert run_here("train", options, monkeypatch) == 0
    said = capsys.readouterr().out
    assert said.count("is away") == 2
    assert said.count(DELIVERED) == 1
    assert KEPT in said
    own_server.start()
    sync(monkeypatch)
    check_complete(other_than(whole), whole)


@pytest.mark.slow
def test_a_real_server_that_hangs_hardly_holds_up_the_training(
    own_server: Server, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes requests and does not answer; each waits its time out, a second here and 30 seconds else."""
    monkeypatch.chdir(own_server.folder)
    monkeypatch.setattr(delivery, "PAUSE_FACTOR", 10)
    options = SMALL | {"data": str(tiny_corpus), "epochs": "6"}
    whole = undisturbed(options, monkeypatch)
    asked = []
    true = delivery.send
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        at_epoch(2, lambda: own_server.send(signal.SIGSTOP), patch)
        patch.setattr(delivery, "send", lambda *words: (asked.append(time.monotonic()), true(*words)))
        assert run_here("train", options, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "is away (timed out); this goes on" in said
    own_server.send(signal.SIGCONT)
    sync(monkeypatch)
    check_complete(other_than(whole), whole)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_process_whose_server_is_away_for_a_minute_and_one_that_is_killed_meanwhile(
    own_server: Server, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_server.folder)
    options = SMALL | {"data": str(tiny_corpus), "epochs": "400"}
    with started("train", options | {"output": "whole"}, own_server.uri) as one:
        said = one.communicate(timeout=600)[0]
        assert one.returncode == 0, said
    whole = newest()

    def until(one: Process, word: str) -> None:
        assert one.stdout is not None
        next(line for line in one.stdout if word in line)

    with started("train", options, own_server.uri) as one:
        until(one, "epoch  20/")
        own_server.stop()
        until(one, "is away")
        until(one, "epoch  60/")
        one.kill()
    own_server.start()
    with started("train", options, own_server.uri) as one:
        until(one, "epoch 200/")
        own_server.stop()
        back = threading.Timer(60, own_server.start)
        back.start()
        said = one.communicate(timeout=600)[0]
        assert one.returncode == 0, said
        back.join()
    with started("sync", {}, own_server.uri) as one:
        said, _ = one.communicate()
    assert one.returncode == 0, said
    check_complete(other_than(whole), whole)


# Artifact stores and databases


@pytest.mark.usefixtures("store")
def test_an_artifact_store_that_refuses_writes_gets_all_later(
    disk: Callable[[int], Disk],
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = disk(60_000_000)
    experiment = MlflowClient().create_experiment("small", artifact_location=str(small.folder / "artifacts"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "small")
    options = SMALL | {"data": str(tiny_corpus)}

    def runs() -> list[Run]:
        return list(MlflowClient().search_runs([experiment], order_by=["attributes.start_time ASC"]))

    assert run_here("train", options | {"output": "whole"}, monkeypatch) == 0
    with monkeypatch.context() as patch:
        at_epoch(2, lambda: small.remount("ro"), patch)
        assert run_here("train", options, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "The artifact store of sqlite:///" in said
    assert "is away (Read-only file system); this goes on" in said
    whole, run = runs()
    assert run.data.metrics.keys() >= {"val/emotion_ccc", "best_epoch"}  # what is no file got through
    assert run.info.status == "RUNNING"
    sync(monkeypatch, 2)
    assert "could not all be delivered (Read-only file system); it is still kept." in capsys.readouterr().err
    small.remount("rw")
    sync(monkeypatch)
    run = runs()[1]
    assert run.info.status == "FINISHED"
    assert artifacts(run) == artifacts(whole)
    found = MlflowClient().search_logged_models([experiment], f"source_run_id = '{run.info.run_id}'")
    assert [model.model_uri for model in found] == [run.data.tags["exvo.model_uri"]]
    assert not list(Path("output/runs").glob("*/*"))[1:]  # the best weights alone


@pytest.mark.slow
def test_a_database_that_is_locked_holds_up_and_loses_nothing(
    store: str, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow waits 20 seconds for a lock; what then can't be written is kept."""
    monkeypatch.setattr(delivery, "RETRY_SECONDS", 5.0)
    options = SMALL | {"data": str(tiny_corpus)}
    whole = undisturbed(options, monkeypatch)
    other = sqlite3.connect(store.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    with contextlib.closing(other), monkeypatch.context() as patch:
        at_epoch(2, lambda: other.execute("BEGIN EXCLUSIVE"), patch)
        at_epoch(3, lambda: other.execute("ROLLBACK"), patch)
        assert run_here("train", options, monkeypatch) == 0
    said = capsys.readouterr()
    assert "is away (database is locked); this goes on" in said.out
    assert DELIVERED in said.out
    assert "Traceback" not in said.err
    check_complete(other_than(whole), whole)


def test_a_database_on_a_disk_that_fills_gets_all_when_there_is_space(
    disk: Callable[[int], Disk],
    empty_store: Path,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = disk(8_000_000)
    database = small.folder / "mlflow.db"
    database.write_bytes(empty_store.read_bytes())
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    options = SMALL | {"data": str(tiny_corpus)}
    try:
        whole = undisturbed(options, monkeypatch)
        with monkeypatch.context() as patch:
            at_epoch(2, small.fill, patch)
            at_epoch(4, small.free, patch)
            assert run_here("train", options, monkeypatch) == 0
        said = capsys.readouterr()
        assert "is away (database or disk is full); this goes on" in said.out
        assert "Traceback" not in said.err
        check_complete(other_than(whole), whole)
    finally:
        mlflow.set_tracking_uri(None)


def test_a_journal_on_a_full_disk_ends_in_a_sentence_and_the_command_goes_on_later(
    plug: Plug,
    disk: Callable[[int], Disk],
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = disk(8_000_000)
    options = SMALL | {"data": str(tiny_corpus), "output": str(small.folder / "output")}

    def both() -> None:
        plug.pull()
        small.fill()

    with monkeypatch.context() as patch:
        at_epoch(3, both, patch)
        assert run_here("train", options, monkeypatch) == 2
    said = capsys.readouterr()
    assert "can't be kept in " in said.err
    assert "(No space left on device); free space, or choose another output folder." in said.err
    small.free()
    plug.put_back()
    assert run_here("train", options, monkeypatch) == 0
    (run,) = MlflowClient().search_runs(["0"])
    assert run.info.status == "FINISHED"
    points = MlflowClient().get_metric_history(run.info.run_id, "epoch/loss")
    assert [point.step for point in points] == [1, 2, 3, 4]


# The journal and what becomes of it


def test_a_journal_keeps_its_entries_in_order_and_passes_over_a_line_cut_short(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.keep(Tags({"a": "é\n"}))
    journal.keep(Artifact("deep/one.txt"), b"one")
    journal.keep(Metrics({"m": float("nan")}, 1, 2))
    with pytest.raises(InputError, match="is in use by a run that goes on"):
        Journal(tmp_path / "journal")
    journal.done(1)
    journal.close()
    path = tmp_path / "journal" / "journal"
    whole = path.read_bytes()
    for length in range(len(whole) - 20, len(whole)):
        path.write_bytes(whole[:length])
        again = Journal(tmp_path / "journal")
        assert [entry.kind for entry in again.pending.values()][-2:] == ["artifact", "metrics"]
        again.keep(End("FINISHED", 3))
        assert [entry.kind for entry in again.pending.values()][-1] == "end"
        assert again.file_of(Artifact("deep/one.txt")).read_bytes() == b"one"
        again.close()
    path.write_bytes(whole)
    last = Journal(tmp_path / "journal")
    assert list(last.pending) == [2, 3]
    last.done(2)
    last.done(3)
    last.close()
    assert not (tmp_path / "journal").exists()


def test_a_journal_of_another_server_is_told_and_kept(
    plug: Plug, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        at_epoch(2, plug.pull, patch)
        assert run_here("train", SMALL | {"data": str(tiny_corpus)}, monkeypatch) == 0
    mlflow.set_tracking_uri(f"sqlite:///{Path.cwd()}/another.db")
    sync(monkeypatch, 2)
    said = capsys.readouterr().err
    assert "another.db has no run " in said
    assert "set MLFLOW_TRACKING_URI to the server where it began, or remove that folder." in said
    plug.put_back()
    sync(monkeypatch)
    assert newest().info.status == "FINISHED"


def test_sync_refuses_a_folder_that_is_not_there(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sync(monkeypatch, 2, "nonexist")
    assert "output=nonexist is not there; give the output folder of the runs." in capsys.readouterr().err
    Path("file").write_text("")
    sync(monkeypatch, 2, "file")
    assert "output=file is not a folder; give" in capsys.readouterr().err
    Path("empty").mkdir()
    sync(monkeypatch, 0, "empty")


@pytest.mark.slow
def test_sync_leaves_a_run_that_goes_on_to_itself(
    plug: Plug, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []

    def look() -> None:
        with started("sync", {}, plug.uri) as other:
            told.append((other.communicate()[0], other.returncode))

    with monkeypatch.context() as patch:
        at_epoch(2, plug.pull, patch)
        at_epoch(3, look, patch)
        assert run_here("train", SMALL | {"data": str(tiny_corpus)}, monkeypatch) == 0
    ((said, status),) = told
    assert status == 2
    assert "is in use by a run that goes on; wait until it has ended." in said
    plug.put_back()
    sync(monkeypatch)
    assert newest().info.status == "FINISHED"
