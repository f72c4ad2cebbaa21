"""Your own corpus: a folder with `clips.csv` or `clips.parquet` and the audio files that it names."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa

from exvo.corpora.base import ANY_NUMBER, Corpus, build
from exvo.errors import InputError
from exvo.spreadsheets import WORKBOOKS, refuse_workbook
from exvo.tables import read_csv_cells, read_flat_parquet
from exvo.text import listing, printable

_PLAIN = ("file", "split", "speaker", "age", "country")
_LAYOUT = (
    "the folder of a table corpus holds clips.csv or clips.parquet with the columns file, split, speaker and "
    "one numeric column a target"
)


def read(folder: Path) -> Corpus:
    """Reads a table of clips, from CSV or from Parquet; both give the same corpus.

    Columns: `file`, `split` (train, val, test), `speaker`, optionally `age` (years) and `country`; all other columns
    are targets and must be numeric.

    Raises:
        InputError: the folder holds neither file or both, or the table breaks a rule; names the rows.
    """
    sources = [folder / name for name in ("clips.csv", "clips.parquet") if os.path.isfile(folder / name)]
    if not sources:
        for ending in WORKBOOKS:
            if os.path.isfile(folder / f"clips{ending}"):
                refuse_workbook(str(folder / f"clips{ending}"))
    if len(sources) != 1:
        content = "both clips.csv and clips.parquet" if sources else "neither clips.csv nor clips.parquet"
        raise InputError(f"{folder} holds {content}: {_LAYOUT}; give exactly one.")
    source = sources[0]
    rows = read_csv_cells(source, _LAYOUT) if source.suffix == ".csv" else _read_parquet_cells(source)
    targets = [column for column in rows.columns if column not in _PLAIN]
    if not targets:
        beside = listing(printable(name) for name in rows.columns)
        raise InputError(f"{source} has no target; add at least one numeric column beside {beside}.")
    return build("table", folder, source, rows, targets, limits=ANY_NUMBER)


def _read_parquet_cells(source: Path) -> pd.DataFrame:
    """A Parquet file as text, as `read_csv_cells` gives a CSV file: (rows, columns), indexed by `row N`."""
    table = read_flat_parquet(source)
    index = [f"row {number}" for number in range(1, len(table) + 1)]
    cells = {name: table[name].cast(pa.string()).fill_null("").to_pandas() for name in table.column_names}
    return pd.DataFrame({name: column.astype(str).str.strip() for name, column in cells.items()}).set_axis(index)
