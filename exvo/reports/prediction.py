"""Predictions for the screen and for spreadsheets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from exvo import text

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of cells that spreadsheets compute."""

BAR = 24
"""Characters of a full bar."""

MOST_SHOWN = 50
"""Clips on the screen."""


def for_spreadsheets(answers: pd.DataFrame) -> pd.DataFrame:
    """The table for CSV, without texts and titles that a spreadsheet would take for formulas.

    A file's name gets `./` before it, which is the same file; other text an apostrophe.

    >>> for_spreadsheets(pd.DataFrame({"file": ["=1.wav", "a.wav"], "=2": [-0.5, 1.0]})).to_dict("list")
    {'file': ['./=1.wav', 'a.wav'], "'=2": [-0.5, 1.0]}
    """
    safe = answers.rename(columns=lambda name: f"'{name}" if name.startswith(FORMULA) else name)
    for name in [name for name in safe if not pd.api.types.is_numeric_dtype(safe[name])]:
        prefix = "./" if name == "file" else "'"
        safe[name] = [f"{prefix}{cell}" if cell.startswith(FORMULA) else cell for cell in map(str, safe[name])]
    return safe


def chart(answers: pd.DataFrame, targets: Sequence[str], top: int, full: str = "█") -> str:
    """A table for the screen: the strongest emotions of each clip with bars, then age, country or speaker.

    The folder that all files share is left out. A full bar is an intensity of 1, or the largest intensity if that is
    more.

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
    clips = answers.head(MOST_SHOWN)
    values = clips[list(targets)].to_numpy(np.float64)
    scale = max(1.0, float(values.max(initial=0.0)))
    others = [name for name in map(str, clips.columns) if name not in (*targets, "file")]
    folder = os.path.commonpath([Path(file).parent for file in clips["file"]])
    files = [text.printable(os.path.relpath(file, folder or "."), 200) for file in clips["file"]]
    file_width = max(map(len, files))
    name_width = max(map(len, (*targets, *others)))
    lines = []
    for clip, row in enumerate(clips.to_dict("records")):
        texts = []
        for index in np.argsort(-values[clip], kind="stable")[:top]:
            bar = full * round(BAR * max(values[clip, index], 0.0) / scale)
            texts.append(f"{targets[index]:{name_width}}  {values[clip, index]:5.3f}  {bar}".rstrip())
        for name in others:
            value = f"{row[name]:.1f}" if isinstance(row[name], float) else row[name]
            texts.append(f"{name:{name_width}}  {value}")
        names = [files[clip], *[""] * (len(texts) - 1)]
        lines += [f"{name:{file_width}}  {line}" for name, line in zip(names, texts, strict=True)]
    if len(answers) > len(clips):
        lines.append(f"and {len(answers) - len(clips):,} more clips, in the run's artifact predictions/audio.csv")
    return "\n".join(lines)
