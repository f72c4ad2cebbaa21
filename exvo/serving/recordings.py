"""Which recordings a user names: files, folders, globs and lists."""

from __future__ import annotations

import codecs
import glob
import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from exvo import files, text
from exvo.errors import InputError
from exvo.features.conversion import UNREAD, folder_conversion, why_left_out
from exvo.files import expand, places
from exvo.spreadsheets import WORKBOOKS, decode
from exvo.tables import MAX_CSV, read_csv_cells, read_flat_parquet
from exvo.text import listing

ENDINGS = (".wav", ".wave", ".bwf", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mpga", ".aif", ".aiff", ".aifc")
LONGEST_GLOB = 1_000  # characters


class Given(NamedTuple):
    """What an option that takes several files names.

    Attributes:
        files: each once; one that is not there is kept, so that its reader says so.
        notes: sentences on what was left out of folders.
    """

    files: list[Path]
    notes: list[str]


def find_audio(given: str, option: str) -> Given:
    """The files that an option names, with commas between: files, folders (all audio beneath them), globs and lists.

    What has that very name comes first, then `@list.txt` (see `read_list`); a comma that is a part of a name is
    written `\\,`. A relative path is looked for in `paths.places`.

    Raises:
        InputError: nothing is given, a folder or glob holds no audio, or a list can't be read.
    """
    whole = look_up(given)
    parts = [given] if whole else re.split(r"(?<!\\),", given)
    files: list[Path] = []
    notes: list[str] = []
    for part in filter(None, (part.replace("\\,", ",").strip() for part in parts)):
        path = look_up(part)
        if path and os.path.isdir(path):
            own, left_out = from_folder(path, option)
            notes += left_out
        elif path:
            own = [Path(path)]
        elif part.startswith("@"):
            own = read_list(part[1:], option)
        elif glob.has_magic(part) and len(part) <= LONGEST_GLOB:
            own = from_glob(part)
            if not own:
                raise InputError(f"{option}={text.printable(part, 200)} holds no audio ({', '.join(ENDINGS)}).")
        else:
            own = [Path(part)]
        files += own
    if not files:
        raise InputError(
            f"{option} is empty; give an audio file, a folder or a glob such as 'clips/*.mp3', or @<list of files>."
        )
    return Given(list(dict.fromkeys(files)), notes)


def look_up(path: str, *folders: str) -> str:
    """Where a path is: in one of these folders, or where the user is; empty where it is in none."""
    for folder in (*folders, *(("",) if os.path.isabs(files.expand(path)) else files.places())):
        place = files.on_disk(folder if folder != os.getcwd() else "", files.expand(path))
        if os.path.lexists(place):
            return place
    return ""


def from_glob(pattern: str) -> list[Path]:
    """The files that a glob names, where the user is or else in the project's folder."""
    for folder in places():
        within = expand(pattern) if folder == os.getcwd() else os.path.join(glob.escape(folder), pattern)
        paths_there = map(Path, sorted(glob.glob(within, recursive=True)))
        files = [
            path for path in paths_there if path.is_file() or not path.exists()
        ]  # broken links: their reader says so
        if files:
            return files
    return []


def from_folder(folder: str, option: str) -> tuple[list[Path], list[str]]:
    """The audio beneath a folder, and sentences on what of it is left out (see `why_left_out`).

    Raises:
        InputError: there is none.
    """
    files: list[Path] = []
    unread: Counter[str] = Counter()
    aside: defaultdict[str, list[str]] = defaultdict(list)

    def unreadable(error: OSError) -> None:
        aside["folders that can't be read"].append(str(error.filename))

    for place, folders, names in os.walk(folder, onerror=unreadable):
        reasons = {name: why_left_out(os.path.join(place, name), ENDINGS) for name in (*folders, *names)}
        for name in filter(reasons.get, reasons):
            aside[reasons[name]].append(os.path.join(place, name))
        folders[:] = [name for name in folders if not reasons[name]]
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if not reasons[name]:
                unread[ending] += ending in UNREAD
                files += [Path(place, name)] if ending in ENDINGS else []
    notes = []
    for reason, left in aside.items():
        some = listing((text.printable(os.path.relpath(path, folder), 100) for path in sorted(left)), 3)
        notes.append(f"left out of {text.printable(folder, 200)}: {len(left):,} {reason} ({some})")
    endings = sorted(+unread)
    if endings:
        counts = ", ".join(f"{unread[ending]:,} {ending}" for ending in endings)
        notes.append(
            f"left out of {text.printable(folder, 200)}: files of formats that are not read ({counts}); convert them: "
            f"{folder_conversion(folder, endings)}"
        )
    if not files:
        raise InputError(
            "; ".join([f"{option}={text.printable(folder, 200)} holds no audio ({', '.join(ENDINGS)})", *notes])
        )
    return sorted(files), notes


def read_list(name: str, option: str) -> list[Path]:
    """The files of a list: paths, one a line, or the column `file` of a table (.csv, .tsv, .parquet).

    A relative path is relative to the list's folder, or else to where the user is. Lines may be in UTF-8, in UTF-16
    with a byte order mark, or the bytes of the names on the disk.

    Raises:
        InputError: the list is not there, too large or empty, or names files that are not there: all are counted.
    """
    source = look_up(name)
    given = f"{option}=@{text.printable(name, 200)}"
    if not source or not os.path.isfile(source):
        what = "a folder; give a file" if os.path.isdir(source) else f"not {where_looked(name)}"
        raise InputError(f"{given}: the list {text.printable(name, 200)} is {what}.")
    lines = [line for line in map(str.strip, list_lines(Path(source))) if line]
    if not lines:
        raise InputError(f"{given} names no files; write a path on each line.")
    folder = os.path.dirname(os.path.abspath(source))
    files = {line: look_up(line, folder) if "\0" not in line else "" for line in lines}
    missing = [text.printable(line, 200) for line, path in files.items() if not os.path.isfile(path)]
    if missing:
        looked = " nor in ".join(dict.fromkeys([folder, *places()]))
        looked = f"neither in {looked}" if " nor in " in looked else f"not in {looked}"
        raise InputError(f"{given}: {len(missing):,} of {len(lines):,} files are {looked}: {listing(missing)}.")
    return [Path(path) for path in files.values()]


def list_lines(source: Path) -> list[str]:
    """The paths that a list holds, as they stand there.

    Raises:
        InputError: it can't be read, or a table lacks the column `file`.
    """
    ending = source.suffix.lower()
    if ending in (".parquet", ".csv", ".tsv", *WORKBOOKS):
        table = (
            read_flat_parquet(source).to_pandas() if ending == ".parquet" else read_csv_cells(source, "a list of files")
        )
        if "file" not in table:
            raise InputError(f"{source} has no column file; name the column of the paths so.")
        return table["file"].dropna().astype(str).tolist()
    try:
        if source.stat().st_size > MAX_CSV:
            raise InputError(f"{source} is larger than {MAX_CSV // 2**20} MiB; is it a list of files?")
        content = source.read_bytes()
        marked = content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = decode(content)[0] if marked else os.fsdecode(content)
    except OSError as error:
        raise InputError(f"{source} is not readable ({error.strerror}); look at its permissions.") from None
    except ValueError as error:
        raise InputError(f"{source} can't be read as a list of files: {error}.") from None
    return re.split(r"\r\n|\r|\n", lines)


def where_looked(path: str) -> str:
    """'there', or the folders in which a relative path was looked for, where they are several: after a 'not'."""
    folders = files.places()
    return f"in {' or '.join(folders)}" if len(folders) > 1 and not os.path.isabs(path) else "there"
