"""The processes that run trials, as those on the same machine recognise them."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Process:
    """The process that runs a trial, as the study's storage holds it.

    Attributes:
        host: name of its machine.
        pid: of the process.
        began: seconds from the machine's start to its own.
    """

    host: str
    pid: int
    began: float


def this_process() -> Process:
    """The present process."""
    return Process(platform.node(), os.getpid(), _since_boot(psutil.Process()))


def _since_boot(process: psutil.Process) -> float:
    """Seconds from the machine's start to the process' start, which do not change when the clock is set."""
    return process.create_time() - psutil.boot_time()


def runs_here(process: Process) -> bool:
    """Whether a process of this machine still runs; another one may have got its pid since."""
    try:
        holder = psutil.Process(process.pid)
        return holder.status() != psutil.STATUS_ZOMBIE and abs(_since_boot(holder) - process.began) <= 1.0
    except psutil.NoSuchProcess:
        return False
