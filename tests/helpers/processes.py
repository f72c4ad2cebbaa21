"""Commands as processes of their own, which can be killed, stopped and waited for."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO

TESTS = Path(__file__).resolve().parent.parent


def environment(tracking_uri: str) -> dict[str, str]:
    """This process' environment with its Python first on the path, as in an activated environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "MLFLOW_TRACKING_URI": tracking_uri, "GIT_PYTHON_REFRESH": "quiet"}


def arguments(entry_point: str, options: dict[str, str]) -> list[str]:
    """An entry point and its options as words of a command line."""
    return [entry_point, *(word for name, value in options.items() for word in (f"--{name}", value))]


@functools.cache
def template() -> socket.socket:
    """The channel to this process' `helpers.template`, which ends when this process does."""
    ours, its = socket.socketpair()
    words = [sys.executable, "-m", "helpers.template", str(its.fileno())]
    process = subprocess.Popen(words, cwd=TESTS, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)
    its.close()

    def end() -> None:
        ours.close()
        process.wait(30)

    atexit.register(end)
    return ours


class Process:
    """A command in a process of its own, forked from `helpers.template`; to be used like `subprocess.Popen`.

    Attributes:
        pid: its process id.
        stdout: what it prints, errors too; None where it prints to a terminal.
        returncode: its exit status, or minus the number of the signal that has ended it; None while it runs.
    """

    def __init__(self, entry_point: str, options: dict[str, str], store: str, terminal: int | None = None) -> None:
        """Starts it.

        Args:
            entry_point: a name of exvo's entry points.
            options: its options.
            store: the tracking URI.
            terminal: the descriptor of a terminal that it is to be started in.
        """
        self.stdout: IO[str] | None = None
        self.returncode: int | None = None
        self._answers, its_answers = socket.socketpair()
        nothing = os.open(os.devnull, os.O_RDONLY)
        if terminal is None:
            printed, its_output = os.pipe()
            self.stdout = os.fdopen(printed, encoding="utf-8")
            streams = [nothing, its_output, its_output]
        else:
            its_output = os.dup(terminal)
            streams = [its_output] * 3
        request = {"words": arguments(entry_point, options), "environment": environment(store)}
        content = json.dumps(request | {"folder": os.getcwd(), "terminal": terminal is not None}).encode()
        socket.send_fds(template(), [content], [its_answers.fileno(), *streams])
        its_answers.close()
        os.close(its_output)
        os.close(nothing)
        self.pid = self._answer(60)

    def _answer(self, timeout: float | None) -> int:
        """The next number that the template tells of it."""
        self._answers.settimeout(timeout)
        line = b""
        while not line.endswith(b"\n"):
            byte = self._answers.recv(1)
            assert byte, "the process that forks commands has ended"
            line += byte
        return int(line)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, when it has ended; TimeoutError after so many seconds."""
        if self.returncode is None:
            self.returncode = self._answer(timeout)
        return self.returncode

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        ended = self.returncode is None and select.select([self._answers], [], [], 0)[0]
        return self.wait() if ended else self.returncode

    def send_signal(self, number: int) -> None:
        """A signal to it, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it; it ends soon after."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 200) -> tuple[str, None]:
        """What it has printed that was not read yet, when it has ended; it is killed if that takes longer."""
        assert self.stdout is not None
        late = threading.Timer(timeout, os.kill, (self.pid, signal.SIGKILL))
        late.start()
        try:
            said = self.stdout.read()
            self.wait(timeout)
        finally:
            late.cancel()
        return said, None

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Waits for it, after killing it if the test has failed."""
        if kind is not None:
            self.kill()
        if self.stdout is not None:
            self.stdout.close()
        self.wait(200)
        self._answers.close()


def started(entry_point: str, options: dict[str, str], store: str) -> Process:
    """A command in a process of its own; what it prints, errors too, is in `stdout`."""
    return Process(entry_point, options, store)
