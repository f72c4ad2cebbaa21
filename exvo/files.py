"""Files: paths as a user gives them, names as the disk holds them, atomic writes, and locks; in this order."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import IO

import psutil

from exvo.errors import InputError
from exvo.text import LONGEST_NAME, printable, writable

NAME_BYTES = 255
"""The most bytes of the name of a file or a folder, on the file systems in use."""

PATH_CHARACTERS = 4_096
"""More characters than a whole path may have."""

_SHELLS = ("bash", "sh", "dash")
"""Those through which MLflow starts a command."""


@cache
def launched_from() -> str:
    """The folder in which `mlflow run` was typed; empty under another launcher, and where it is the project's folder.

    MLflow starts the command in the project's folder. The answer is kept, since MLflow removes its variable when the
    run begins.
    """
    if "MLFLOW_RUN_ID" not in os.environ:
        return ""
    with suppress(psutil.Error, OSError):
        for parent in psutil.Process().parents():
            if parent.name() not in _SHELLS or parent.cmdline()[1:2] != ["-c"]:  # MLflow's own shell
                folder = parent.cwd()
                return "" if os.path.samefile(folder, os.getcwd()) else folder
    return ""


def places() -> list[str]:
    """The folders in which a relative path is looked for, in this order: the user's, and the project's."""
    return [folder for folder in (launched_from(), os.getcwd()) if folder]


def expand(path: str) -> str:
    """A path with `~` replaced by the home folder, unless a file or folder has exactly this name."""
    return path if os.path.lexists(path) else os.path.expanduser(path)


def locate(option: str, text: str, kind: str) -> str:
    """The path that an option names, with `~` expanded and relative to the folder where the user gave the command.

    Args:
        option: its name, for sentences.
        text: its value; an address (runs:/<id>, postgresql://...) stays as it is.
        kind: `input` (which must be in one of `places`), `place` (the same, but it need not be there), `save` (which is
            written where the user is), or `output` (in the project's folder).

    Raises:
        InputError: no file can have that name, it can't be looked up, or an input is in neither of two folders.
    """
    if text.startswith("journal:"):  # of Optuna
        return f"journal:{locate(option, text.removeprefix('journal:'), kind)}"
    if not text or re.match(r"[a-z][a-z0-9+.-]*:/", text):
        return text
    path = expand(text)
    require_name(option, path)
    user = launched_from() if kind != "output" and not os.path.isabs(path) else ""
    if not user:
        return on_disk("", path) if kind == "input" else path
    of_user = on_disk(user, path)
    if kind == "save" or os.path.lexists(of_user):
        return of_user
    of_project = on_disk("", path)
    if kind == "input" and not os.path.lexists(of_project):
        raise InputError(
            f"{option}={printable(text, LONGEST_NAME)} is neither in {user}, where the command was given, nor in "
            f"{os.getcwd()}, the project's folder; correct it or give an absolute path."
        )
    return of_project


def listed(text: str) -> list[str]:
    """The paths of an option that may name several, with commas; `\\,` is a comma in a name.

    What is there as a whole is one path, whatever commas it has.

    >>> listed("a.csv, b\\\\,c.csv")
    ['a.csv', 'b,c.csv']
    """
    if "," not in text or any(os.path.lexists(os.path.join(place, expand(text))) for place in (launched_from(), "")):
        return [text]
    paths = (part.strip().replace("\\,", ",") for part in re.split(r"(?<!\\),", text))
    return [path for path in paths if path]


def locate_each(option: str, text: str) -> str:
    """The paths that an option names with commas, each as `locate` has an input, with commas."""
    paths = listed(text)
    if paths == [text]:
        return locate(option, text, "input")
    return ",".join(locate(option, path, "input").replace(",", "\\,") for path in paths)


def require_name(option: str, path: str) -> None:
    """Refuses a path that the system can't look up.

    Raises:
        InputError: it is too long, holds a null character, or a folder on its way can't be entered.
    """
    try:
        if any(len(os.fsencode(part)) > NAME_BYTES for part in path.split("/")) or len(path) >= PATH_CHARACTERS:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        too_long = error.errno == errno.ENAMETOOLONG
        problem = "has a name that is too long for a file" if too_long else "can't be looked up"
        raise InputError(
            f"{option}={printable(path, 80)} {problem} ({error.strerror}, {len(path):,} characters); give another path."
        ) from None
    except ValueError:
        raise InputError(f"{option}={printable(path, 80)} holds a null character; give another path.") from None


def on_disk(folder: str | os.PathLike[str], path: str) -> str:
    """The path of a file as the disk holds it, whose names may be in another Unicode form than those that are given.

    Args:
        folder: an existing folder, in the form in which it is given; empty: the working folder.
        path: relative to the folder, or absolute.

    Returns:
        The two joined, each name in the form that is there; where no form is there, as they are given.
    """
    as_given = os.path.join(folder, path)
    if os.path.lexists(as_given) or "\0" in path:
        return as_given
    place = os.path.join(folder, "/") if path.startswith("/") else os.fspath(folder)
    for part in filter(None, path.split("/")):
        step = os.path.join(place, part)
        if not os.path.lexists(step):
            twin = _twin(place or ".", unicodedata.normalize("NFC", part) if len(part) < LONGEST_NAME else part)
            if not twin:
                return as_given
            step = os.path.join(place, twin)
        place = step
    return place


def _twin(folder: str, composed: str) -> str:
    """The name of a file of a folder whose composed form (NFC) is this one; empty where there is none."""
    with suppress(OSError):
        return _twins(folder, os.stat(folder).st_mtime_ns).get(composed, "")
    return ""


@lru_cache(maxsize=64)
def _twins(folder: str, _changed: int) -> dict[str, str]:
    """The names in a folder by their composed form (NFC); read anew when the folder has changed."""
    return {unicodedata.normalize("NFC", name): name for name in sorted(os.listdir(folder))}


@contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """The path of a file for libraries that take only UTF-8: its own, or that of a copy that is there for the time."""
    if writable(str(path)) == str(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copy(path, Path(folder) / writable(path.name)))


def require_writable(folder: Path) -> None:
    """Refuses a folder into which no file can be written, before something is computed for it; makes a missing one.

    Raises:
        InputError: names the folder and the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        cause = error.strerror or error
        raise InputError(f"{folder} can't be written to ({cause}); free space or choose another folder.") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name and renames it, so that it is there whole, or as it was before.

    Raises:
        InputError: the disk is full or the folder can't be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} can't be written ({error.strerror}); free space or choose another output folder."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


HELD: set[IO[bytes]] = set()
"""Files that this process has locked. A forked child closes them, else they would stay locked after its parent."""


def lock(file: IO[bytes]) -> None:
    """Locks an open file for this process alone, until it is closed with `unlock`.

    Raises:
        BlockingIOError: another process holds it.
    """
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    HELD.add(file)


def unlock(file: IO[bytes]) -> None:
    """Closes a file that `lock` has locked, which unlocks it."""
    HELD.discard(file)
    file.close()


def _close_inherited() -> None:
    """Closes, in a forked child, the files that its parent has locked."""
    for file in list(HELD):
        os.close(file.fileno())
    HELD.clear()


os.register_at_fork(after_in_child=_close_inherited)
