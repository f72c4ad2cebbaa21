"""The process in which inputs are read: it may crash, hang or run out of memory, and the fuzzer goes on."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import FrameType
from typing import NoReturn

SECONDS = int(os.environ.get("EXVO_FUZZ_SECONDS", "10"))
"""For an input. What hangs where Python's signals don't reach is killed later by the parent."""

FLOOD = 20_000
"""Bytes on the error stream for an input; libmpg123 writes a line for each damaged frame of an MP3."""

WARM = 30
"""Inputs read before memory is limited, so that threads and tables that are made once are there."""


class Slow(BaseException):
    """An input takes longer than it may."""


def seed_of(target: str, seed: int, number: int) -> Random:
    """The generator of an input."""
    return Random(f"{target} {seed} {number}")


def work(target: str, folder: Path, seed: int, numbers: range, pipe: Connection) -> None:
    """Reads inputs and sends for each its number, accepted, refused or failed, and what is wrong.

    After a failure it waits for a word, so that the input can be kept.

    Args:
        target: module:class.
        folder: for the inputs.
        seed: of all.
        numbers: of the inputs.
        pipe: to the parent; at the end it gets the growth of this process' memory in bytes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    signal.signal(signal.SIGALRM, slow)
    errors = folder.parent / f"{folder.name}.errors"
    os.dup2(os.open(errors, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600), 2)
    os.dup2(2, 1)
    module, name = target.split(":")
    subject = getattr(importlib.import_module(module), name)(folder)
    for number in range(-WARM, 0):
        with contextlib.suppress(Exception):
            subject.draw(seed_of(target, seed, number))
            subject.run()
    before = peak()
    limit = address_space() + subject.memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        pipe.send((number, "begun", ""))
        written = os.fstat(2).st_size
        outcome, why = read(subject, seed_of(target, seed, number))
        sys.stderr.flush()
        errors_written = os.pread(2, FLOOD, written) if os.fstat(2).st_size > written else b""
        leaked = b"Traceback" in errors_written or b"Exception ignored" in errors_written
        if outcome != "failed" and (leaked or len(errors_written) == FLOOD):
            outcome, why = "failed", errors_written.decode(errors="replace")
        pipe.send((number, outcome, why))
        if outcome == "failed":
            pipe.recv()
    pipe.send((-1, "grown", str(peak() - before)))


def read(subject: object, random: Random) -> tuple[str, str]:
    """The outcome of an input, and what is wrong."""
    try:
        subject.draw(random)  # type: ignore[attr-defined]
        signal.alarm(SECONDS)
        return ("accepted" if subject.run() else "refused"), ""  # type: ignore[attr-defined]
    except Slow:
        return "failed", f"takes more than {SECONDS} s"
    except Exception:
        return "failed", traceback.format_exc()[-4_000:]
    finally:
        signal.alarm(0)


def slow(number: int, frame: FrameType | None) -> NoReturn:
    """Interrupts an input that takes too long, as the handler of the alarm."""
    raise Slow


def peak() -> int:
    """The most memory that this process has held, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def address_space() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
