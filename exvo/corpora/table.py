"""Your own corpus: a folder with `clips.csv` or `clips.parquet` and the audio files that it names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from exvo.config import SPLITS
from exvo.corpora.base import ANY_NUMBER, Corpus, build, is_missing
from exvo.corpora.splits import BY_SPEAKER, QUOTAS, split_by_speaker
from exvo.errors import InputError
from exvo.spreadsheets import WORKBOOKS, refuse_workbook
from exvo.tables import read_csv_cells, read_flat_parquet, refuse_items, require_columns
from exvo.text import listing, printable, slug

MAX_CATEGORIES = 1_000
"""Each category is a column of the table of clips, and two of the predictions."""

_PLAIN = ("file", "split", "speaker", "age", "country", "category")
_LAYOUT = (
    "the folder of a table corpus holds clips.csv or clips.parquet with the columns file, speaker and category, or one "
    "numeric column a target, and split if you have one"
)


def read(folder: Path) -> Corpus:
    """Reads a table of clips, from CSV or from Parquet; both give the same corpus.

    Columns: `file`, `speaker`, optionally `split` (train, val, test), `age` (years) and `country`; then either
    `category`, of which a clip has exactly one, or numeric targets. Beside `category` other numeric columns are left
    out, and `notes` says so. Without `split`, speakers are dealt to the splits, see `splits.split_by_speaker`.

    Raises:
        InputError: the folder holds neither file or both, or the table breaks a rule; names the rows.
    """
    source = _source(folder)
    rows = read_csv_cells(source, _LAYOUT) if source.suffix == ".csv" else _read_parquet_cells(source)
    has_category = "category" in rows
    targets = [column for column in rows.columns if column not in _PLAIN]
    if not targets and not has_category:
        beside = listing(printable(name) for name in rows.columns)
        raise InputError(
            f"{source} has no target; add the column category, or at least one numeric column, beside {beside}."
        )
    require_columns(source, rows, ["file", "speaker"])
    _refuse_texts(source, rows, targets)
    assigned = "" if "split" in rows else BY_SPEAKER
    if assigned:
        rows = rows.assign(split=_splits(source, rows["speaker"]))
    if has_category:
        corpus = _with_categories(folder, source, rows, targets)
    else:
        corpus = build("table", folder, source, rows, targets, limits=ANY_NUMBER)
    return replace(corpus, assigned=assigned)


def require_trained_categories(corpus: Corpus) -> None:
    """Refuses a corpus with categories that no training clip has, because their clips can't be recognised.

    Raises:
        InputError: names them.
    """
    clips = corpus.clips
    trained = set(clips["category"][clips["split"] == "train"]) if corpus.categories else set()
    unheard = [category for category in corpus.categories if category not in trained]
    if unheard:
        rows = clips[clips["category"].isin(unheard)]
        splits = rows.groupby("category")["split"].agg(lambda column: " and ".join(sorted(set(column), reverse=True)))
        missing = listing(f"{name} (only in {splits[name]})" for name in unheard)
        what, remedy = "the column split", "give train some clips of each"
        if corpus.assigned:
            what, remedy = "the split by speaker", "add a column split that gives train some of each, or give folds=5"
        raise InputError(
            f"{corpus.folder}: {what} leaves train without a clip of these categories, which can't be recognised: "
            f"{missing}; {remedy}, or leave these clips out."
        )


def _source(folder: Path) -> Path:
    """The file of the table.

    Raises:
        InputError: there is none, or there are two.
    """
    sources = [folder / name for name in ("clips.csv", "clips.parquet") if os.path.isfile(folder / name)]
    if not sources:
        for ending in WORKBOOKS:
            if os.path.isfile(folder / f"clips{ending}"):
                refuse_workbook(str(folder / f"clips{ending}"))
    if len(sources) != 1:
        content = "both clips.csv and clips.parquet" if sources else "neither clips.csv nor clips.parquet"
        raise InputError(f"{folder} holds {content}: {_LAYOUT}; give exactly one.")
    return sources[0]


def _refuse_texts(source: Path, rows: pd.DataFrame, targets: Sequence[str]) -> None:
    """Refuses columns that hold text where a target would hold numbers.

    Raises:
        InputError: says what they may be called instead.
    """
    for name in targets:
        cells = rows[name][~rows[name].map(is_missing)]
        if cells.empty or cells.map(_looks_like_number).any():
            continue  # `build` names the cells that are no numbers
        known = name.strip().lower()
        if known in _PLAIN and known not in rows:
            remedy = f"call the column {known}"
        elif "category" in rows:
            remedy = "leave the column out, as category is what is recognised"
        else:
            remedy = "call the column category if these are exclusive categories, else leave it out"
        examples = listing([repr(printable(text)) for text in dict.fromkeys(cells)], 3)
        raise InputError(f"{source}: {printable(name)} holds text ({examples}); {remedy}.")


def _looks_like_number(cell: str) -> bool:
    """Whether a cell has digits and no letters but e.

    >>> [_looks_like_number(cell) for cell in ("0.5", "1,234.5", "1e3", "joy", "E01x", "")]
    [True, True, True, False, False, False]
    """
    return bool(re.search(r"\d", cell)) and not re.search(r"[^\W\d_eE]", cell)


def _splits(source: Path, speakers: pd.Series) -> np.ndarray:
    """The splits of a table that has none, (clips,).

    Raises:
        InputError: a clip has no speaker, or there are fewer than three speakers.
    """
    nobody = speakers[speakers == ""]
    if len(nobody):
        problem = "clips without a speaker, though a table without the column split is divided by speaker"
        refuse_items(source, problem, nobody.index, "name their speakers, or add the column split")
    if speakers.nunique() < len(QUOTAS):
        raise InputError(
            f"{source} has no column split, and to divide it by speaker takes three speakers or more, but it has "
            f"{speakers.nunique()}; add the column split ({', '.join(SPLITS)})."
        )
    return split_by_speaker(speakers)


def _with_categories(folder: Path, source: Path, rows: pd.DataFrame, others: Sequence[str]) -> Corpus:
    """The corpus of a table with a category: one target each, 1 for the clips of that category and 0 for others.

    Args:
        folder: of the corpus.
        source: its table.
        rows: of the table.
        others: numeric columns, which are left out.

    Raises:
        InputError: a clip of train or val has no category, or the categories can't be told apart.
    """
    category = rows["category"].where(~rows["category"].map(is_missing), "")
    missing = category[(category == "") & rows["split"].isin(["train", "val"])]
    if len(missing):
        refuse_items(source, "clips of train or val without a category", missing.index, "give them one, or remove them")
    categories = sorted(set(category) - {""})
    _check_categories(source, categories)
    labels = np.full((len(rows), len(categories)), np.nan)
    codes = pd.Categorical(category, categories=categories).codes
    labels[codes >= 0] = np.eye(len(categories))[codes[codes >= 0]]
    plain = rows[[name for name in _PLAIN if name in rows]].assign(category=category)
    table = pd.concat([plain, pd.DataFrame(labels, columns=categories, index=rows.index)], axis=1)
    table.attrs["notes"] = tuple(rows.attrs.get("notes", ()))
    if others:
        names = listing(printable(name) for name in others)
        table.attrs["notes"] += (f"category as what is recognised, and these columns left out: {names}",)
    return build("table", folder, source, table, categories, categories=tuple(categories))


def _check_categories(source: Path, categories: Sequence[str]) -> None:
    """Refuses categories that can't be learnt or told apart: one alone, too many, equal names.

    Raises:
        InputError: names them.
    """
    if len(categories) < 2:
        names = repr(printable(categories[0])) if categories else "none"
        raise InputError(f"{source}: the only category is {names}; to recognise one takes two or more.")
    if len(categories) > MAX_CATEGORIES:
        raise InputError(
            f"{source}: category has {len(categories):,} different values, more than {MAX_CATEGORIES:,}; is it the "
            "column of the categories? Merge or leave out the rare ones."
        )
    reserved = [name for name in categories if name in _PLAIN or slug(name) == "emotion"]
    if reserved:
        refuse_items(source, "categories with the name of something else in the tables", reserved, "rename them")
    counts = Counter(map(slug, categories))
    alike = [repr(printable(name)) for name in categories if counts[slug(name)] > 1 or not slug(name)]
    if alike:
        problem = "categories whose names have the same letters and digits (a to z, 0 to 9), or none"
        refuse_items(source, problem, alike, "rename them, or merge them if they are one")


def _read_parquet_cells(source: Path) -> pd.DataFrame:
    """A Parquet file as text, as `read_csv_cells` gives a CSV file: (rows, columns), indexed by `row N`."""
    table = read_flat_parquet(source)
    index = [f"row {number}" for number in range(1, len(table) + 1)]
    cells = {name: table[name].cast(pa.string()).fill_null("").to_pandas() for name in table.column_names}
    return pd.DataFrame({name: column.astype(str).str.strip() for name, column in cells.items()}).set_axis(index)
