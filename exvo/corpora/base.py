"""The validated table of clips that every corpus reader returns, and the checks behind it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from exvo.config import SPLITS
from exvo.errors import InputError
from exvo.files import on_disk
from exvo.spreadsheets import decimal_points, number_advice
from exvo.tables import refuse_items, require_columns
from exvo.text import LONGEST_NAME, is_name, listing, normal

AGE_LIMITS = (0.0, 130.0)
"""Years."""

INTENSITY_LIMITS = (0.0, 1.0)
"""Mean rated intensity."""

ANY_NUMBER = (-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max))
"""Any number that single precision, in which networks train, can hold."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MISSING = {"", "nan", "na"}
_TEXTS = ("file", "split", "speaker", "country", "category")


@dataclass(frozen=True)
class Corpus:
    """Clips with their split, speaker and labels; made and validated by `exvo.corpora.load`.

    `clips` has one row a clip, in the order of the corpus' own file, under these columns: `file` (POSIX path relative
    to `folder`), `split` (train, val, test), `speaker` (text; may be empty in test), then where the corpus has them
    `country` (text, empty where unknown), `age` (float, years, NaN where unknown) and `category` (text), then one
    float column a target, NaN in every target of an unlabelled test clip. Texts are in composed form (NFC); a file may
    have another on the disk (`exvo.files.on_disk`). `notes` are short phrases on how the corpus' own file was read,
    where it is not plain CSV or Parquet.
    """

    name: str
    folder: Path
    clips: pd.DataFrame
    targets: tuple[str, ...]
    synthetic: bool = False
    categories: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def build(
    name: str,
    folder: Path,
    source: Path,
    rows: pd.DataFrame,
    targets: Sequence[str],
    *,
    limits: tuple[float, float] = INTENSITY_LIMITS,
    categories: tuple[str, ...] = (),
) -> Corpus:
    """Validate the rows of a reader and return its Corpus.

    `rows` has the columns of `Corpus.clips` (in any order; numbers may be text) and an index that says where each row
    stands in `source`, as a person reads it ('line 3'). Targets must lie within `limits`.

    Raises InputError, naming every bad row (the first ten by name), for anything that `Corpus` rules out. Whether
    the audio files exist is left to feature extraction.
    """
    optional = [column for column in ("country", "age", "category") if column in rows.columns and column not in targets]
    require_columns(source, rows, ["file", "split", "speaker", *targets])
    clips = rows[["file", "split", "speaker", *optional, *targets]].copy()
    notes = tuple(rows.attrs.get("notes", ()))
    texts = [text for text in _TEXTS if text in clips and text not in targets]
    for text in texts:
        clips[text] = clips[text].map(normal)
    _check_names(source, clips, targets)
    clips["file"] = _files(source, folder, clips["file"])
    _check_splits(source, clips)
    numbers = [column for column in ("age", *targets) if column in clips and not is_numeric_dtype(clips[column])]
    if numbers:
        clips[numbers], commas = decimal_points(clips[numbers])
        notes += (commas,) if commas else ()
    if "age" in optional:
        clips["age"] = _numbers(source, clips["age"], AGE_LIMITS)
    for target in targets:
        clips[target] = _numbers(source, clips[target], limits)
    _check_labels(source, clips, list(targets))
    return Corpus(name, folder, clips.reset_index(drop=True), tuple(targets), categories=categories, notes=notes)


def _check_names(source: Path, clips: pd.DataFrame, targets: Sequence[str]) -> None:
    """Refuses names that would move a terminal's cursor or fill a page, those of targets and those in the rows."""
    remedy = f"give names without control characters, of at most {LONGEST_NAME:,} characters"
    bad = [repr(target) for target in targets if not is_name(target)]
    if bad:
        refuse_items(source, "targets whose names can't be shown", bad, remedy)
    for name in [name for name in ("file", "speaker", "country", "category") if name in clips and name not in targets]:
        bad = _quoted(clips[name][~clips[name].map(is_name)])
        if bad:
            refuse_items(source, f"{name} can't be shown", bad, remedy)


def _files(source: Path, folder: Path, files: pd.Series) -> pd.Series:
    """The paths in normal form (`./a.wav` is `a.wav`, composed letters), all distinct and inside the folder."""
    bad = [f"{where} ({text!r})" for where, text in files.items() if not _is_inside(text)]
    if bad:
        refuse_items(
            source, "file is not a relative path with /", bad, "give paths below the corpus folder, as wav/1.wav"
        )
    files = files.map(lambda text: PurePosixPath(text).as_posix())
    twice = files[files.duplicated(keep=False)]
    if len(twice):
        bad = [f"{file} ({listing(same.index, 3)})" for file, same in twice.groupby(twice, sort=False)]
        refuse_items(source, "files given more than once", bad, "keep one row a file")
    root = os.path.realpath(folder)
    bad = []
    for where, text in files.items():
        path = os.path.realpath(on_disk(root, text))
        if not path.startswith(root.rstrip(os.sep) + os.sep):
            bad.append(f"{where} ({text} is {path})")
    if bad:
        refuse_items(source, "links that leave the corpus folder", bad, "put the files themselves into the folder")
    return files


def _is_inside(text: str) -> bool:
    """Whether a path stays inside its folder by its text alone: relative, POSIX, without `..`.

    >>> [_is_inside(text) for text in ("wav/1.wav", "/wav/1.wav", "../1.wav", "C:/1.wav", "wav\\\\1.wav", ".", "")]
    [True, False, False, False, False, False, False]
    """
    path = PurePosixPath(text)
    if "\\" in text or "\0" in text or PureWindowsPath(text).drive or path.is_absolute():
        return False
    return bool(path.parts) and ".." not in path.parts


def _check_splits(source: Path, clips: pd.DataFrame) -> None:
    unknown = clips["split"][~clips["split"].isin(SPLITS)]
    if len(unknown):
        refuse_items(source, "unknown split", _quoted(unknown), f"the splits are {listing(SPLITS)}")
    for split in ("train", "val"):
        count = int((clips["split"] == split).sum())
        if count < 2:
            raise InputError(f"{source}: split {split} has {count} clips; give it at least 2.")
    speakerless = clips["speaker"][(clips["speaker"] == "") & (clips["split"] != "test")]
    if len(speakerless):
        refuse_items(source, "clips of train or val without a speaker", speakerless.index, "name their speakers")


def _check_labels(source: Path, clips: pd.DataFrame, targets: list[str]) -> None:
    missing = clips[targets].isna()
    test = clips["split"] == "test"
    bad = _gaps(missing[~test])
    if bad:
        refuse_items(source, "clips of train or val without a label", bad, "label or remove them")
    bad = _gaps(missing[test & ~missing.all(axis=1)])
    if bad:
        refuse_items(
            source, "clips of test with only a part of their labels", bad, "give all of a clip's labels or none"
        )


def _gaps(missing: pd.DataFrame) -> list[str]:
    """Where each row with something missing stands, and which columns are missing."""
    gaps = missing[missing.any(axis=1)]
    names = [listing(missing.columns[row], 3) for row in gaps.to_numpy()]
    return [f"{where} ({columns})" for where, columns in zip(gaps.index, names, strict=True)]


def _numbers(source: Path, column: pd.Series, limits: tuple[float, float]) -> pd.Series:
    """A column as floats, NaN where it is empty; InputError for anything else and for what is out of limits."""
    low, high = limits
    if is_numeric_dtype(column):
        numbers = column.astype(float)
        wrong = numbers.isin([math.inf, -math.inf])
    else:
        empty = column.str.lower().isin(_MISSING)
        wrong = ~empty & ~column.map(lambda text: _NUMBER.fullmatch(text) is not None)
        numbers = column.where(~empty & ~wrong, "nan").map(float).astype(float)
    if wrong.any():
        remedy = number_advice([str(cell) for cell in column[wrong]])
        refuse_items(source, f"{column.name} is not a number", _quoted(column[wrong]), remedy)
    beyond = column[(numbers < low) | (numbers > high)]
    if len(beyond):
        remedy = f"give numbers from {low:g} to {high:g}"
        refuse_items(source, f"{column.name} is out of range", _quoted(beyond), remedy)
    return numbers


def _quoted(column: pd.Series) -> list[str]:
    """Where each value stands, and the value as it was found."""
    return [f"{where} ({value!r})" for where, value in column.items()]
