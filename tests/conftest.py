"""Shared by the tests: small corpora, and the real clips where they are at hand."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of several tests spin against each other

import contextlib
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from sqlalchemy import Engine, event

from exvo import files, options

from helpers.commands import ROOT
from helpers.corpora import write_table_corpus
from helpers.disks import Disk
from helpers.servers import Server

EMOGATOR_MINI = ROOT.parent / "shared" / "data" / "emogator-mini"

for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
    del os.environ[name]  # the tests use stores of their own
os.environ["MLFLOW_EXPERIMENT_NAME"] = "Default"  # where tests look for runs; test_experiments.py does without

LONGEST = (
    "resume",
    "away",
    "tune_processes",
    "server",
    "pipelines",
    "lookups",
    "reproduce",
    "personalisation",
    "faults",
)
LONGEST += ("tune", "concurrency", "notebooks", "predict", "hostile", "submit", "names", "execution", "compare")
"""The files of tests that take longest, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has the longest files begin first, so that two workers end together."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@event.listens_for(Engine, "connect")
def _no_wait_for_the_disk(connection: object, _: object) -> None:
    """Databases that this process opens are not written through to the disk at each step: no test cuts the power."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture(scope="session")
def emogator_mini() -> Path:
    if not EMOGATOR_MINI.is_dir():
        pytest.skip("the 2,160 real clips of emogator-mini are not beside this checkout (../shared/data/emogator-mini)")
    return EMOGATOR_MINI


@pytest.fixture(autouse=True)
def _launcher_unknown() -> Iterator[None]:
    """Each test asks anew from where `mlflow run` has started it, and no command leaves its launcher behind."""
    files.launched_from.cache_clear()
    yield
    options.note_launcher()
    files.launched_from.cache_clear()


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


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight speakers with four short clips each, in the `table` layout."""
    folder = tmp_path_factory.mktemp("tiny")
    write_table_corpus(folder, speakers=8)
    return folder


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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Disk]]:
    """Makes a disk of so many bytes."""
    made: list[Disk] = []

    def make(size: int) -> Disk:
        made.append(Disk(tmp_path / f"disk{len(made)}", size))
        return made[-1]

    yield make
    for one in made:
        subprocess.run(["umount", "--lazy", str(one.folder)], check=True)
