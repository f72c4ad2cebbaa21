"""A real Dask cluster on this machine: a scheduler, and workers whose processes can be killed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from helpers.commands import ROOT
from helpers.servers import free_port


class Cluster:
    """A scheduler, and the workers that were added to it."""

    def __init__(self, folder: Path, scheme: str = "tcp", options: Sequence[str] = ()) -> None:
        """Starts a scheduler without workers; returns when it answers.

        Args:
            folder: for the logs and what Dask writes.
            scheme: of its address, tcp or tls.
            options: further words of the commands of scheduler and workers.
        """
        self.folder, port = folder, free_port()
        self.host, self.address, self._options = f"{scheme}://127.0.0.1", f"{scheme}://127.0.0.1:{port}", options
        self._processes: list[subprocess.Popen[bytes]] = []
        self._start(["scheduler", "--host", self.host, "--port", str(port), "--no-dashboard"])
        for _ in range(240):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.25)
        pytest.fail(self.log())

    def add_worker(
        self, count: int = 1, variables: Mapping[str, str] | None = None, before: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Starts workers of one thread each, under a nanny each, and does not wait for them.

        Args:
            count: how many.
            variables: of their environment.
            before: words before their command.
        """
        words = ["worker", self.address, "--nthreads", "1", "--nworkers", str(count), "--host", self.host]
        words += ["--no-dashboard", "--local-directory", str(self.folder / "scratch")]
        return self._start(words, variables, before)

    def workers(self) -> list[psutil.Process]:
        """The processes of the workers, beneath their nannies."""
        found = []
        for process in self._processes[1:]:
            with contextlib.suppress(psutil.Error):
                children = psutil.Process(process.pid).children(recursive=True)
                found += [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        return found

    def log(self) -> str:
        """What scheduler and workers have said."""
        return (self.folder / "cluster.log").read_text()

    def stop(self) -> None:
        """Ends all processes, the scheduler last."""
        for process in reversed(self._processes):
            with contextlib.suppress(psutil.Error):
                for one in psutil.Process(process.pid).children(recursive=True):
                    one.kill()
            process.kill()
            process.wait(30)
        self._processes.clear()

    def _start(
        self, words: list[str], variables: Mapping[str, str] | None = None, before: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"} | dict(variables or {})
        with (self.folder / "cluster.log").open("a") as log:
            command = [*before, sys.executable, "-m", "dask", *words, *self._options]
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self._processes.append(process)
        return process
