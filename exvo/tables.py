"""Tables from outside, read within limits: CSV, Parquet, and the predictions table."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Never

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from exvo.config import SPLITS
from exvo.errors import InputError
from exvo.spreadsheets import WORKBOOKS, decode, parse, refuse_workbook, title_advice, width_advice
from exvo.text import LONGEST_NAME, is_name, listing, normal, printable, reason


def refuse(source: Path, found: str, items: Iterable[object], remedy: str) -> Never:
    """Raise the InputError of a corpus: its file, what was found, where, and what to do."""
    raise InputError(f"{source}: {found}: {listing(printable(str(item), 200) for item in items)}; {remedy}.")


def read_csv(source: Path, layout: str) -> pd.DataFrame:
    """Read a CSV file as stripped text in composed form (NFC), (rows, columns), indexed by `line N`.

    It may be as a spreadsheet writes it (`exvo/spreadsheets.py`); `attrs["notes"]` then holds how it was read.

    Raises InputError where the file is missing (`layout` then says what the folder should hold), too large, is not
    CSV that can be read in one way, has a column without a name or twice, or rows that are longer or shorter than the
    header.
    """
    if not os.path.isfile(source):
        beside = [str(source.with_suffix(ending)) for ending in WORKBOOKS]
        refuse_workbook(next(filter(os.path.isfile, beside), ""))
        what = "a folder, not a file" if os.path.isdir(source) else "no file" if os.path.exists(source) else "not there"
        raise InputError(f"{printable(str(source), LONGEST_NAME)} is {what}: {layout}.")
    refuse_workbook(str(source))
    try:
        if source.stat().st_size > MAX_CSV:
            raise InputError(f"{source} is larger than {MAX_CSV // 2**20} MiB; is it the table of the clips?")
        text, encoding = decode(source.read_bytes())
        table = parse(text, encoding, MAX_COLUMNS)
    except csv.Error as error:
        raise InputError(f"{source} is not a CSV file in UTF-8 ({reason(error)}); save it as one.") from error
    except OSError as error:
        raise InputError(f"{source} is not readable ({error.strerror}); look at its permissions.") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{source} can't be read as CSV: {error}.") from None
    header, rows = table.header, list(zip(table.places, table.cells, strict=True))
    unnamed = [f"column {place}" for place, name in enumerate(header, 1) if not name]
    if unnamed:
        remedy = title_advice(header, table.cells) or "name or remove them (pandas: to_csv(index=False))"
        refuse(source, "columns without a name", unnamed, remedy)
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        refuse(source, "columns given more than once", twice, "keep one of each")
    ragged = {where: row for where, row in rows if len(row) != len(header)}
    if ragged:
        remedy = width_advice(header, table.cells, table.separator)
        places = [f"{where} ({len(row)})" for where, row in ragged.items()]
        refuse(source, f"rows without the header's {len(header)} fields", places, remedy)
    frame = pd.DataFrame(table.cells, columns=header, index=table.places, dtype=str)
    frame.attrs["notes"] = table.notes
    return frame


def require(source: Path, rows: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise InputError where columns are missing or the table has no rows."""
    missing = [column for column in columns if column not in rows.columns]
    if missing:
        beside = listing(printable(name) for name in rows.columns)
        found = f"columns missing beside {beside}" if len(rows.columns) else "columns missing"
        header = list(map(str, rows.columns))
        remedy = title_advice(header, [list(map(str, row)) for row in rows.head(1).to_numpy()]) or "add them"
        refuse(source, found, missing, remedy)
    if rows.empty:
        raise InputError(f"{source} holds no clips; it needs at least two for train and two for val.")


MAX_COLUMNS = 1_000
"""Of a table: a corpus' targets each take several metrics, and MLflow's pages stall over thousands of those."""

MAX_BYTES = 256 * 2**20
"""Of a table in memory: the predictions of 32,130 clips in 30 categories take 20 MiB. Decoding a page of Parquet, which
alone says how long it will be, takes up to 2 GiB more, the format's own limit."""

TEXTS = ("category", "country", "speaker")
"""What is predicted by name; all else is numbers."""

MAX_CSV = 64 * 2**20
"""Bytes of a CSV file, of which one takes up to thirty in memory; HUME-VB's table has 9 million."""

ROWS = 4_096  # decoded at a time


def read_parquet(path: Path, name: str = "") -> pa.Table:
    """A table of numbers, texts (NFC) and truth values, without what pandas may have written beside them.

    It is decoded in parts, because a short file may hold the same long text millions of times.

    Args:
        path: the file.
        name: what a sentence calls it; empty: the path.

    Raises:
        InputError: it is absent or damaged, has other columns than flat ones with different names, or is too large.
    """
    name = name or str(path)
    try:
        source = os.fsencode(path)  # a name that is not UTF-8 too
        with pa.OSFile(source) as stream, pq.ParquetFile(stream, pre_buffer=False) as file:
            about = file.metadata
            groups = [about.row_group(number) for number in range(about.num_row_groups)]
            if any(group.total_byte_size > MAX_BYTES for group in groups):
                raise InputError(f"{name} takes more than {MAX_BYTES // 2**20} MiB in memory; make it smaller.")
            schema = plain_schema(name, file.schema_arrow)
            repeated = [field.name for field in schema if pa.types.is_string(field.type)]
        with (
            pa.OSFile(source) as stream,
            pq.ParquetFile(stream, pre_buffer=False, read_dictionary=repeated) as file,
        ):
            parts, size = [], 0
            for batch in file.iter_batches(ROWS, use_threads=False):
                size += sum(plain_bytes(column) for column in batch.columns)
                if size > MAX_BYTES:
                    raise InputError(f"{name} takes more than {MAX_BYTES // 2**20} MiB in memory; make it smaller.")
                batch.validate(full=True)  # texts are UTF-8
                parts.append(compose(batch.cast(schema)))
            return pa.Table.from_batches(parts, parts[0].schema if parts else compose(schema.empty_table()).schema)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise InputError(f"{name} can't be read as Parquet ({reason(error)}); write it again.") from None


def plain_schema(name: str, schema: pa.Schema) -> pa.Schema:
    """The columns with texts as plain texts, whether or not they were written as categories.

    Raises:
        InputError: columns without a name, with the same or of another kind, or too many.
    """
    names = [normal(name) for name in schema.names]
    if len(names) > MAX_COLUMNS:
        raise InputError(f"{name} has {len(names):,} columns, more than {MAX_COLUMNS:,}; leave some out.")
    bad = [column for column in names if not column or not is_name(column)]
    if bad or len(set(names)) < len(names):
        found = f"a column named {printable(bad[0])!r}" if bad else "columns of the same name"
        raise InputError(f"{name} has {found}; give each column a name of its own.")
    fields = []
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            kind = pa.string()
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            told = printable(str(kind), 100)
            raise InputError(f"{name}: the column {printable(field.name)} is of {told}; save numbers or text.")
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)


def compose(batch: pa.RecordBatch | pa.Table) -> pa.RecordBatch | pa.Table:
    """Columns' names and texts in composed form (NFC), which plain ASCII has already."""
    for place, column in enumerate(batch.columns):
        if pa.types.is_string(column.type) and not pc.all(pc.string_is_ascii(column)).as_py():
            texts = [None if text is None else normal(text) for text in column.to_pylist()]
            batch = batch.set_column(place, batch.schema.field(place), pa.array(texts, pa.string()))
    return batch.rename_columns([normal(name) for name in batch.schema.names])


def plain_bytes(column: pa.Array) -> int:
    """Bytes of a column once its categories are written out."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
    return int(8 * len(column) + (pc.sum(lengths).as_py() or 0))


def check_predictions(table: pa.Table, name: str, remedy: str = "evaluate the run again") -> pd.DataFrame:
    """A predictions table (see `Task.table`), checked.

    Args:
        table: as `read_parquet` gives it.
        name: of the table, for a sentence.
        remedy: what to do about it, for the same.

    Raises:
        InputError: it lacks columns, has a clip twice, or columns hold what they can't.
    """
    kinds = {field.name: field.type for field in table.schema}
    truths = {column.removeprefix("truth.") for column in kinds if column.startswith("truth.")}
    answers = {column.removeprefix("prediction.") for column in kinds if column.startswith("prediction.")}
    missing = [column for column in ("file", "split", "speaker", "scored") if column not in kinds]
    missing += [f"prediction.{label}" for label in sorted(truths - answers)]
    missing += [f"truth.{label}" for label in sorted(answers - truths)] or ["truth.<target>"] * (not truths)
    if missing:
        raise InputError(f"{name} has no column {printable(missing[0])}: {remedy}.")
    for column, kind in kinds.items():
        text = column in ("file", "split", "speaker", "country")
        wrong = (text and not pa.types.is_string(kind)) or (column == "scored" and not pa.types.is_boolean(kind))
        if wrong or (table[column].null_count and (text or column == "scored" or pa.types.is_string(kind))):
            raise InputError(f"{name}: the column {printable(column)} has gaps or is of {kind}: {remedy}.")
    for label in sorted(truths):
        pair = [kinds[f"{side}.{label}"] for side in ("truth", "prediction")]
        texts = [pa.types.is_string(kind) for kind in pair]
        if texts not in ([False, False], [label in TEXTS] * 2):
            raise InputError(
                f"{name}: truth and prediction of {printable(label)} are of {pair[0]} and {pair[1]}: {remedy}."
            )
    frame: pd.DataFrame = table.to_pandas()
    strange = frame.index[~frame["split"].isin(SPLITS) | frame["file"].duplicated()]
    if len(strange):
        raise InputError(f"{name}: row {strange[0] + 1} is a clip that was there before, or of no split: {remedy}.")
    for label in sorted(truths):
        for column in (f"truth.{label}", f"prediction.{label}"):
            if pd.api.types.is_numeric_dtype(frame[column]):
                frame[column] = values = frame[column].astype(np.float64)
                wrong = values.abs() > np.finfo(np.float32).max
                if wrong.any() or (column.startswith("p") and values.isna().any()):
                    raise InputError(
                        f"{name}: the column {printable(column)} holds numbers that are not finite: {remedy}."
                    )
    return frame
