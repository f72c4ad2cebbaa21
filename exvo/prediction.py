"""What a trained network says of audio that is in no corpus: shared by the served model and `predict`."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from exvo import text
from exvo.batches import Clips
from exvo.config import InputError
from exvo.features import log_mel, read_audio
from exvo.networks import Checkpoint
from exvo.training import apply

ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc")
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
    audio = read_audio(source, checkpoint.features)
    return log_mel(torch.from_numpy(audio.waveform), checkpoint.features).numpy(), audio.note


def as_clips(log_mels: Sequence[np.ndarray], checkpoint: Checkpoint) -> Clips:
    """Log-mels (frames, bands) in dB, ready for batches; named by their place from 0."""
    names = [str(number) for number in range(len(log_mels))]
    features = dict(zip(names, log_mels, strict=True))
    return Clips(names, names, features, np.zeros((len(names), 1)), checkpoint.fill)


def enrol(checkpoint: Checkpoint, log_mels: Sequence[np.ndarray], device: str = "cpu") -> np.ndarray:
    """The embeddings of enrolment clips, (clips, profile): the mean over a speaker's clips is the speaker's profile.

    Args:
        checkpoint: of a personalised network, which is on the device.
        log_mels: (frames, bands) of each clip, dB; at least one.
        device: cpu or cuda.
    """
    network = checkpoint.network
    return apply(lambda batch, _: network.enrol(batch), as_clips(log_mels, checkpoint), network.min_frames, device)


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


def find_audio(given: str, option: str) -> list[Path]:
    """The files that an option names: files, folders (all audio beneath them) and globs, with commas between.

    A file that is not there is kept, so that its reader says so.

    Raises:
        InputError: nothing is given, or a folder or glob holds no audio.
    """
    if Path(given).is_file():
        return [Path(given)]
    found: list[Path] = []
    for part in filter(None, (part.strip() for part in given.split(","))):
        path = Path(part).expanduser()
        if path.is_dir():
            own = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
        elif path.exists() or not glob.has_magic(part):
            own = [path]
        else:
            own = [file for file in map(Path, sorted(glob.glob(str(path), recursive=True))) if file.is_file()]
        if not own:
            raise InputError(f"{option}={part} holds no audio ({', '.join(ENDINGS)}).")
        found += own
    if not found:
        raise InputError(f"{option} is empty; give an audio file, a folder or a glob such as 'clips/*.mp3'.")
    return list(dict.fromkeys(found))


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
