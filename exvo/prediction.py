"""What a trained network says of audio that is in no corpus: shared by the served model and `predict`."""

from __future__ import annotations

import codecs
import glob
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from exvo import paths, text
from exvo.batches import Clips
from exvo.config import InputError
from exvo.containers import AudioError
from exvo.corpora.base import named, read_csv
from exvo.features import log_mel, read_audio
from exvo.networks import Checkpoint
from exvo.spreadsheets import WORKBOOKS, decode
from exvo.tables import MAX_CSV, read_parquet
from exvo.training import apply
from exvo.training import profiles as speaker_profiles

ENDINGS = (".wav", ".wave", ".bwf", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mpga", ".aif", ".aiff", ".aifc")
LONGEST_GLOB = 1_000  # characters
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet computes
BAR = 24  # characters of a full bar
MOST_SHOWN = 50  # clips on the screen


def read_log_mel(source: Path, checkpoint: Checkpoint) -> tuple[np.ndarray, str]:
    """The log-mel of a file, as the network was trained on.

    Returns:
        (frames, bands) in dB, and a note on what of the file is lost; '' as a rule.

    Raises:
        AudioError: the file can't be used.
    """
    try:
        audio = read_audio(source, checkpoint.features)
    except AudioError as error:
        name = os.fspath(source)
        where = where_looked(name) if error.problem == "missing" else "there"
        problem = error.problem if where == "there" else f"missing, not {where}"
        raise AudioError(paths.with_conversion(problem, name), name) from None
    except ValueError:
        raise AudioError("its name holds a null character", str(source)) from None
    return log_mel(torch.from_numpy(audio.waveform), checkpoint.features).numpy(), audio.note


def as_clips(log_mels: Sequence[np.ndarray], checkpoint: Checkpoint) -> Clips:
    """Log-mels (frames, bands) in dB, ready for batches; named by their place from 0."""
    names = [str(number) for number in range(len(log_mels))]
    features = dict(zip(names, log_mels, strict=True))
    return Clips(names, names, features, np.zeros((len(names), 1)), checkpoint.fill)


def enrol(checkpoint: Checkpoint, log_mels: Sequence[np.ndarray], device: str = "cpu") -> np.ndarray:
    """The embedding of each enrolment clip by itself, (clips, profile).

    For models that MLflow logged with the code of before: they carry a served model that calls this, and no protocol.
    `profiles` is what enrols speakers.

    Args:
        checkpoint: of a personalised network, which is on the device.
        log_mels: (frames, bands) of each clip, dB; at least one.
        device: cpu or cuda.
    """
    network = checkpoint.network
    return apply(lambda batch, _: network.enrol(batch), as_clips(log_mels, checkpoint), network.min_frames, device)


def profiles(
    checkpoint: Checkpoint, log_mels: Sequence[np.ndarray], lists: Sequence[np.ndarray], device: str = "cpu"
) -> np.ndarray:
    """The profile of each speaker under the model's own protocol, (speakers, profile).

    Args:
        checkpoint: of a personalised network, which is on the device.
        log_mels: (frames, bands) of each clip that enrols, dB.
        lists: for each speaker the indices of the clips that enrol them; where empty, the typical profile.
        device: cpu or cuda.
    """
    clips = as_clips(log_mels, checkpoint)
    return speaker_profiles(checkpoint.network, clips, device, lists, checkpoint.protocol).cpu().numpy()


def outputs(
    checkpoint: Checkpoint,
    log_mels: Sequence[np.ndarray],
    profiles: np.ndarray | None = None,
    device: str = "cpu",
    progress: str = "",
) -> np.ndarray:
    """The network's outputs, (clips, outputs).

    Args:
        checkpoint: of a network that is on the device.
        log_mels: (frames, bands) of each clip, dB; at least one.
        profiles: (clips, profile), of each clip's speaker; None: the typical one, or a network without fusion.
        device: cpu or cuda.
        progress: what the progress bar says; empty: no bar.

    Raises:
        TrainingError: an output is not finite.
    """
    network = checkpoint.network
    known = None if profiles is None else torch.from_numpy(profiles).to(device)

    def answer(batch: Tensor, index: np.ndarray) -> Tensor:
        found: Tensor = network(batch, None if known is None else known[index])
        return found

    return apply(answer, as_clips(log_mels, checkpoint), network.min_frames, device, progress=progress)


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
                raise InputError(f"{option}={text.shown(part, 200)} holds no audio ({', '.join(ENDINGS)}).")
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
    for folder in (*folders, *(("",) if os.path.isabs(paths.expand(path)) else paths.places())):
        place = paths.on_disk(folder if folder != os.getcwd() else "", paths.expand(path))
        if os.path.lexists(place):
            return place
    return ""


def from_glob(pattern: str) -> list[Path]:
    """The files that a glob names, where the user is or else in the project's folder."""
    for folder in paths.places():
        within = paths.expand(pattern) if folder == os.getcwd() else os.path.join(glob.escape(folder), pattern)
        paths_there = map(Path, sorted(glob.glob(within, recursive=True)))
        files = [
            path for path in paths_there if path.is_file() or not path.exists()
        ]  # broken links: their reader says so
        if files:
            return files
    return []


def from_folder(folder: str, option: str) -> tuple[list[Path], list[str]]:
    """The audio beneath a folder, and sentences on what of it is left out (see `paths.why_left_out`).

    Raises:
        InputError: there is none.
    """
    files: list[Path] = []
    unread: Counter[str] = Counter()
    aside: defaultdict[str, list[str]] = defaultdict(list)

    def unreadable(error: OSError) -> None:
        aside["folders that can't be read"].append(str(error.filename))

    for place, folders, names in os.walk(folder, onerror=unreadable):
        reasons = {name: paths.why_left_out(os.path.join(place, name), ENDINGS) for name in (*folders, *names)}
        for name in filter(reasons.get, reasons):
            aside[reasons[name]].append(os.path.join(place, name))
        folders[:] = [name for name in folders if not reasons[name]]
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if not reasons[name]:
                unread[ending] += ending in paths.UNREAD
                files += [Path(place, name)] if ending in ENDINGS else []
    notes = []
    for reason, left in aside.items():
        some = named((text.shown(os.path.relpath(path, folder), 100) for path in sorted(left)), 3)
        notes.append(f"left out of {text.shown(folder, 200)}: {len(left):,} {reason} ({some})")
    endings = sorted(+unread)
    if endings:
        counts = ", ".join(f"{unread[ending]:,} {ending}" for ending in endings)
        notes.append(
            f"left out of {text.shown(folder, 200)}: files of formats that are not read ({counts}); convert them: "
            f"{paths.folder_conversion(folder, endings)}"
        )
    if not files:
        raise InputError(
            "; ".join([f"{option}={text.shown(folder, 200)} holds no audio ({', '.join(ENDINGS)})", *notes])
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
    given = f"{option}=@{text.shown(name, 200)}"
    if not source or not os.path.isfile(source):
        what = "a folder; give a file" if os.path.isdir(source) else f"not {where_looked(name)}"
        raise InputError(f"{given}: the list {text.shown(name, 200)} is {what}.")
    lines = [line for line in map(str.strip, list_lines(Path(source))) if line]
    if not lines:
        raise InputError(f"{given} names no files; write a path on each line.")
    folder = os.path.dirname(os.path.abspath(source))
    files = {line: look_up(line, folder) if "\0" not in line else "" for line in lines}
    missing = [text.shown(line, 200) for line, path in files.items() if not os.path.isfile(path)]
    if missing:
        looked = " nor in ".join(dict.fromkeys([folder, *paths.places()]))
        looked = f"neither in {looked}" if " nor in " in looked else f"not in {looked}"
        raise InputError(f"{given}: {len(missing):,} of {len(lines):,} files are {looked}: {named(missing)}.")
    return [Path(path) for path in files.values()]


def list_lines(source: Path) -> list[str]:
    """The paths that a list holds, as they stand there.

    Raises:
        InputError: it can't be read, or a table lacks the column `file`.
    """
    ending = source.suffix.lower()
    if ending in (".parquet", ".csv", ".tsv", *WORKBOOKS):
        table = read_parquet(source).to_pandas() if ending == ".parquet" else read_csv(source, "a list of files")
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
    """'there', or where a relative path was looked for, where that is more than one folder: for a sentence with 'not'.

    >>> where_looked("a.wav")
    'there'
    """
    folders = paths.places()
    return f"in {' or '.join(folders)}" if len(folders) > 1 and not os.path.isabs(path) else "there"


def for_spreadsheets(answers: pd.DataFrame) -> pd.DataFrame:
    """The table for CSV, in which no text or title begins as a formula does: spreadsheets would compute it.

    A file gets `./` before its name, which names the same file; other text an apostrophe.

    >>> for_spreadsheets(pd.DataFrame({"file": ["=1.wav", "a.wav"], "=2": [-0.5, 1.0]})).to_dict("list")
    {'file': ['./=1.wav', 'a.wav'], "'=2": [-0.5, 1.0]}
    """
    safe = answers.rename(columns=lambda name: f"'{name}" if name.startswith(FORMULA) else name)
    for name in [name for name in safe if not pd.api.types.is_numeric_dtype(safe[name])]:
        before = "./" if name == "file" else "'"
        safe[name] = [f"{before}{cell}" if cell.startswith(FORMULA) else cell for cell in map(str, safe[name])]
    return safe


def chart(answers: pd.DataFrame, targets: Sequence[str], top: int, full: str = "█") -> str:
    """A table for the screen: of each clip its strongest emotions with a bar, then what else the network says.

    Files go without the folder that all share. A full bar is an intensity of 1, or the largest that is shown where that
    is more.

    Args:
        answers: `file`, and at least one row of the columns of `Task.answers`.
        targets: the columns that are emotions.
        top: emotions of each clip.
        full: what the bars are made of.

    >>> answers = pd.DataFrame({"file": ["clips/a.wav"], "Awe": [0.25], "Fear": [0.5], "age": [31.2]})
    >>> print(chart(answers, ["Awe", "Fear"], 2, "#"))
    a.wav  Fear  0.500  ############
           Awe   0.250  ######
           age   31.2
    """
    shown = answers.head(MOST_SHOWN)
    values = shown[list(targets)].to_numpy(np.float64)
    scale = max(1.0, float(values.max(initial=0.0)))
    beside = [name for name in map(str, shown.columns) if name not in (*targets, "file")]
    folder = os.path.commonpath([Path(file).parent for file in shown["file"]])
    files = [text.shown(os.path.relpath(file, folder or "."), 200) for file in shown["file"]]
    left = max(map(len, files))
    wide = max(map(len, (*targets, *beside)))
    lines = []
    for clip, row in enumerate(shown.to_dict("records")):
        told = []
        for place in np.argsort(-values[clip], kind="stable")[:top]:
            bar = full * round(BAR * max(values[clip, place], 0.0) / scale)
            told.append(f"{targets[place]:{wide}}  {values[clip, place]:5.3f}  {bar}".rstrip())
        for name in beside:
            value = f"{row[name]:.1f}" if isinstance(row[name], float) else row[name]
            told.append(f"{name:{wide}}  {value}")
        names = [files[clip], *[""] * (len(told) - 1)]
        lines += [f"{name:{left}}  {line}" for name, line in zip(names, told, strict=True)]
    if len(answers) > len(shown):
        lines.append(f"and {len(answers) - len(shown):,} more clips, in the run's artifact predictions/audio.csv")
    return "\n".join(lines)
