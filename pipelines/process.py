"""A command as a process: one at a time on an output folder, and how it ends when it is told to."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType

from exvo.config import InputError
from exvo.locks import lock, unlock

SECOND = 1.0
"""Seconds after which a second signal is meant as one: `timeout` and terminals may send the first one twice."""

PR_SET_PDEATHSIG = 1
"""Of Linux: which signal comes when the parent ends."""

PATIENCE = 20.0
"""Seconds that a command has to mark its run; then it ends as if it were killed, which harms nothing."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM has come.

    Attributes:
        status: with which the process ends: 130 or 143.
    """

    def __init__(self, number: int) -> None:
        super().__init__("Stopped.")
        self.status = 128 + number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise `Stopped`; a second one ends the process at once."""
    first: float | None = None
    timer: threading.Timer | None = None

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal first, timer
        if first is None:
            first = time.monotonic()
            timer = threading.Timer(PATIENCE, os._exit, [128 + number])
            timer.daemon = True
            timer.start()
            raise Stopped(number)
        if time.monotonic() - first > SECOND:
            os._exit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if timer is not None:
            timer.cancel()


def end_with_parent() -> None:
    """Has the system send SIGTERM to this process when the one that started it has ended, on Linux.

    MLflow's launcher, when it is killed, tells its command nothing: the run would stay RUNNING.
    """
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended meanwhile
            os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def hold(entry_point: str, output: str) -> Iterator[None]:
    """Keeps other commands off an output folder; the system lets go of it when the process ends, however it ends.

    Raises:
        InputError: another process holds it, or it can't be written to.
    """
    path = Path(output) / "lock"
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a+b", buffering=0))
            lock(file)
            stack.callback(unlock, file)
            file.truncate(0)
            since = datetime.now().astimezone().isoformat(" ", "seconds")
            holder = {
                "command": f"pipelines.{entry_point}",
                "pid": os.getpid(),
                "host": platform.node(),
                "since": since,
            }
            file.write(json.dumps(holder).encode())
        except BlockingIOError:
            raise InputError(
                f"The output folder {output} is in use by {described(path)}; wait until that has ended, or choose "
                "another folder with output=<folder>."
            ) from None
        except OSError as error:
            raise InputError(
                f"{path} can't be written or locked ({error.strerror}); free space or choose another output folder."
            ) from None
        yield


def described(path: Path) -> str:
    """Who holds a lock, as its file says."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"process {held['pid']} on {held['host']} ({held['command']}, since {held['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written
        return "another process"
