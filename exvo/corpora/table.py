"""Your own corpus: a table of clips, be it `clips.csv` in a folder or another's, and the audio files that it names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from exvo.config import SPLITS
from exvo.corpora.base import ANY_NUMBER, Corpus, build, is_missing
from exvo.corpora.categories import build_categories
from exvo.corpora.columns import OURS, local_paths, parse_columns, read_splits, rename, require_names
from exvo.corpora.joined import CORPUS, Table, join, split_each, with_names
from exvo.corpora.selection import EVERYTHING, Selection, select
from exvo.corpora.splits import ALL_SCORED, BY_CLIP, BY_SPEAKER, QUOTAS, split_by_speaker
from exvo.errors import InputError
from exvo.files import listed
from exvo.spreadsheets import WORKBOOKS, refuse_workbook
from exvo.tables import read_csv_cells, read_flat_parquet, refuse_items, require_columns
from exvo.text import LONGEST_NAME, listing, printable

_LAYOUT = (
    "the folder of a table corpus holds clips.csv or clips.parquet with the columns file, speaker and category, or one "
    "numeric column a target, and split if you have one"
)


def read(folder: Path, selection: Selection = EVERYTHING, scored_only: bool = False) -> Corpus:
    """Reads a table of clips, from CSV or from Parquet; both give the same corpus.

    Columns: `file`, `speaker`, `split` (train, val, test), `age` (years) and `country`, all but `file` optional; then
    either `category`, of which a clip has exactly one, or numeric targets. Beside `category`, and beside targets that
    `selection.columns` names, further columns are left out, and `notes` says so. Without `split`, speakers are dealt to
    the splits, see `splits.split_by_speaker`; without speakers, clips are.

    Args:
        folder: that holds clips.csv or clips.parquet; or the file of the table; or several with commas, which become
            one corpus, see `joined.join`.
        selection: the names of its columns, where its audio is, and what of it is used.
        scored_only: whether nothing is trained on it: all clips of a table without splits are then its test clips.

    Raises:
        InputError: the folder holds neither file or both, or the table breaks a rule; names the rows.
    """
    named = parse_columns(selection.columns)
    tables = [_read_rows(Path(path), selection, named) for path in listed(str(folder))]
    table = tables[0] if len(tables) == 1 else join(tables)
    theirs = {column: ours for ours, column in named.items() if column}
    rows, selected = select(table.source, table.rows, selection, theirs)
    if table.roots:
        rows = rows.drop(columns=CORPUS)
    targets = [name for name in named if name not in OURS] or [name for name in rows.columns if name not in OURS]
    unsplit = scored_only and "split" not in rows
    corpus = _build(table, rows.assign(split="test") if unsplit else rows, targets, named)
    corpus = replace(corpus, selected=tuple(selected), assigned=ALL_SCORED if unsplit else corpus.assigned)
    return with_names(corpus, table.roots)


def _read_rows(folder: Path, selection: Selection, named: dict[str, str]) -> Table:
    """One table under our names; the arguments are those of `read`, and `named` is what the user has named."""
    source = _source(folder)
    root = Path(selection.root) if selection.root else source.parent
    if not os.path.isdir(root):
        raise InputError(f"root={printable(selection.root, LONGEST_NAME)} is no folder; give that of the audio files.")
    rows = _read_parquet_cells(source) if source.suffix == ".parquet" else read_csv_cells(source, _LAYOUT)
    notes = list(rows.attrs.get("notes", ()))
    rows = rename(source, rows, named)
    require_names(source, rows, named)
    require_columns(source, rows, ["file"])
    rows = rows if "speaker" in rows else rows.assign(speaker="")
    rows = rows.assign(file=local_paths(source, rows["file"], root, bool(selection.root) or source == folder))
    if "split" in rows:
        rows, said = read_splits(source, rows, selection.splits)
        notes += said
    elif selection.splits:
        raise InputError(f"{source} has no column split, so splits={printable(selection.splits, 80)} means nothing.")
    return Table(source, root, rows, notes)


def _build(table: Table, rows: pd.DataFrame, targets: Sequence[str], named: Mapping[str, str]) -> Corpus:
    """The corpus of a table under our names.

    Args:
        table: the whole.
        rows: of the clips that are used.
        targets: the columns that hold numeric targets where there is no category.
        named: what the user has named, see `columns.parse_columns`.

    Raises:
        InputError: the table breaks a rule; names the rows.
    """
    source, root, notes = table.source, table.root, table.notes
    has_category = "category" in rows
    if not targets and not has_category:
        beside = listing(printable(name) for name in rows.columns)
        raise InputError(
            f"{source} has no target; add the column category, or at least one numeric column, beside {beside}."
        )
    assigned = "" if "split" in rows else BY_SPEAKER if (rows["speaker"] != "").any() else BY_CLIP
    if assigned:
        rows = rows.assign(split=split_each(rows, table, _splits))
    others = targets if has_category else [name for name in rows.columns if name not in (*OURS, *targets)]
    if others:
        learnt = "category as what is recognised" if has_category else f"{listing(targets)} as what is learnt"
        left = listing(printable(name) for name in others)
        notes = [*notes, f"{learnt}, and these columns left out: {left}"]
    rows.attrs["notes"] = tuple(notes)
    if has_category:
        corpus = build_categories("table", root, source, rows)
    else:
        _refuse_texts(source, rows, targets)
        corpus = build("table", root, source, rows, targets, limits=ANY_NUMBER)
    return replace(corpus, assigned=assigned)


def _source(folder: Path) -> Path:
    """The file of the table: the one that is given, or the one in the folder.

    Raises:
        InputError: there is none, there are two, or it is of another kind.
    """
    if os.path.isfile(folder):
        refuse_workbook(str(folder))
        return folder
    sources = [folder / name for name in ("clips.csv", "clips.parquet") if os.path.isfile(folder / name)]
    if not sources:
        for ending in WORKBOOKS:
            if os.path.isfile(folder / f"clips{ending}"):
                refuse_workbook(str(folder / f"clips{ending}"))
    if len(sources) != 1:
        content = "both clips.csv and clips.parquet" if sources else "neither clips.csv nor clips.parquet"
        tables = sorted(name for name in os.listdir(folder) if name.endswith((".csv", ".tsv", ".parquet")))
        other = f"; a table of another name is given itself, as data={folder / tables[0]}" if tables else ""
        raise InputError(f"{folder} holds {content}: {_LAYOUT}; give exactly one{other}.")
    return sources[0]


def _refuse_texts(source: Path, rows: pd.DataFrame, targets: Sequence[str]) -> None:
    """Refuses columns that hold text where a target would hold numbers.

    Raises:
        InputError: says what they may be instead.
    """
    for name in targets:
        cells = rows[name][~rows[name].map(is_missing)]
        if cells.empty or cells.map(_looks_like_number).any():
            continue  # `build` names the cells that are no numbers
        examples = listing([repr(printable(text)) for text in dict.fromkeys(cells)], 3)
        raise InputError(
            f"{source}: {printable(name)} holds text ({examples}); if these are exclusive categories, give "
            f"columns=category:{printable(name)}, else name the numeric targets, as in columns=<name>:<column>."
        )


def _looks_like_number(cell: str) -> bool:
    """Whether a cell has digits and no letters but e.

    >>> [_looks_like_number(cell) for cell in ("0.5", "1,234.5", "1e3", "joy", "E01x", "")]
    [True, True, True, False, False, False]
    """
    return bool(re.search(r"\d", cell)) and not re.search(r"[^\W\d_eE]", cell)


def _splits(source: Path, rows: pd.DataFrame) -> np.ndarray:
    """The splits of a table that has none, (clips,): by speaker, or where no speaker is known by clip.

    Raises:
        InputError: some clips have no speaker, or there are fewer than three speakers.
    """
    speakers = rows["speaker"]
    if (speakers == "").all():
        return split_by_speaker(rows["file"])
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


def _read_parquet_cells(source: Path) -> pd.DataFrame:
    """A Parquet file as text, as `read_csv_cells` gives a CSV file: (rows, columns), indexed by `row N`."""
    table = read_flat_parquet(source)
    index = [f"row {number}" for number in range(1, len(table) + 1)]
    cells = {name: table[name].cast(pa.string()).fill_null("").to_pandas() for name in table.column_names}
    return pd.DataFrame({name: column.astype(str).str.strip() for name, column in cells.items()}).set_axis(index)
