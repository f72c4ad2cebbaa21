"""Predictions for the screen and for spreadsheets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from exvo import text

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet computes
BAR = 24  # characters of a full bar
MOST_SHOWN = 50  # clips on the screen


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
    files = [text.printable(os.path.relpath(file, folder or "."), 200) for file in shown["file"]]
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
