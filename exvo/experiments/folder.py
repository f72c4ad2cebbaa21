"""What tells an output folder from its copies: an id, and where the folder with that id lies.

A copy has the id of its original, whose unfinished runs and undelivered journals are not its own. What is assumed: a
folder that is renamed, mounted elsewhere or on another host keeps its inode; one that was restored from a backup lies
where it lay; one that was moved to another disk has left nothing behind. All else is a copy.
"""

from __future__ import annotations

import json
import os
import platform
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from exvo.errors import InputError
from exvo.files import write_atomically


@dataclass(frozen=True)
class Place:
    """Where a folder lies: its host and resolved path, its device's and its own number."""

    host: str
    path: str
    device: int
    inode: int


def place_of(output: Path) -> Place:
    """The place of a folder that is there."""
    status = output.stat()
    return Place(platform.node(), str(output.resolve()), status.st_dev, status.st_ino)


def folder_id(output: Path) -> str:
    """The id of an output folder; a new one where it has none, and the folder's place is then written beside it."""
    path = output / "id"
    if not path.exists():
        renew(output)
    elif copied_from(output) is None:
        _note_place(output)
    return path.read_text(encoding="ascii", errors="replace")


def renew(output: Path) -> None:
    """Makes a folder one of its own: a new id, and the original's journals and studies in it are put aside."""
    for path in [*output.glob("runs/*/journal"), *output.glob("studies.journal")]:
        path.rename(path.with_name(f"{path.name}-of-original-{uuid.uuid4().hex[:8]}"))
    (output / "place").unlink(missing_ok=True)
    _write(output / "id", uuid.uuid4().hex)
    _note_place(output)


def copied_from(output: Path) -> Place | None:
    """The place of the folder that this one is a copy of; None where it is no copy, as far as can be known."""
    try:
        known = Place(**json.loads((output / "place").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # of an earlier version, or removed because the original is gone
        return None
    here = place_of(output)
    if here.inode == known.inode and (here.device == known.device or here.path == known.path):
        return None
    if here.host != known.host:
        return None if here.inode == known.inode else known
    if here.path == known.path:
        return None
    original = Path(known.path)
    try:
        same_id = (original / "id").read_bytes() == (output / "id").read_bytes()
        return known if same_id and not os.path.samefile(original, output) else None
    except OSError:
        return None


def require_own(output: str, what: str, instead: str) -> None:
    """Refuses a copy of an output folder, where what would be done is the original's.

    Args:
        output: the folder.
        what: is the original's.
        instead: what to do to begin anew.

    Raises:
        InputError: it is a copy.
    """
    original = copied_from(Path(output))
    if original is not None:
        raise InputError(
            f"The output folder {output} is a copy of {original.path} on {original.host}, whose {what}; {instead}. If "
            f"that folder is gone, remove the file {Path(output) / 'place'}, and the same command goes on here."
        )


def _note_place(output: Path) -> None:
    path, text = output / "place", json.dumps(asdict(place_of(output)))
    if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
        _write(path, text)


def _write(path: Path, text: str) -> None:
    write_atomically(path, text.encode())
