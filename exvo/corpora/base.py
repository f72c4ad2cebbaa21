"""The validated table of clips that every corpus reader returns, and the checks behind it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from exvo.config import SPLITS
from exvo.corpora.rules import is_number
from exvo.files import on_disk
from exvo.spreadsheets import decimal_points, number_advice
from exvo.tables import refuse_items, require_columns
from exvo.text import LONGEST_NAME, is_name, listing, normal

AGE_LIMITS = (0.0, 130.0)
"""The lowest and the highest age, years."""

INTENSITY_LIMITS = (0.0, 1.0)
"""The lowest and the highest mean rated intensity."""

ANY_NUMBER = (-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max))
"""The lowest and the highest number that single precision, in which networks train, can hold."""

_MISSING = {"", "nan", "na"}
_TEXTS = ("file", "split", "speaker", "country", "category")


@dataclass(frozen=True)
class Corpus:
    """Clips with their split, speaker and labels; made and validated by `exvo.corpora.load`.

    Attributes:
        name: of the corpus, as the option `corpus` has it.
        folder: that holds it.
        clips: one row a clip, in the order of the corpus' file of clips. Columns: `file` (POSIX path relative to
            `folder`), `split` (train, val, test), `speaker` (text; empty in all clips, or in some of test); then where
            the corpus has them `country` (text, empty where unknown), `age` (float, years, NaN where unknown) and
            `category` (text); then one float column a target, NaN in all targets of an unlabelled test clip. Texts are
            in composed form (NFC); the name of a file on the disk may be in another (`exvo.files.on_disk`).
        targets: names of the columns of labels.
        synthetic: whether a program made the voices.
        categories: the targets, where a clip is of exactly one of them; else empty.
        notes: how the corpus' file of clips was read, where it is not plain CSV or Parquet: short phrases.
        assigned: how exvo has assigned the splits, see `exvo.corpora.splits`; empty: they are the corpus' own.
        own_splits: where they are assigned, the corpus' own ones, (clips,), which are set aside; empty: it has none.
        selected: what options left out or renamed, see `exvo.corpora.selection`: short phrases.
        roots: of several tables in one, the name of each -> the folder of its audio, relative to `folder`. The column
            `corpus` of the clips then holds the name, with which files (`<name>/<path>`) and speakers begin.
    """

    name: str
    folder: Path
    clips: pd.DataFrame
    targets: tuple[str, ...]
    synthetic: bool = False
    categories: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    assigned: str = ""
    own_splits: tuple[str, ...] = ()
    selected: tuple[str, ...] = ()
    roots: Mapping[str, str] = field(default_factory=dict)

    def places(self, files: Sequence[str]) -> list[str]:
        """Where clips lie, relative to `folder`, (clips,)."""
        if not self.roots:
            return list(files)
        named = (file.split("/", 1) for file in files)
        return [PurePosixPath(self.roots[name], path).as_posix() for name, path in named]

    @property
    def has_speakers(self) -> bool:
        """Whether it says of any clip who speaks."""
        return bool((self.clips["speaker"] != "").any())


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
    """Validates the rows that a reader has read and makes them a corpus.

    Args:
        name: of the corpus.
        folder: that holds it.
        source: the file that the rows come from, for sentences.
        rows: the columns of `Corpus.clips` in any order (numbers may be text), indexed by where each row stands in
            `source`, as a person finds it ('line 3').
        targets: names of the columns of labels.
        limits: the lowest and the highest label.
        categories: see `Corpus`.

    Raises:
        InputError: something breaks a rule of `Corpus`; it counts all wrong rows and names the first ten.
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
    labels = pd.DataFrame({target: _numbers(source, clips[target], limits) for target in targets}, index=clips.index)
    clips = pd.concat([clips.drop(columns=list(targets)), labels], axis=1)  # one by one, a thousand would be slow
    _check_labels(source, clips, list(targets))
    return Corpus(name, folder, clips.reset_index(drop=True), tuple(targets), categories=categories, notes=notes)


def _check_names(source: Path, clips: pd.DataFrame, targets: Sequence[str]) -> None:
    """Refuses names, of targets and in the rows, that would move a terminal's cursor or fill a page."""
    remedy = f"give names without control characters, of at most {LONGEST_NAME:,} characters"
    wrong = [repr(target) for target in targets if not is_name(target)]
    if wrong:
        refuse_items(source, "targets whose names can't be shown", wrong, remedy)
    for name in [name for name in ("file", "speaker", "country", "category") if name in clips and name not in targets]:
        wrong = _quoted(clips[name][~clips[name].map(is_name)])
        if wrong:
            refuse_items(source, f"{name} can't be shown", wrong, remedy)


def _files(source: Path, folder: Path, files: pd.Series) -> pd.Series:
    """The paths in their shortest form (`./a.wav` is `a.wav`).

    Raises:
        InputError: a path is given twice, or leads out of the folder.
    """
    require_inside(source, folder, files)
    files = files.map(lambda text: PurePosixPath(text).as_posix())
    twice = files[files.duplicated(keep=False)]
    if len(twice):
        wrong = [f"{file} ({listing(same.index, 3)})" for file, same in twice.groupby(twice, sort=False)]
        refuse_items(source, "files given more than once", wrong, "keep one row a file")
    return files


def require_inside(source: Path, folder: Path, files: pd.Series) -> None:
    """Refuses files that are not in their folder, by their path or by a link.

    Raises:
        InputError: names them.
    """
    wrong = [f"{where} ({text!r})" for where, text in files.items() if not _is_inside(text)]
    if wrong:
        refuse_items(
            source, "file is not a relative path with /", wrong, "give paths below the corpus folder, as wav/1.wav"
        )
    root = os.path.realpath(folder)
    wrong, folders = [], dict[str, str]()
    for where, text in files.items():
        parent, name = os.path.split(on_disk(root, text))
        if parent not in folders:  # most files share theirs
            folders[parent] = os.path.realpath(parent)
        path = os.path.join(folders[parent], name)
        path = os.path.realpath(path) if os.path.islink(path) else path
        if not path.startswith(root.rstrip(os.sep) + os.sep):
            wrong.append(f"{where} ({text} is {path})")
    if wrong:
        refuse_items(source, "links that leave the corpus folder", wrong, "put the files themselves into the folder")


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
    """Refuses unknown splits, and clips of train or val without a speaker where others have one."""
    unknown = clips["split"][~clips["split"].isin(SPLITS)]
    if len(unknown):
        refuse_items(source, "unknown split", _quoted(unknown), f"the splits are {listing(SPLITS)}")
    speakerless = clips["speaker"][(clips["speaker"] == "") & (clips["split"] != "test")]
    if len(speakerless) and (clips["speaker"] != "").any():
        refuse_items(source, "clips of train or val without a speaker", speakerless.index, "name their speakers")


def _check_labels(source: Path, clips: pd.DataFrame, targets: list[str]) -> None:
    """Refuses clips without labels in train and val, and clips with a part of their labels in test."""
    missing = clips[targets].isna()
    test = clips["split"] == "test"
    wrong = _gaps(missing[~test])
    if wrong:
        refuse_items(source, "clips of train or val without a label", wrong, "label or remove them")
    wrong = _gaps(missing[test & ~missing.all(axis=1)])
    if wrong:
        refuse_items(
            source, "clips of test with only a part of their labels", wrong, "give all of a clip's labels or none"
        )


def _gaps(missing: pd.DataFrame) -> list[str]:
    """Each row with a gap, as where it stands and in which columns its gaps are."""
    gaps = missing[missing.any(axis=1)]
    names = [listing(missing.columns[row], 3) for row in gaps.to_numpy()]
    return [f"{where} ({columns})" for where, columns in zip(gaps.index, names, strict=True)]


def is_missing(cell: str) -> bool:
    """Whether the cell of a table is empty, or says that nothing is known."""
    return cell.lower() in _MISSING


def _numbers(source: Path, column: pd.Series, limits: tuple[float, float]) -> pd.Series:
    """A column as floats, NaN where it is empty.

    Raises:
        InputError: a cell is neither a number nor empty, or out of limits.
    """
    low, high = limits
    if is_numeric_dtype(column):
        numbers = column.astype(float)
        wrong = numbers.isin([math.inf, -math.inf])
    else:
        empty = column.map(is_missing)
        wrong = ~empty & ~column.map(is_number)
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
    """Each cell, as where it stands and its value."""
    return [f"{where} ({value!r})" for where, value in column.items()]
