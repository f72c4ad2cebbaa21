"""Recordings that a user names: files, folders, globs and lists."""

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
MAX_GLOB = 1_000  # characters


class AudioFiles(NamedTuple):
    """The files that an option names.

    Attributes:
        files: each once; a file that is not there is kept, so that its reader says so.
        notes: sentences about files that were left out of folders.
    """

    files: list[Path]
    notes: list[str]


def find_audio(value: str, option: str) -> AudioFiles:
    """The files that an option names, with commas between: files, folders (all audio below them), globs and lists.

    A file or folder with exactly that name comes first, then `@list.txt` (see `read_list`); a comma that is a part of a
    name is written `\\,`. A relative path is looked for in `files.places`.

    Args:
        value: of the option.
        option: its name, for sentences.

    Raises:
        InputError: the value is empty, a folder or glob holds no audio, or a list can't be read.
    """
    parts = [value] if look_up(value) else re.split(r"(?<!\\),", value)
    files: list[Path] = []
    notes: list[str] = []
    for name in filter(None, (part.replace("\\,", ",").strip() for part in parts)):
        path = look_up(name)
        if path and os.path.isdir(path):
            in_folder = files_in_folder(path, option)
            files += in_folder.files
            notes += in_folder.notes
        elif path:
            files.append(Path(path))
        elif name.startswith("@"):
            files += read_list(name[1:], option)
        elif glob.has_magic(name) and len(name) <= MAX_GLOB:
            matches = files_of_glob(name)
            if not matches:
                raise InputError(f"{option}={text.printable(name, 200)} holds no audio ({', '.join(ENDINGS)}).")
            files += matches
        else:
            files.append(Path(name))
    if not files:
        raise InputError(
            f"{option} is empty; give an audio file, a folder or a glob such as 'clips/*.mp3', or @<list of files>."
        )
    return AudioFiles(list(dict.fromkeys(files)), notes)


def look_up(path: str, *folders: str) -> str:
    """The path in the first folder that has it: one of these, then of `files.places`; empty if none has it."""
    for folder in (*folders, *(("",) if os.path.isabs(files.expand(path)) else files.places())):
        candidate = files.on_disk(folder if folder != os.getcwd() else "", files.expand(path))
        if os.path.lexists(candidate):
            return candidate
    return ""


def files_of_glob(pattern: str) -> list[Path]:
    """The files that match a glob in the first of `files.places` that has any; a broken link is one, for its reader."""
    for folder in places():
        full_pattern = expand(pattern) if folder == os.getcwd() else os.path.join(glob.escape(folder), pattern)
        paths = map(Path, sorted(glob.glob(full_pattern, recursive=True)))
        matches = [path for path in paths if path.is_file() or not path.exists()]
        if matches:
            return matches
    return []


def files_in_folder(folder: str, option: str) -> AudioFiles:
    """The audio in and below a folder, with sentences about what is left out (see `why_left_out`).

    Raises:
        InputError: there is none.
    """
    files: list[Path] = []
    unread: Counter[str] = Counter()  # files by their ending
    left_out: defaultdict[str, list[str]] = defaultdict(list)  # paths by the reason

    def leave_out(error: OSError) -> None:
        left_out["folders that can't be read"].append(str(error.filename))

    for root, folders, names in os.walk(folder, onerror=leave_out):
        reasons = {name: why_left_out(os.path.join(root, name), ENDINGS) for name in (*folders, *names)}
        for name in filter(reasons.get, reasons):
            left_out[reasons[name]].append(os.path.join(root, name))
        folders[:] = [name for name in folders if not reasons[name]]
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if not reasons[name]:
                unread[ending] += ending in UNREAD
                files += [Path(root, name)] if ending in ENDINGS else []
    notes = []
    for reason, paths in left_out.items():
        examples = listing((text.printable(os.path.relpath(path, folder), 100) for path in sorted(paths)), 3)
        notes.append(f"left out of {text.printable(folder, 200)}: {len(paths):,} {reason} ({examples})")
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
    return AudioFiles(sorted(files), notes)


def read_list(name: str, option: str) -> list[Path]:
    """The files of a list: paths, one a line, or the column `file` of a table (.csv, .tsv, .parquet).

    A relative path is relative to the list's folder, or else to where the user is. Lines may be in UTF-8, in UTF-16
    with a byte order mark, or the bytes of the names on the disk.

    Raises:
        InputError: the list is not there, too large or empty, or names files that are not there: all are counted.
    """
    source = look_up(name)
    argument = f"{option}=@{text.printable(name, 200)}"
    if not source or not os.path.isfile(source):
        problem = "a folder; give a file" if os.path.isdir(source) else f"not {where_looked(name)}"
        raise InputError(f"{argument}: the list {text.printable(name, 200)} is {problem}.")
    lines = [line for line in map(str.strip, list_lines(Path(source))) if line]
    if not lines:
        raise InputError(f"{argument} names no files; write a path on each line.")
    folder = os.path.dirname(os.path.abspath(source))
    files = {line: look_up(line, folder) if "\0" not in line else "" for line in lines}
    missing = [text.printable(line, 200) for line, path in files.items() if not os.path.isfile(path)]
    if missing:
        looked = " nor in ".join(dict.fromkeys([folder, *places()]))
        looked = f"neither in {looked}" if " nor in " in looked else f"not in {looked}"
        raise InputError(f"{argument}: {len(missing):,} of {len(lines):,} files are {looked}: {listing(missing)}.")
    return [Path(path) for path in files.values()]


def list_lines(source: Path) -> list[str]:
    """The lines of a list, or the cells of the column `file` of a table.

    Raises:
        InputError: the list can't be read, or a table lacks the column `file`.
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
        has_mark = content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = decode(content)[0] if has_mark else os.fsdecode(content)
    except OSError as error:
        raise InputError(f"{source} is not readable ({error.strerror}); look at its permissions.") from None
    except ValueError as error:
        raise InputError(f"{source} can't be read as a list of files: {error}.") from None
    return re.split(r"\r\n|\r|\n", lines)


def where_looked(path: str) -> str:
    """What follows 'not' in a sentence: 'there', or the folders in which a relative path was looked for, if several."""
    folders = files.places()
    return f"in {' or '.join(folders)}" if len(folders) > 1 and not os.path.isabs(path) else "there"
