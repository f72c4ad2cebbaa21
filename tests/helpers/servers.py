"""Real servers on this machine: a tracking server, its database and its object store."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import boto3
import pytest


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """A real `mlflow server` on this machine, which can be stopped and started."""

    def __init__(
        self, folder: Path, options: Sequence[str] | None = None, variables: Mapping[str, str] | None = None
    ) -> None:
        """Prepares it.

        Args:
            folder: in which it runs, and for its log.
            options: of its command; None: a database and a folder for artifacts of its own.
            variables: of its environment, besides this process' own.
        """
        self.folder = folder
        self._options = options or [
            f"--backend-store-uri=sqlite:///{folder}/server.db",
            f"--artifacts-destination={folder / 'kept'}",
        ]
        self._variables = dict(variables or {})
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--workers", "1", *self._options]
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                words,
                cwd=self.folder,
                env=os.environ | self._variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
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


class Database:
    """A PostgreSQL server with an empty database, which asks for a password and can be stopped and started."""

    def __init__(self, folder: Path, password: str) -> None:
        """Makes it; the test is skipped where PostgreSQL is not installed.

        Args:
            folder: for its files, not there yet; its path must be one that every user may enter.
            password: of its user ada.
        """
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            pytest.skip("there is no PostgreSQL in /usr/lib/postgresql; Debian's package is called postgresql")
        self.programs, self.folder, self.port = found[-1].parent, folder, free_port()
        folder.mkdir(exist_ok=True)
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # which the server refuses to run as
            self._as_user = ["runuser", "-u", "postgres", "--"]
            shutil.chown(folder, "postgres")
        secret = folder / "password"
        secret.write_text(password)
        secret.chmod(0o644)
        self._run("initdb", "-U", "ada", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")
        self.uri = f"postgresql://ada:{password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Returns when it answers."""
        places = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", places, "start")

    def stop(self) -> None:
        """Ends it as a crash does."""
        self._run("pg_ctl", "-m", "immediate", "stop")

    def _run(self, program: str, *words: str) -> None:
        command = [*self._as_user, str(self.programs / program), "-D", str(self.folder / "data"), *words]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, timeout=60)


class Gate:
    """A port that leads to another one, until it is closed: then nobody listens, and what was open is cut."""

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self.port, self._target, self._host = free_port(), target, host
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self.open()

    def open(self) -> None:
        """Lets connections through."""
        self._listener = socket.create_server((self._host, self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Cuts all connections, and takes no new ones."""
        if self._listener is not None:
            for one in [self._listener, *self._open]:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self._listener, self._open = None, set()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                ours, _ = listener.accept()
                threading.Thread(target=self._join, args=(ours,), daemon=True).start()

    def _join(self, ours: socket.socket) -> None:
        """Copies what comes from either side to the other, until one of them ends."""
        with ours, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as its:
            other = {ours: its, its: ours}
            self._open |= other.keys()
            with selectors.DefaultSelector() as ready:
                for one in other:
                    ready.register(one, selectors.EVENT_READ)
                while ours in self._open:
                    for key, _ in ready.select(1):
                        content = key.fileobj.recv(65536)  # type: ignore[union-attr]
                        if not content:
                            return
                        other[key.fileobj].sendall(content)  # type: ignore[index]


class ObjectStore:
    """Moto's server, which speaks S3 and keeps all in memory, behind a gate that can be closed.

    Attributes:
        uri: its address.
        gate: between it and those who ask.
    """

    KEYS: ClassVar = {
        "AWS_ACCESS_KEY_ID": "exvo",
        "AWS_SECRET_ACCESS_KEY": "of-a-mock",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    """With which it is asked; it takes any."""

    def __init__(self, folder: Path) -> None:
        """Starts it; the test is skipped where moto is not installed."""
        pytest.importorskip("moto", reason="moto, the mock of S3, is in the extra dev")
        port = free_port()
        with (folder / "store.log").open("w") as log:
            words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
            self._process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=1)
                break
            time.sleep(0.5)
        else:
            pytest.fail((folder / "store.log").read_text())
        self.gate = Gate(port)
        self.uri = f"http://127.0.0.1:{self.gate.port}"

    def make_bucket(self, name: str) -> None:
        """Makes a bucket."""
        boto3.client(
            "s3",
            endpoint_url=self.uri,
            region_name=self.KEYS["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.KEYS["AWS_SECRET_ACCESS_KEY"],
        ).create_bucket(Bucket=name)

    def stop(self) -> None:
        """Ends it for good."""
        self.gate.close()
        self._process.kill()
        self._process.wait(30)
