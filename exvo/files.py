"""Files: paths as the user gives them and as the disk holds them, locks, and writes that leave no half file."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shlex
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import IO

import psutil

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.text import LONGEST_NAME, printable, writable

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

UNREAD = (
    *(".3g2", ".3ga", ".3gp", ".aa3", ".aac", ".ac3", ".alac", ".amr", ".ape", ".asf", ".au", ".avi", ".awb"),
    *(".caf", ".dff", ".dsf", ".dss", ".dts", ".eac3", ".f4a", ".f4v", ".flv", ".gsm", ".m2ts", ".m4a", ".m4b"),
    *(".m4p", ".m4r", ".m4v", ".mka", ".mkv", ".mov", ".mp1", ".mp2", ".mp4", ".mpc", ".mpeg", ".mpg", ".mts"),
    *(".mxf", ".nist", ".ogv", ".oma", ".qcp", ".ra", ".rm", ".shn", ".snd", ".sph", ".spx", ".tak"),
    *(".ts", ".tta", ".vob", ".voc", ".w64", ".weba", ".webm", ".wma", ".wmv", ".wv"),
)
"""Endings of audio and video that is not read, and that ffmpeg converts."""

NAME_BYTES = 255
"""Of a file's or a folder's name, on the file systems in use."""

PATH_CHARACTERS = 4_096
"""Of a whole path."""

_SHELLS = ("bash", "sh", "dash")
_CONVERT = f"ffmpeg -nostdin -n -i {{}} -ac 1 -ar {FeatureConfig.sample_rate} {{}}"


def on_disk(folder: str | os.PathLike[str], path: str) -> str:
    """Where a file of a folder lies: its path, or where nothing is there the same path in another Unicode form.

    Args:
        folder: that is there as it is given; empty: the working folder.
        path: relative to it, or absolute.

    Returns:
        The two joined, as they are given where there is no such file in any form.
    """
    whole = os.path.join(folder, path)
    if os.path.lexists(whole) or "\0" in path:
        return whole
    place = os.path.join(folder, "/") if path.startswith("/") else os.fspath(folder)
    for part in filter(None, path.split("/")):
        step = os.path.join(place, part)
        if not os.path.lexists(step):
            twin = _twin(place or ".", unicodedata.normalize("NFC", part) if len(part) < LONGEST_NAME else part)
            if not twin:
                return whole
            step = os.path.join(place, twin)
        place = step
    return place


def _twin(folder: str, composed: str) -> str:
    """A name in a folder that is this one in another Unicode form, or empty."""
    with suppress(OSError):
        return _twins(folder, os.stat(folder).st_mtime_ns).get(composed, "")
    return ""


@lru_cache(maxsize=64)
def _twins(folder: str, _changed: int) -> dict[str, str]:
    """The names of a folder by their composed form (NFC)."""
    return {unicodedata.normalize("NFC", name): name for name in sorted(os.listdir(folder))}


@cache
def launched_from() -> str:
    """The folder in which `mlflow run` was typed, where that is not the project's, in which it starts us; else empty.

    It is asked for once: MLflow takes its variable away when the run begins.
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
    """The folders in which a relative path is looked for, in this order: the user's, the project's."""
    return [folder for folder in (launched_from(), os.getcwd()) if folder]


def expand(path: str) -> str:
    """A path with `~` as the home folder, unless something of that very name is there."""
    return path if os.path.lexists(path) else os.path.expanduser(path)


def locate(option: str, text: str, kind: str) -> str:
    """The path of an option where it is: `~` expanded, and looked for where the user is.

    Args:
        option: its name, for a sentence.
        text: its value; an address (runs:/<id>, postgresql://...) stays as it is.
        kind: `input` (looked for in `places`), `place` (the same, but it need not be there), `save` (written where the
            user is), or `output` (in the project's folder).

    Raises:
        InputError: no file can have that name, it can't be looked at, or an input is in neither of two places.
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
    theirs = on_disk(user, path)
    if kind == "save" or os.path.lexists(theirs):
        return theirs
    own = on_disk("", path)
    if kind == "input" and not os.path.lexists(own):
        raise InputError(
            f"{option}={printable(text, LONGEST_NAME)} is neither in {user}, where the command was given, nor in "
            f"{os.getcwd()}, the project's folder; correct it or give an absolute path."
        )
    return own


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
        what = "has a name that is too long for a file" if error.errno == errno.ENAMETOOLONG else "can't be looked up"
        raise InputError(
            f"{option}={printable(path, 80)} {what} ({error.strerror}, {len(path):,} characters); give another path."
        ) from None
    except ValueError:
        raise InputError(f"{option}={printable(path, 80)} holds a null character; give another path.") from None


def require_writable(folder: Path) -> None:
    """Refuses a folder into which no file can be written, before something is computed for it; makes it if need be.

    Raises:
        InputError: names the folder, and why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"{folder} can't be written to ({why}); free space or choose another folder.") from None


def why_left_out(path: str, endings: Sequence[str]) -> str:
    """What of a folder is passed over whatever its format, as a kind in the plural; empty where it is looked into.

    Args:
        path: of a file or folder in it.
        endings: of audio that is read, in small letters.
    """
    name = os.path.basename(path)
    if name.startswith(".") or name == "__MACOSX":  # macOS puts these beside files in archives
        return "hidden files or folders"
    if os.path.isfile(path):
        return ""
    if os.path.islink(path):
        return "links to folders, which are not followed" if os.path.isdir(path) else "broken links"
    if not os.path.isdir(path) and os.path.splitext(name)[1].lower() in (*endings, *UNREAD):
        return "pipes, devices or files that can't be looked at"
    return ""


def with_conversion(problem: str, path: str) -> str:
    """What is wrong with an audio file, and for a format that is not read the command that converts it.

    >>> with_conversion("not audio", "in.m4a"), with_conversion("missing", "in.m4a")
    ('not audio; convert it: ffmpeg -nostdin -n -i in.m4a -ac 1 -ar 16000 in.m4a.wav', 'missing')
    """
    if problem in ("missing", "empty file", "a folder") or os.path.splitext(path)[1].lower() not in UNREAD:
        return problem
    safe = printable(f"./{path}" if path.startswith("-") else path, LONGEST_NAME)
    return f"{problem}; convert it: {_CONVERT.format(shlex.quote(safe), shlex.quote(f'{safe}.wav'))}"


def folder_conversion(folder: str, endings: Sequence[str]) -> str:
    """The command that converts all files of a folder that have one of these endings, each into a WAV file beside it.

    >>> print(folder_conversion("clips", [".m4a"]))
    find clips '!' -name '.*' '(' -iname '*.m4a' ')' -exec ffmpeg -nostdin -n -i '{}' -ac 1 -ar 16000 '{}.wav' ';'
    """
    names = [word for ending in endings for word in ("-o", "-iname", f"*{ending}")][1:]
    safe = printable(f"./{folder}" if folder.startswith("-") else folder, LONGEST_NAME)
    words = ["find", safe, "!", "-name", ".*", "(", *names, ")"]
    return shlex.join([*words, "-exec", *_CONVERT.format("{}", "{}.wav").split(), ";"])


def write_atomically(path: Path, content: bytes) -> None:
    """Writes to a temporary name and renames: the file is there whole, or as it was before.

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


@contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """A file's path for libraries that take no other than UTF-8: its own, or for the time being that of a copy."""
    if writable(str(path)) == str(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copy(path, Path(folder) / writable(path.name)))
