"""Visits to the page: each has a profile in memory and recordings in a private folder, which go when it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from exvo.errors import InputError

PREFIX = "exvo-demo-"

UNCLAIMED = 60.0
"""Seconds after which a file that no visit holds is deleted: an upload that was broken off, or never used."""

LONGEST = 3600.0
"""Seconds after which a visit ends that has lost its connection and gives no sign of life."""


@dataclass
class Visit:
    """What the page knows of a visitor.

    Attributes:
        recordings: the files, by their place on the page.
        profile: (profile,), once the visitor is enrolled.
        connected: whether the browser holds a connection open, whose end is the visit's.
        last: when the visitor last did something, on the clock of `time.monotonic`, seconds.
    """

    recordings: dict[str, Path] = field(default_factory=dict)
    profile: np.ndarray | None = None
    connected: bool = False
    last: float = field(default_factory=time.monotonic)


class Visits:
    """All visits that are going on. It may be used from several threads.

    Attributes:
        folder: of the recordings; readable by this user alone. `close` removes it.
    """

    def __init__(self) -> None:
        """Makes the folder, and removes those of pages that were killed."""
        remove_leftovers()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")).resolve()
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def of(self, session: str) -> Visit:
        """The visit of a session of the browser; it begins with this call, where it has not yet."""
        with self._lock:
            visit = self._visits.setdefault(session, Visit())
            visit.last = time.monotonic()
            return visit

    def hold(self, session: str, place: str, file: str | None) -> None:
        """Notes the recording at a place of the page, or that there is none any more; one that was there is deleted."""
        path = None if file is None else self.within(file)
        visit = self.of(session)
        with self._lock:
            former = visit.recordings.pop(place, None)
            if path is not None:
                visit.recordings[place] = path
            if former is not None and former != path:
                self._delete([former])

    def read(self, session: str, place: str, file: str) -> bytes:
        """The bytes of a recording, which the visit holds from then on.

        Raises:
            InputError: it is not there any more.
        """
        self.hold(session, place, file)
        try:
            return self.within(file).read_bytes()
        except OSError:
            raise InputError("The recording is not there any more: record it again.") from None

    def within(self, file: str) -> Path:
        """The path of a recording.

        Raises:
            InputError: it is none of this folder.
        """
        path = Path(file).resolve()
        if not path.is_relative_to(self.folder):
            raise InputError("This is no recording of this page: record it again.")
        return path

    def end(self, session: str) -> None:
        """Forgets a visit: its profile, and its recordings unless another visit holds the same file."""
        with self._lock:
            visit = self._visits.pop(session, None)
            if visit is not None:
                self._delete(visit.recordings.values())

    def sweep(self) -> None:
        """Ends visits without a connection or a sign of life, and deletes files that no visit holds."""
        for session, visit in list(self._visits.items()):
            if not visit.connected and time.monotonic() - visit.last > LONGEST:
                self.end(session)
        with self._lock:
            held = self._held()
            now = time.time()
            for path in self.folder.rglob("*"):
                with contextlib.suppress(OSError):
                    if path not in held and now - path.stat().st_mtime > UNCLAIMED:
                        path.rmdir() if path.is_dir() else path.unlink()

    def size(self) -> int:
        """Bytes of all recordings in the folder."""
        total = 0
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):
                total += path.stat().st_size if path.is_file() else 0
        return total

    def close(self) -> None:
        """Ends all visits, and removes the folder."""
        with self._lock:
            self._visits.clear()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _held(self) -> set[Path]:
        """The files that visits hold."""
        return {path for visit in self._visits.values() for path in visit.recordings.values()}

    def _delete(self, paths: Iterable[Path]) -> None:
        """Deletes files, with folders that are then empty, unless a visit holds them."""
        held = self._held()
        for path in paths:
            if path not in held:
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    if path.parent != self.folder:
                        path.parent.rmdir()


def remove_leftovers() -> None:
    """Removes the folders of pages that were killed before they could: their process is there no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)
