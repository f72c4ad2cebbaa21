"""Reads tables from outside, within limits: CSV, Parquet, and the predictions table."""

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

MAX_COLUMNS = 1_000
"""Columns of a table: each target of a corpus has several metrics, and MLflow's pages stall over thousands of them."""

MAX_PREDICTION_COLUMNS = 2 * MAX_COLUMNS + 20
"""Columns of a predictions table, which has two for each target."""

MAX_CSV = 64 * 2**20
"""Bytes of a CSV file, each of which takes up to thirty in memory; HUME-VB's table has 9 million."""

MAX_BYTES = 256 * 2**20
"""Bytes of a Parquet table in memory; the predictions of 32,130 clips in 30 categories take 20 MiB. Decoding takes up
to 2 GiB more: only a page that is decoded says how long it is, and 2 GiB is the format's limit."""

BATCH_ROWS = 4_096
"""Rows of a Parquet table that are decoded at a time."""

TEXTS = ("category", "country", "speaker")
"""The targets that are texts in a predictions table; all others are numbers."""


def read_csv_cells(source: Path, layout: str) -> pd.DataFrame:
    """Reads a CSV file, be it plain or as spreadsheets write it (`exvo/spreadsheets.py`).

    Args:
        source: the file.
        layout: what the folder should hold, for the sentence about a missing file.

    Returns:
        The cells as stripped text in composed form (NFC), (rows, columns), indexed by `line N`. `attrs["notes"]` says
        how the file was read, where it is not plain CSV.

    Raises:
        InputError: the file is missing or too large, can't be read as CSV in one way alone, has a column without a name
            or twice, or rows that are longer or shorter than the header.
    """
    if not os.path.isfile(source):
        beside = [str(source.with_suffix(ending)) for ending in WORKBOOKS]
        refuse_workbook(next(filter(os.path.isfile, beside), ""))
        state = (
            "a folder, not a file" if os.path.isdir(source) else "no file" if os.path.exists(source) else "not there"
        )
        raise InputError(f"{printable(str(source), LONGEST_NAME)} is {state}: {layout}.")
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
        refuse_items(source, "columns without a name", unnamed, remedy)
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        refuse_items(source, "columns given more than once", twice, "keep one of each")
    ragged = {where: row for where, row in rows if len(row) != len(header)}
    if ragged:
        remedy = width_advice(header, table.cells, table.separator)
        places = [f"{where} ({len(row)})" for where, row in ragged.items()]
        refuse_items(source, f"rows without the header's {len(header)} fields", places, remedy)
    frame = pd.DataFrame(table.cells, columns=header, index=table.places, dtype=str)
    frame.attrs["notes"] = table.notes
    return frame


def require_columns(source: Path, rows: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuses a table that lacks columns, or has no rows.

    Args:
        source: its file.
        rows: the table, (rows, columns).
        columns: that it must have.

    Raises:
        InputError: names the missing columns.
    """
    missing = [column for column in columns if column not in rows.columns]
    if missing:
        beside = listing(printable(name) for name in rows.columns)
        problem = f"columns missing beside {beside}" if len(rows.columns) else "columns missing"
        header = list(map(str, rows.columns))
        remedy = title_advice(header, [list(map(str, row)) for row in rows.head(1).to_numpy()]) or "add them"
        refuse_items(source, problem, missing, remedy)
    if rows.empty:
        raise InputError(f"{source} holds no clips; it needs at least two for train and two for val.")


def refuse_items(source: Path, problem: str, items: Iterable[object], remedy: str) -> Never:
    """Refuses a table, or a folder, because of some of its rows, columns or files.

    Args:
        source: the file or folder.
        problem: what is wrong with the items, as a noun phrase.
        items: the rows, columns or files, as a person finds them.
        remedy: what to do, in the imperative.

    Raises:
        InputError: always; says all four.
    """
    raise InputError(f"{source}: {problem}: {listing(printable(str(item), 200) for item in items)}; {remedy}.")


def read_flat_parquet(path: Path, name: str = "", most: int = MAX_COLUMNS) -> pa.Table:
    """Reads a Parquet file whose columns are flat: numbers, texts or truth values.

    It is decoded in parts, because a short file may hold the same long text millions of times. What pandas may have
    written beside the columns is ignored.

    Args:
        path: the file.
        name: of the file in sentences; empty: the path.
        most: columns.

    Returns:
        The table; texts and names of columns are in composed form (NFC).

    Raises:
        InputError: it is absent or damaged, has columns that are not flat or have the same name, or is too large.
    """
    name = name or str(path)
    try:
        source = os.fsencode(path)  # as bytes: it may not be UTF-8
        with pa.OSFile(source) as stream, pq.ParquetFile(stream, pre_buffer=False) as file:
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            if any(group.total_byte_size > MAX_BYTES for group in groups):
                raise InputError(f"{name} takes more than {MAX_BYTES // 2**20} MiB in memory; make it smaller.")
            schema = plain_schema(name, file.schema_arrow, most)
            repeated = [field.name for field in schema if pa.types.is_string(field.type)]
        with (
            pa.OSFile(source) as stream,
            pq.ParquetFile(stream, pre_buffer=False, read_dictionary=repeated) as file,
        ):
            parts, size = [], 0
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
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


def plain_schema(name: str, schema: pa.Schema, most: int = MAX_COLUMNS) -> pa.Schema:
    """The columns of a Parquet file, each of texts as plain texts, even if it was written as categories.

    Args:
        name: of the file, for sentences.
        schema: its columns, as written.
        most: columns that it may have.

    Raises:
        InputError: a column has no name, the name of another one, or a type that is not flat; or there are too many.
    """
    names = [normal(name) for name in schema.names]
    if len(names) > most:
        raise InputError(f"{name} has {len(names):,} columns, more than {most:,}; leave some out.")
    wrong = [column for column in names if not column or not is_name(column)]
    if wrong or len(set(names)) < len(names):
        problem = f"a column named {printable(wrong[0])!r}" if wrong else "columns of the same name"
        raise InputError(f"{name} has {problem}; give each column a name of its own.")
    fields = []
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            kind = pa.string()
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            kind_name = printable(str(kind), 100)
            raise InputError(f"{name}: the column {printable(field.name)} is of {kind_name}; save numbers or text.")
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)


def compose(batch: pa.RecordBatch | pa.Table) -> pa.RecordBatch | pa.Table:
    """The same columns, their names and texts in composed form (NFC)."""
    for place, column in enumerate(batch.columns):
        if pa.types.is_string(column.type) and not pc.all(pc.string_is_ascii(column)).as_py():
            texts = [None if text is None else normal(text) for text in column.to_pylist()]
            batch = batch.set_column(place, batch.schema.field(place), pa.array(texts, pa.string()))
    return batch.rename_columns([normal(name) for name in batch.schema.names])


def plain_bytes(column: pa.Array) -> int:
    """Bytes of a column once each text of a category is written out."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
    return int(8 * len(column) + (pc.sum(lengths).as_py() or 0))


def validated_predictions(table: pa.Table, name: str, remedy: str = "evaluate the run again") -> pd.DataFrame:
    """A predictions table (see `Task.table`) as a frame, once it has passed all checks.

    Args:
        table: as `read_flat_parquet` gives it.
        name: of the table, for sentences.
        remedy: what to do, for sentences.

    Raises:
        InputError: it lacks columns, has a clip twice, or a column has gaps, a wrong type or NaN or infinity.
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
    for wrong_rows, problem in (
        (frame["file"].duplicated(), "has the same file as an earlier row"),
        (~frame["split"].isin(SPLITS), "has an unknown split"),
    ):
        if wrong_rows.any():
            raise InputError(f"{name}: row {int(wrong_rows.argmax()) + 1} {problem}: {remedy}.")
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
