"""Tracking stores that can't be used, passwords that nobody sees, launchers that fail, runs deleted in training."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, UNAUTHENTICATED
from sqlalchemy import create_engine

from exvo import options, passwords
from exvo.errors import InputError
from exvo.tracking import server
from exvo.tracking.tags import NOTE

from helpers.commands import ROOT, at_epoch, newest, run_here
from helpers.servers import Server, free_port

SECRET = "".join(("love", "lace"))  # in no file of the repository as one word
SMALL = {"model": "cnn10", "corpus": "table", "epochs": "3", "batch_size": "4", "width": "0.05"}


@pytest.fixture
def other_store() -> Iterator[None]:
    """The tracking server is set back afterwards."""
    yield
    mlflow.set_tracking_uri(None)


def problem(uri: str) -> str:
    """The sentence with which a store is refused, within ten seconds."""
    mlflow.set_tracking_uri(uri)
    began = time.monotonic()
    with pytest.raises(InputError) as raised:
        server.check_store()
    assert time.monotonic() - began < 10
    said = str(raised.value)
    assert said.startswith("The tracking server ")
    assert said.endswith(".")
    assert SECRET not in said
    return said


# Stores that can't be used


@pytest.mark.usefixtures("other_store")
def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("some text\n" * 100)
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "cut.db").write_bytes(b"SQLite format 3\0" + b"\1" * 50)
    assert "notes.db is no database of MLflow, or damaged (file is not a database)." in problem(
        f"sqlite:///{tmp_path}/notes.db"
    )
    assert "cut.db is no database of MLflow, or damaged" in problem(f"sqlite:///{tmp_path}/cut.db")
    assert "folder.db is a folder; give the database's file, as in sqlite:///" in problem(
        f"sqlite:///{tmp_path}/folder.db"
    )
    assert "notes.db is no folder that may be written to." in problem(f"sqlite:///{tmp_path}/notes.db/mlflow.db")
    for folder in (str(tmp_path), f"file://{tmp_path}", "./mlruns"):
        assert "it names a folder, and MLflow 3 keeps runs in a database" in problem(folder)
    for address in ("nosql://host/runs", "://host"):
        assert "no such kind of address is known" in problem(address)
    assert "its password holds what ends it too early; write %5B for [." in problem(f"http://ada:{SECRET}[@host/runs")
    for scheme in ("http", "postgresql"):
        assert "can't be used: " in problem(f"{scheme}://ada:{SECRET}@[::1/runs")
    assert "no such kind of address is known" in problem("postgresql+nodriver://host/runs")
    assert "the database's driver is not installed (No module named " in problem(f"mysql://ada:{SECRET}@host/runs")


@pytest.mark.usefixtures("other_store")
def test_postgresql_without_its_driver_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for scheme in ("postgresql", "postgresql+psycopg"):
        said = problem(f"{scheme}://ada:{SECRET}@host/runs")
        assert "the database's driver is not installed (" in said
        assert said.endswith('): pip install "exvo[server]" (in a checkout: make .venv/ready).')
    assert "pip install" not in problem(f"postgresql+psycopg2://ada:{SECRET}@host/runs")


def test_an_artifact_store_in_s3_without_its_library_is_refused_with_the_command(
    store: str, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = MlflowClient().create_experiment("s3", "s3://nowhere/runs")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert run_here("extract", {"corpus": "table", "data": str(tiny_corpus), "workers": "1"}, monkeypatch) == 2
    assert MlflowClient().search_runs([experiment]) == []  # a refused input leaves no run
    assert 'An artifact store in S3 needs boto3, which is not installed: pip install "exvo[server]"' in (
        capsys.readouterr().err
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write to everything")
@pytest.mark.usefixtures("other_store")
def test_a_database_that_may_not_be_written_is_said(empty_store: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    (tmp_path / "mlflow.db").chmod(0o400)
    assert "mlflow.db may not be written to by this user." in problem(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.usefixtures("other_store")
def test_a_database_or_server_that_is_away_is_said() -> None:
    for scheme in ("postgresql", "http"):
        assert "Connection refused" in problem(f"{scheme}://ada:{SECRET}@127.0.0.1:{free_port()}/runs")


def retried(cause: str) -> MlflowException:
    """What MLflow raises where it has asked again in vain."""
    pool = "HTTPConnectionPool(host='host', port=80): Max retries exceeded with url: /api"
    return MlflowException(f"API request to http://host/api failed with exception {pool} (Caused by {cause})")


@pytest.mark.parametrize(
    ("error", "reason", "store_is_away"),
    [
        (MlflowException("401 != 200", UNAUTHENTICATED), "it does not take this user name and password; set ", True),
        (MlflowException("403 != 200", PERMISSION_DENIED), "your account lacks the permission for it (EDIT)", False),
        (retried("ResponseError('too many 500 error responses')"), "it answers with errors, as it does while", True),
        (retried("ConnectionResetError(104, 'Connection reset by peer')"), "Connection reset by peer", True),
        (retried("NewConnectionError('[Errno 111] Connection refused')"), "Connection refused", True),
        (OSError(2, "No such file or directory", "settings.json"), "No such file or directory", False),
    ],
)
def test_what_a_server_means_that_has_accounts_or_lacks_a_part(
    error: Exception, reason: str, store_is_away: bool
) -> None:
    assert server.why(error).startswith(reason)
    expected = pytest.raises(server.StoreAway, match=r"^The artifact store of .* can't be used: ")
    with expected if store_is_away else contextlib.nullcontext():
        server.require_artifacts(error)


@pytest.mark.usefixtures("other_store")
def test_a_silent_database_or_server_is_said_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "DATABASE_SECONDS", 0.5)
    monkeypatch.setattr(server, "SERVER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for scheme in ("postgresql", "http"):
            said = problem(f"{scheme}://ada:{SECRET}@127.0.0.1:{port}/runs")
            assert "it has not answered for 0 seconds" in said or "timed out" in said  # whoever notices first
            assert ("Start it, or set MLFLOW_TRACKING_URI" in said) is (scheme == "http")


@pytest.mark.usefixtures("other_store")
@pytest.mark.parametrize("tracking", ["sqlite", "http"])
def test_a_registry_of_its_own_is_asked_itself(
    tracking: str, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.server.server_port, self.path))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Answer) for _ in range(2)]
    for one in servers:
        threading.Thread(target=one.serve_forever, daemon=True).start()
    ports = [one.server_port for one in servers]
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    monkeypatch.setattr(server, "_usable", set())
    mlflow.set_tracking_uri(f"http://127.0.0.1:{ports[0]}" if tracking == "http" else f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"http://127.0.0.1:{ports[1]}")
    try:
        server.check_store()
        assert asked == [(port, "/health") for port in (ports if tracking == "http" else ports[1:])]
        servers[1].shutdown()
        servers[1].server_close()
        server._usable.clear()
        said = rf"The model registry http://127\.0\.0\.1:{ports[1]} can't be used: .* set MLFLOW_REGISTRY_URI"
        with pytest.raises(InputError, match=said):
            server.check_store()
    finally:
        for one in servers:
            one.shutdown()
            one.server_close()


@pytest.mark.usefixtures("other_store")
def test_a_command_says_so_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for entry_point, given in (
        ("evaluate", {"run_id": "x"}),
        ("compare", {}),
        ("register", {}),
        ("reproduce", {"run": "x"}),
    ):
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}")
        assert run_here(entry_point, given, monkeypatch) == 2
        assert "is a folder; give the database's file" in capsys.readouterr().err


# Passwords


@pytest.mark.usefixtures("other_store")
def test_an_address_that_libraries_misread_is_refused_before_they_see_it() -> None:
    assert "its password holds what ends it too early; write %2F for /." in problem(f"http://ada:pa/{SECRET}@host:5000")
    assert "write %40 for @." in problem(f"postgresql://ada:pa@{SECRET}@host/runs")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"no answer from http://ada:pa/{SECRET}@host:5000/api", "no answer from http://host:5000/api"),
        (f"(postgresql://ada:p@{SECRET}@db/runs)", "(postgresql://ada@db/runs)"),
        (f"postgresql://ada@db/runs?sslmode=require&password={SECRET}", "postgresql://ada@db/runs?sslmode=require"),
        (f"'https://{SECRET}@host'", "'https://host'"),
        ("https://sqlalche.me/e/21/4xp6 and ada@example.org", "https://sqlalche.me/e/21/4xp6 and ada@example.org"),
        ("git+https://example.org/x@v1", "git+https://example.org/x@v1"),
        ("sqlite:////a:b@c/mlflow.db", "sqlite:////a:b@c/mlflow.db"),
    ],
)
def test_addresses_within_a_text(text: str, hidden: str) -> None:
    assert passwords.hide(text) == hidden


def test_known_passwords_are_hidden_alone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:{SECRET}%21@host")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET[::-1])
    assert passwords.hide(f"authentication of {SECRET}! failed, {SECRET[::-1]}") == "authentication of *** failed, ***"


def test_tracebacks_and_log_records_of_libraries_hide_them() -> None:
    program = f"""
import logging
from exvo import passwords
passwords.guard()
logging.basicConfig()
try:
    raise OSError("http://ada:{SECRET}@host is away")
except OSError:
    logging.getLogger("library").exception("asked %s", "http://ada:{SECRET}@host")
raise ValueError("postgresql://ada:{SECRET}@db")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert SECRET not in done.stderr
    assert done.stderr.count("Traceback") == 2
    assert "asked http://host" in done.stderr
    assert "ValueError: postgresql://ada@db" in done.stderr


def test_guarded_records_keep_their_text(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    passwords.guard()
    logging.getLogger("library").warning("%d of %s", 3, "four")
    assert caplog.messages == ["3 of four"]


@pytest.mark.slow
def test_no_file_and_no_line_of_a_training_holds_the_password(
    own_server: Server, tiny_corpus: Path, tmp_path: Path
) -> None:
    uri = own_server.uri.replace("http://", f"http://ada:{SECRET}@")
    words = [word for name, value in (SMALL | {"data": str(tiny_corpus)}).items() for word in (f"--{name}", value)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "exvo", "main", *words], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert b"open   http://127.0.0.1:" in done.stdout
    assert SECRET.encode() not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


# Launchers that fail


@pytest.fixture
def launched(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The id of a run that `mlflow run` has made for the next command."""
    run_id = MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    yield run_id
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    options.note_launcher()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [({"epochs": "abc"}, "epochs=abc is not a whole number or auto."), ({"init": "runs:/nobody"}, "init=nobody: ")],
)
def test_a_refused_input_ends_the_run_of_mlflow_run_with_its_sentence(
    given: dict[str, str],
    sentence: str,
    launched: str,
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sentence = sentence.replace("init=", "run_id=")
    assert run_here("train", SMALL | {"data": str(tiny_corpus)} | given, monkeypatch) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("exvo: ")]
    (run,) = MlflowClient().search_runs(["0"])
    assert run.info.run_id == launched
    assert run.info.status == "FAILED"
    assert run.data.tags[NOTE] == line
    assert sentence in line


def test_a_refused_input_leaves_no_run_of_our_own(
    store: str, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused after the run has begun."""
    given = SMALL | {"data": str(tiny_corpus), "init": "runs:/nobody"}
    assert run_here("train", given, monkeypatch) == 2
    assert MlflowClient().search_runs(["0"]) == []


PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1]]).wait()
"""

CHILD = """
import signal, time
from exvo.experiments.process import Stopped, end_with_parent, stoppable
try:
    with stoppable():
        end_with_parent()
        print("ready", flush=True)
        time.sleep(60)
except Stopped as stop:
    print("stopped with", stop.status, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system sends no signal when a parent ends")
def test_a_command_stops_when_its_launcher_is_killed() -> None:
    words = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        assert parent.stdout.readline() == "stopped with 143\n"


# Deleted while they train


def test_a_run_that_is_deleted_while_it_trains_loses_nothing(
    store: str, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = SMALL | {"data": str(tiny_corpus)}
    with monkeypatch.context() as patch:
        at_epoch(2, lambda: MlflowClient().delete_run(newest().info.run_id), patch)
        assert run_here("train", given, monkeypatch) == 0
    said = capsys.readouterr().out
    assert " is deleted; `" in said
    assert "restores it; this goes on, and what it logs is kept in output/runs/" in said
    assert "What the run logged is not all on the tracking server (the run is deleted): the rest is kept in " in said
    (folder,) = Path("output/runs").glob("*/journal")
    assert run_here("sync", {}, monkeypatch) == 2
    assert "keeps what a run logged that is deleted. The run " in capsys.readouterr().err
    MlflowClient().restore_run(folder.parent.name)
    assert run_here("sync", {}, monkeypatch) == 0
    run = newest()
    assert run.info.status == "FINISHED"
    steps = [point.step for point in MlflowClient().get_metric_history(run.info.run_id, "epoch/loss")]
    assert sorted(steps) == [1, 2, 3]
    assert "exvo.model_uri" in run.data.tags


def test_a_stop_in_the_middle_of_a_query_prints_no_traceback_of_the_database() -> None:
    server.quiet()
    assert not create_engine("sqlite://").pool.logger.isEnabledFor(logging.ERROR)
