"""Submission files of ExVo 2022: made from predictions, and checked, whoever made them.

The format is that of the challenge's own instructions (github.com/HumeAI/competitions): `Country` is a number, 0-3.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from exvo.config import EMOTIONS
from exvo.errors import InputError
from exvo.tables import read_csv_cells
from exvo.text import listing, printable

TITLES = {"fewshot": "ExVo-Few", "multitask": "ExVo-Multi"}
COLUMNS = {"fewshot": ("File_ID", *EMOTIONS), "multitask": ("File_ID", "Country", "Age", *EMOTIONS)}
COUNTRIES = 4
LAYOUT = "check=<file> is the submission to look at"

ROW_BYTES = 1_000
"""A row takes fewer; a file of more bytes for each clip is refused unread."""


class Checked(NamedTuple):
    """What was found in a submission file.

    Attributes:
        task: fewshot or multitask, by its columns.
        problems: sentences; without any the file is right.
        notes: what is strange but not wrong.
    """

    task: str
    problems: list[str]
    notes: list[str]


def file_name(task: str, team: str, number: int) -> str:
    """The name that the challenge asks for.

    >>> file_name("fewshot", "our-team", 1)
    'ExVo-Few_our-team_1.csv'

    Raises:
        InputError: the team's name is empty, too long or holds something other than letters, digits, - and _.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,50}", team):
        raise InputError(f"team={team!r} is no team's name; give 1 to 50 letters (a to z), digits, - or _.")
    return f"{TITLES[task]}_{team}_{number}.csv"


def file_ids(files: Sequence[str]) -> list[str]:
    """The `File_ID` of each clip.

    >>> file_ids(["wav/58712.wav", "a/b.mp3"])
    ['[58712]', '[b]']

    Raises:
        InputError: there are no clips, or two have the same.
    """
    if not len(files):
        raise InputError("The corpus has no test split; there is nothing to hand in.")
    ids = pd.Series([f"[{PurePosixPath(file).stem}]" for file in files])
    twice = ids[ids.duplicated()].unique()
    if len(twice):
        raise InputError(f"Several test clips have the same File_ID: {listing(twice)}; give the files different names.")
    return ids.tolist()


def require_emotions(targets: Sequence[str]) -> None:
    """Refuses a run that does not predict the ten emotions.

    Raises:
        InputError: names those that are missing.
    """
    missing = [emotion for emotion in EMOTIONS if emotion not in targets]
    if missing:
        raise InputError(
            f"The run does not predict {listing(missing)}: a submission holds the ten emotions of ExVo 2022, which the "
            "corpora hume-vb and sample have."
        )


def submission(predictions: pd.DataFrame, task: str, countries: Mapping[str, int]) -> pd.DataFrame:
    """The rows of a submission file, in the order of the predictions.

    Args:
        predictions: the predictions table of a few-shot or multitask run with the ten emotions.
        task: fewshot or multitask.
        countries: the number of each country, for multitask.

    Raises:
        InputError: a country has no number.
    """
    table = pd.DataFrame({"File_ID": file_ids(predictions["file"].tolist())})
    if task == "multitask":
        table["Country"] = predictions["prediction.country"].map(countries).to_numpy()
        unknown = sorted(set(predictions["prediction.country"]) - set(countries))
        if unknown:
            raise InputError(f"The corpus gives no number to the countries {listing(unknown)}.")
        table["Age"] = predictions["prediction.age"].to_numpy()
    for emotion in EMOTIONS:
        table[emotion] = predictions[f"prediction.{emotion}"].to_numpy()
    return table


def write(table: pd.DataFrame, path: Path, ids: Sequence[str]) -> Checked:
    """Writes a submission file once it has passed `check`; a refused one leaves nothing behind.

    Args:
        table: as `submission` gives it.
        path: the file.
        ids: of all clips of the test split, in its order.

    Raises:
        InputError: it does not pass, or a file of that name holds something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        table.to_csv(draft, index=False, float_format="%.6f", lineterminator="\n")
        checked = check(draft, ids)
        if checked.problems:
            raise InputError(f"{path.name} is not written, because it would be wrong: {' '.join(checked.problems)}")
        if path.exists() and path.read_bytes() != draft.read_bytes():
            raise InputError(f"{path} is there already and differs; give another number, or move it away.")
        os.replace(draft, path)
    return checked


def check(path: Path, ids: Sequence[str]) -> Checked:
    """Whether a file is a submission for these clips, in this order. Nothing in it is trusted.

    Args:
        path: a CSV file in UTF-8, with or without a byte order mark, with any line ends.
        ids: `File_ID` of each clip of the test split, in the order of the corpus.
    """
    most = ROW_BYTES * (len(ids) + 1_000)
    if os.path.isfile(path) and path.stat().st_size > most:
        problem = f"It has {path.stat().st_size:,} bytes, but {len(ids):,} clips take fewer than {most:,}."
        return Checked("fewshot", [problem], [])
    try:
        rows = read_csv_cells(path, LAYOUT)
    except InputError as error:
        return Checked("fewshot", [printable(str(error), 1_000)], [])
    task = "multitask" if {"Country", "Age"} & set(rows.columns) else "fewshot"
    notes = name_notes(path.name, task)
    columns = wrong_columns(list(rows.columns), task)
    if columns:
        return Checked(task, [columns], notes)
    problems = []
    if rows.attrs["notes"]:
        problems.append(f"It is not plain CSV (UTF-8, commas, decimal points): it has {listing(rows.attrs['notes'])}.")
    problems += wrong_ids(rows["File_ID"], ids)
    numbers, unusual = wrong_numbers(rows[list(COLUMNS[task][1:])])
    return Checked(task, problems + numbers, notes + unusual)


def name_notes(name: str, task: str) -> list[str]:
    """A sentence where the file's name is not what the challenge asks for."""
    if re.fullmatch(rf"{TITLES[task]}_[A-Za-z0-9_-]+_[0-9]+\.csv", name):
        return []
    return [f"The challenge wants the name {TITLES[task]}_<team>_<number>.csv, not {printable(name)}."]


def wrong_columns(columns: list[str], task: str) -> str:
    """A sentence where the columns are not those of the task in their order; else empty."""
    wanted = list(COLUMNS[task])
    if columns == wanted:
        return ""
    told = [f"The columns of {TITLES[task]} are {listing(wanted, len(wanted))}, in this order."]
    missing = [name for name in wanted if name not in columns]
    strange = [printable(name) for name in columns if name not in wanted]
    if missing:
        told.append(f"Missing: {listing(missing)}.")
    if strange:
        told.append(f"Not among them: {listing(strange)}.")
    if not missing and not strange:
        place = next(at for at, (name, own) in enumerate(zip(columns, wanted, strict=True)) if name != own)
        told.append(f"Column {place + 1} is {columns[place]}, where {wanted[place]} belongs.")
    return " ".join(told)


def wrong_ids(found: pd.Series[str], ids: Sequence[str]) -> list[str]:
    """Sentences on the `File_ID` column: number of rows, unknown, missing and repeated clips, their order.

    Args:
        found: indexed by `line N`.
        ids: the right ones in their order.
    """
    problems = []
    if len(found) != len(ids):
        problems.append(f"It has {len(found):,} rows, the test split {len(ids):,} clips.")
    wanted = pd.Index(ids)
    unknown = found[~found.isin(wanted)]
    missing = wanted[~wanted.isin(found)]
    again = found[found.duplicated() & found.isin(wanted)]
    if len(unknown):
        problems.append(f"{count(unknown, 'File_ID')} of no clip of the test split: {places(unknown)}.")
    if len(missing):
        problems.append(f"{count(missing, 'clip')} missing: {listing(map(printable, missing))}.")
    if len(again):
        problems.append(f"{count(again, 'row')} of a clip that was there before: {places(again)}.")
    known = found[found.isin(wanted)].drop_duplicates()
    order = wanted[wanted.isin(known)]
    moved = np.flatnonzero(known.to_numpy() != order.to_numpy())
    if len(moved):
        line, own = known.index[moved[0]], known.iloc[moved[0]]
        problems.append(
            f"The order is not the corpus': {len(moved):,} clips are out of place; {line} has {printable(own)}, where "
            f"{printable(order[moved[0]])} belongs."
        )
    return problems


def wrong_numbers(cells: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Sentences on cells that are no finite numbers or no country, and notes on numbers that are unusual.

    Args:
        cells: text, (clips, columns), indexed by `line N`.
    """
    where = [f"{line} {column}" for line in cells.index for column in cells.columns]
    text = pd.Series(cells.to_numpy().ravel(), index=where, dtype=str)
    numbers = pd.to_numeric(text, errors="coerce").astype(float)
    empty = text == ""
    undefined = text.str.lower().isin({"nan", "na", "n/a", "null", "none"})
    infinite = np.isinf(numbers)
    other = numbers.isna() & ~empty & ~undefined
    column = np.tile(cells.columns.to_numpy(), len(cells))
    finite = numbers.notna() & ~infinite
    strange = finite & (column == "Country") & ~numbers.isin(range(COUNTRIES))
    problems = [
        f"{count(text[wrong], 'cell')} {what}: {places(text[wrong])}."
        for what, wrong in (
            ("without a number", empty),
            ("with NaN", undefined),
            ("with an infinite number", infinite),
            ("with something that is no number", other),
            (f"of Country that are none of 0 to {COUNTRIES - 1}", strange),
        )
        if wrong.any()
    ]
    emotion = ~np.isin(column, ("Country", "Age"))
    notes = [
        f"{count(text[wrong], 'number')} outside {low} to {high} ({what}): {places(text[wrong], 3)}."
        for what, of, low, high in (("intensity", emotion, 0, 1), ("age in years", column == "Age", 0, 130))
        if (wrong := finite & of & ~numbers.between(low, high)).any()
    ]
    return problems, notes


def count(items: Sequence[object] | pd.Series[str] | pd.Index[str], what: str) -> str:
    """How many, with the plural.

    >>> count(["a"], "row"), count(["a", "b"], "row")
    ('1 row', '2 rows')
    """
    return f"{len(items):,} {what}{'s' if len(items) > 1 else ''}"


def places(cells: pd.Series[str], limit: int = 10) -> str:
    """Where each cell stands and what it holds."""
    return listing((f"{where} ({printable(text)})" if text else str(where) for where, text in cells.items()), limit)


def problems_text(name: str, problems: Sequence[str]) -> str:
    """All the problems of a file as one text, a line each."""
    return "\n  ".join([f"{printable(name)} is wrong:", *problems])
