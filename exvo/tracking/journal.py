"""What a run could not log, kept on disk in the order in which it came, until it has been delivered."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

from exvo.errors import InputError
from exvo.files import lock, unlock, write_atomically
from exvo.tracking.entries import Artifact, Entry, from_json, to_json


class Journal:
    """Entries of one run: lines of a CRC-32 and JSON, appended; and, beside them, the files that some of them name.

    An entry's line holds its number too; a line `{"done": <number>}` says that it has been delivered. A line that a
    killed process has cut short is passed over. Only one process at a time has a journal open.

    Attributes:
        folder: that holds the lines and the files.
        pending: entries that have not been delivered, by their number.
    """

    def __init__(self, folder: Path) -> None:
        """Opens a journal, or begins one.

        Raises:
            InputError: another process has it open, another version of exvo has written it, or it can't be written.
        """
        self.folder, self.pending = folder, dict[int, Entry]()
        self._count = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "journal").open("a+b", buffering=0)
            lock(self._file)
        except BlockingIOError:
            self._file.close()
            raise InputError(f"{folder} is in use by a run that goes on; wait until it has ended.") from None
        except OSError as error:
            raise self._unwritable(error) from None
        self._file.seek(0)
        try:
            self._read(self._file.read())
        except InputError:
            unlock(self._file)
            raise

    def _read(self, content: bytes) -> None:
        for line in content.splitlines():
            checksum, _, text = line.partition(b" ")
            if checksum != f"{zlib.crc32(text):08x}".encode():
                continue
            fields = json.loads(text)
            if "done" in fields:
                self.pending.pop(fields["done"], None)
            else:
                self.pending[fields["number"]] = from_json(fields)
                self._count = max(self._count, fields["number"])

    def keep(self, entry: Entry, content: bytes | None = None) -> None:
        """Adds an entry; `content` is that of an artifact.

        Raises:
            InputError: the disk is full or the folder can't be written to.
        """
        if content is not None and isinstance(entry, Artifact):
            write_atomically(self.file_of(entry), content)
        self._count += 1
        self._append({**to_json(entry), "number": self._count})
        self.pending[self._count] = entry

    def file_of(self, artifact: Artifact) -> Path:
        """The file that keeps an artifact's content."""
        return self.folder / "artifacts" / artifact.name

    def done(self, number: int) -> None:
        """Marks an entry as delivered."""
        self._append({"done": number})
        del self.pending[number]

    def close(self) -> None:
        """Closes the journal, and removes it where nothing is pending."""
        if not self.pending:
            shutil.rmtree(self.folder, ignore_errors=True)
        unlock(self._file)

    def _append(self, fields: dict[str, Any]) -> None:
        text = json.dumps(fields).encode()
        line = b"\n%08x %b\n" % (zlib.crc32(text), text)
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"What the tracking server does not take can't be kept in {self.folder} either ({error.strerror}); free "
            "space, or choose another output folder."
        )
