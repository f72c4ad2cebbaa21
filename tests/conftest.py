"""Shared by the tests: small corpora, and the real clips where they are at hand."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of several tests spin against each other

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
from mlflow import MlflowClient

from exvo import files
from exvo.__main__ import command
from exvo.tracking import runs
from exvo.tracking.delivery import Record

ROOT = Path(__file__).resolve().parent.parent
EMOGATOR_MINI = ROOT.parent / "shared" / "data" / "emogator-mini"

for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
    del os.environ[name]  # the tests use stores of their own


@pytest.fixture(scope="session")
def emogator_mini() -> Path:
    if not EMOGATOR_MINI.is_dir():
        pytest.skip("the 2,160 real clips of emogator-mini are not beside this checkout (../shared/data/emogator-mini)")
    return EMOGATOR_MINI


@pytest.fixture(autouse=True)
def _launcher_unknown() -> None:
    """Each test asks anew from where `mlflow run` has started it."""
    files.launched_from.cache_clear()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """A real `mlflow server` on this machine, with its own store and artifacts, which can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        words += ["--artifacts-destination", str(self.folder / "kept")]
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(words, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=1)
                return
            time.sleep(0.5)
        pytest.fail((self.folder / "server.log").read_text())

    def send(self, number: signal.Signals) -> None:
        """A signal to all its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def stop(self) -> None:
        """Ends it, if it runs; a second call does nothing."""
        if self._process is not None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
            self._process.wait(30)
            self._process = None


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server that runs; it is the tracking server of this process."""
    one = Server(tmp_path)
    try:
        one.start()
        mlflow.set_tracking_uri(one.uri)
        yield one
    finally:
        mlflow.set_tracking_uri(None)
        one.stop()


@pytest.fixture
def server(own_server: Server) -> str:
    """Its address."""
    return own_server.uri


def write_table_corpus(folder: Path, speakers: int = 6, clips: int = 4, seconds: float = 0.4) -> pd.DataFrame:
    """A corpus in the `table` layout: tones whose pitch and loudness are the two targets; ages and countries too."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for speaker in range(speakers):
        split = ("train", "train", "val", "test")[speaker % 4] if speaker < 4 else ("train", "val", "test")[speaker % 3]
        for clip in range(clips):
            pitch, loudness = rng.random(2)
            time = np.arange(int(16_000 * (seconds + 0.05 * clip))) / 16_000
            tone = (0.05 + 0.4 * loudness) * np.sin(2 * np.pi * (150 + 400 * pitch) * time)
            name = f"s{speaker}-{clip}.wav"
            soundfile.write(folder / name, tone + rng.normal(0, 0.005, len(time)), 16_000)
            country = ("Chile", "Kenya")[speaker % 2]
            rows.append((name, split, f"speaker{speaker}", 20.0 + 3 * speaker, country, pitch, loudness))
    table = pd.DataFrame(rows, columns=["file", "split", "speaker", "age", "country", "High", "Loud"])
    table.to_csv(folder / "clips.csv", index=False)
    return table


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight speakers with four short clips each, in the `table` layout."""
    folder = tmp_path_factory.mktemp("tiny")
    write_table_corpus(folder, speakers=8)
    return folder


def run_here(entry_point: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The same within this process: its exit status."""
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    try:
        command(entry_point, words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@contextlib.contextmanager
def run_by_hand(name: str | None = None, run_id: str | None = None) -> Iterator[mlflow.ActiveRun]:
    """A run that a test logs with the functions of `tracking`, without what an entry point logs of its own."""
    with mlflow.start_run(run_name=name, run_id=run_id) as active:
        record = Record(active, Path("output") / "runs" / active.info.run_id / "journal")
        runs.RECORDS.append(record)
        try:
            yield active
        finally:
            runs.RECORDS.remove(record)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a store without runs: to copy one takes less time than to make one."""
    folder = tmp_path_factory.mktemp("empty")
    with contextlib.chdir(folder):  # where the artifacts of its default experiment will lie
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An embedded store and a folder of the test's own, with an experiment `elsewhere` whose artifacts lie there."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    MlflowClient().create_experiment("elsewhere", artifact_location=str(tmp_path / "artifacts"))
    yield uri
    mlflow.set_tracking_uri(None)
