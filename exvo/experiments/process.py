"""A command as a process: its terminal, its lock on the output folder, and how it ends when it is told to."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import json
import os
import platform
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from exvo.errors import InputError
from exvo.files import lock, unlock
from exvo.text import WRITABLE

SAME_SIGNAL_SECONDS = 1.0
"""Within this time a second signal counts as the first: `timeout` and terminals may send that twice."""

PR_SET_PDEATHSIG = 1
"""Of Linux: which signal comes when the parent ends."""

RANKS = "EXVO_RANKS"
"""The variable that makes a command one of several ranks that another one starts: JSON of `Ranked`."""

EXIT_SECONDS = 20.0
"""What a command that is stopped has to mark its run; then it ends as if it were killed, which harms nothing."""


@dataclass(frozen=True)
class Ranked:
    """What a command passes to the ranks that it starts.

    Attributes:
        settings: the command's.
        folder: where each rank leaves the sentence with which it ends, instead of printing it.
    """

    settings: dict[str, Any]
    folder: str

    @classmethod
    def of_environment(cls) -> Ranked | None:
        """What this process was passed; None where it is no such rank."""
        return cls(**json.loads(os.environ[RANKS])) if RANKS in os.environ else None

    def leave(self, sentence: str, status: int) -> None:
        """Leaves the sentence with which this rank ends, and its status."""
        path = Path(self.folder) / f"rank-{int(os.environ['RANK']):04d}.json"
        path.write_text(json.dumps([sentence, status]), encoding="utf-8")

    def left(self) -> list[tuple[str, int]]:
        """What the ranks have left, the first rank's first."""
        paths = sorted(Path(self.folder).glob("rank-*.json"))
        return [tuple(json.loads(path.read_text(encoding="utf-8"))) for path in paths]


class LastingFile(io.FileIO):
    """The file of a standard stream, which drops what can't be written instead of failing.

    Attributes:
        lost: why something was dropped, a number of `errno`; 0 where nothing was.
    """

    lost = 0

    def write(self, data: Any, /) -> int:
        """Writes all of it, as far as it can be written; returns its length in any case."""
        left = memoryview(data).cast("B")
        size = len(left)
        while left:
            try:
                written = super().write(left)
                if written is None:  # the pipe does not wait for its reader
                    select.select([], [self], [])
            except OSError as error:
                self.lost = self.lost or error.errno or errno.EIO
                break
            left = left[written or 0 :]
        return size


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Lets the work go on whatever becomes of what it prints: a reader that has gone, a full disk, a missing letter.

    Streams that were closed lead nowhere, so that no other file gets their numbers. At the end a sentence says that
    output was lost, unless its reader has closed it. Streams that another program has put in their place stay.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    files = []
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=WRITABLE)
            continue
        encoding = stream.encoding if stream else "utf-8"
        direct, by_line = (stream.write_through, stream.line_buffering) if stream else (False, True)
        files.append(LastingFile(number, "w", closefd=False))
        buffer = files[-1] if direct else io.BufferedWriter(files[-1])
        lasting = io.TextIOWrapper(buffer, encoding, WRITABLE, line_buffering=by_line, write_through=direct)
        setattr(sys, name, lasting)
        setattr(sys, f"__{name}__", lasting)
    try:
        yield
    finally:
        if files:
            sys.stdout.flush()
            if files[0].lost not in (0, errno.EPIPE):
                print(f"exvo: What was printed is not complete ({os.strerror(files[0].lost)}).", file=sys.stderr)


def use_utf8() -> None:
    """Starts the process again where Python would read the names of files in another encoding than UTF-8.

    What it prints stays in the terminal's encoding.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        encoding = sys.stdout.encoding if sys.stdout else "utf-8"
        environment = {"PYTHONIOENCODING": encoding} | os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


class Stopped(KeyboardInterrupt):
    """The user has stopped the command, with Ctrl-C or SIGTERM.

    Attributes:
        sentence: that the user reads.
        status: with which the process ends: 130 or 143.
    """

    def __init__(self, sentence: str = "Stopped.", status: int = 128 + signal.SIGINT) -> None:
        super().__init__(sentence)
        self.sentence, self.status = sentence, int(status)


def stopped(interrupt: KeyboardInterrupt, sentence: str) -> Stopped:
    """The same stop with a sentence that says more."""
    return Stopped(sentence, interrupt.status) if isinstance(interrupt, Stopped) else Stopped(sentence)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise `Stopped`; a second one ends the process at once. It outlives its terminal (SIGHUP)."""
    first: float | None = None
    timer: threading.Timer | None = None

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal first, timer
        if first is None:
            first = time.monotonic()
            timer = threading.Timer(EXIT_SECONDS, os._exit, [128 + number])
            timer.daemon = True
            timer.start()
            raise Stopped(status=128 + number)
        if time.monotonic() - first > SAME_SIGNAL_SECONDS:
            os._exit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda number, frame: None)  # it still ends child processes
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if timer is not None:
            timer.cancel()


def end_with_parent() -> None:
    """Has the system send SIGTERM to this process when the one that started it has ended, on Linux.

    When MLflow's launcher is killed, its command would not notice, and the run would stay RUNNING.
    """
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended meanwhile
            os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def hold(entry_point: str, output: str) -> Iterator[None]:
    """Keeps other commands off an output folder; the system unlocks it when the process ends, however it ends.

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
                "command": f"exvo {entry_point}",
                "pid": os.getpid(),
                "host": platform.node(),
                "since": since,
            }
            file.write(json.dumps(holder).encode())
        except BlockingIOError:
            raise InputError(
                f"The output folder {output} is in use by {holder_of(path)}; wait until that has ended, or choose "
                "another folder with output=<folder>."
            ) from None
        except OSError as error:
            raise InputError(
                f"{path} can't be written or locked ({error.strerror}); free space or choose another output folder."
            ) from None
        yield


def holder_of(path: Path) -> str:
    """The process that holds a lock, as the lock's file says."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} ({holder['command']}, since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written
        return "another process"
