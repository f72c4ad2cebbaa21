"""Locks on files, which the system lets go of when their process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from typing import IO

HELD: set[IO[bytes]] = set()
"""Files that this process has locked: a forked child has them too, and must not hold them when its parent is gone."""


def lock(file: IO[bytes]) -> None:
    """Locks an open file for this process alone, until it is closed with `unlock`.

    Raises:
        BlockingIOError: another process holds it.
    """
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    HELD.add(file)


def unlock(file: IO[bytes]) -> None:
    """Lets go of a file and closes it."""
    HELD.discard(file)
    file.close()


def _let_go() -> None:
    for file in list(HELD):
        os.close(file.fileno())
    HELD.clear()


os.register_at_fork(after_in_child=_let_go)
