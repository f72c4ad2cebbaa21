"""Predictions for the screen and for spreadsheets."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from exvo import text
from exvo.evaluation.prior import chance
from exvo.evaluation.scoring import headline
from exvo.reports.names import score_name
from exvo.tasks import Task

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of cells that spreadsheets compute."""

BAR = 24
"""Characters of a full bar."""

WORDS: Mapping[object, str] = {True: "yes", False: "no"}

WARNINGS = "warnings"
"""The column of what of a clip the model may not have heard in training, in words: see `find_warnings`."""

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


def reached_line(task: Task, notes: Mapping[str, object], split: str = "val") -> str:
    """How good a model is and what chance is, in one line; '' where that is not known.

    Args:
        task: what its outputs are.
        notes: of its file: `metric`, `score`, `people` and of exclusive categories `accuracy`. Files of early versions
            lack them, and so does what is no few-shot model.
        split: on which it was scored.

    >>> notes = {"metric": "category_uar", "score": 0.312, "accuracy": 0.33, "people": "people it has not heard"}
    >>> print(reached_line(Task("fewshot", ("Awe", "Fear", "Joy"), categories=True), notes))
    it names the right one of 3 categories in 33% of clips (UAR 0.31) on people it has not heard (val); chance is 33%
    >>> notes = {"metric": "emotion_ccc", "score": 0.4, "people": "people it has not heard"}
    >>> print(reached_line(Task("fewshot", ("Awe", "Fear")), notes))
    it reaches a CCC of 0.40 (1 is perfect) on people it has not heard (val); chance is 0
    """
    score, accuracy, people = (notes.get(name) for name in ("score", "accuracy", "people"))
    if task.name != "fewshot" or notes.get("metric") != headline(task) or not isinstance(score, float):
        return ""
    end = f" on {people} ({split}); chance is"
    if math.isnan(score):
        return f"its {score_name(headline(task))} is undefined: it has learnt nothing{end} {chance(task):.2g}"
    if not task.categories:
        return f"it reaches a CCC of {score:.2f} (1 is perfect){end} 0"
    begin = f"it names the right one of {len(task.targets)} categories in {accuracy:.0%} of clips"
    return f"{begin} (UAR {score:.2f}){end} {chance(task):.0%}"


def with_warnings(answers: pd.DataFrame, words: Sequence[str] | Sequence[list[str]]) -> pd.DataFrame:
    """The answers to clips, with the words of each clip's warnings as their last column.

    A target of that name keeps it; then there are no warnings.
    """
    if WARNINGS in answers:
        return answers
    return answers.assign(**{WARNINGS: pd.Series(list[object](words), answers.index)})


def warning_text(found: Mapping[str, str]) -> str:
    """What of a clip a model may not have heard, in one line; '' where there is nothing.

    Args:
        found: as `find_warnings` gives it.

    >>> warning_text({"clipped": "its loudest parts are cut off", "short": "it lasts 0.10 s"})
    'clipped (its loudest parts are cut off), short (it lasts 0.10 s)'
    """
    return ", ".join(f"{word} ({clause})" for word, clause in found.items())


def chart(
    answers: pd.DataFrame, targets: Sequence[str], top: int, full: str = "█", warned: Sequence[str] | None = None
) -> str:
    """A table for the screen: the strongest emotions of each clip with bars, then age, country, speaker or `sure`.

    A line of warnings follows where there are some.

    The folder that all files share is left out. A full bar is an intensity of 1, or the largest intensity if that is
    more.

    Args:
        answers: `file`, and at least one row of the columns of `Task.answers`.
        targets: the columns that are emotions.
        top: emotions of each clip.
        full: what the bars are made of.
        warned: for each row `warning_text`; None: nothing.

    >>> answers = pd.DataFrame({"file": ["clips/a.wav"], "Awe": [0.25], "Fear": [0.5], "age": [31.2]})
    >>> print(chart(answers, ["Awe", "Fear"], 2, "#"))
    a.wav  Fear  0.500  ############
           Awe   0.250  ######
           age   31.2
    """
    clips = answers.head(MOST_SHOWN)
    values = clips[list(targets)].to_numpy(np.float64)
    scale = max(1.0, float(values.max(initial=0.0)))
    others = [name for name in map(str, clips.columns) if name not in (*targets, "file", WARNINGS)]
    folder = os.path.commonpath([os.path.abspath(Path(file).parent) for file in clips["file"]])
    files = [text.printable(os.path.relpath(file, folder), 200) for file in clips["file"]]
    file_width = max(map(len, files))
    name_width = max(map(len, (*targets, *others)))
    lines = []
    for clip, row in enumerate(clips.to_dict("records")):
        texts = []
        for index in np.argsort(-values[clip], kind="stable")[:top]:
            bar = full * round(BAR * max(values[clip, index], 0.0) / scale)
            texts.append(f"{targets[index]:{name_width}}  {values[clip, index]:5.3f}  {bar}".rstrip())
        for name in others:
            value = f"{row[name]:.1f}" if isinstance(row[name], float) else WORDS.get(row[name], row[name])
            texts.append(f"{name:{name_width}}  {value}")
        if warned and warned[clip]:
            texts.append(f"{'warning':{name_width}}  {warned[clip]}")
        names = [files[clip], *[""] * (len(texts) - 1)]
        lines += [f"{name:{file_width}}  {line}" for name, line in zip(names, texts, strict=True)]
    if len(answers) > len(clips):
        lines.append(f"and {len(answers) - len(clips):,} more clips, in the run's artifact predictions/audio.csv")
    return "\n".join(lines)
