"""CSV files as spreadsheets write them: encoding, separator, decimal commas, read where there is one way to read them.

What differs from plain CSV (UTF-8, commas, decimal points) is said; what can be read in two ways is refused.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import pandas as pd

from exvo.errors import InputError
from exvo.text import normal, printable

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".ods")
"""Endings of spreadsheets' own files."""

ADVICE = "save it as 'CSV UTF-8'"

_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF8, "utf-8-sig", ""),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_WESTERN = ("cp1252", "cp1250", "cp1254", "iso8859-15", "latin-1")
_ALONE = re.compile(rb"(?<![\x80-\xff])[\x80-\xff](?=[A-Za-z])|(?<=[A-Za-z])[\x80-\xff](?![\x80-\xff])")
_HIGH = re.compile(rb"[\x80-\xff]")
_COMMA = re.compile(r"[+-]?\d*,\d*([eE][+-]?\d+)?", re.ASCII)
_POINT = re.compile(r"[+-]?\d*\.\d*([eE][+-]?\d+)?", re.ASCII)
_HALVES = re.compile(r"(?<![^,])[+-]?\d+,\d+(?![^,])", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)


class Rows(NamedTuple):
    """A CSV file's cells as stripped text in composed form (NFC).

    Attributes:
        header: the names of the columns.
        places: where each row ends, as `line N`.
        cells: of each row; not always as many as the header's.
        separator: what stands between cells, in words.
        notes: how it was read, where that differs from plain CSV: short phrases.
    """

    header: list[str]
    places: list[str]
    cells: list[list[str]]
    separator: str
    notes: tuple[str, ...]


def decode(content: bytes) -> tuple[str, str]:
    """The text of a table, and its encoding where it is another than UTF-8, else empty.

    Without a byte order mark it is UTF-8, or a Western encoding of one byte a letter, where Windows-1252, -1250, -1254,
    Latin-1 and Latin-9 agree on all letters and each stands alone beside an unaccented one: in Greek, Cyrillic and
    Asian encodings they stand in rows.

    Raises:
        ValueError: says what else it is, and what to do.
    """
    if content[:4] == b"PK\3\4" or content[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise ValueError(f"it is a spreadsheet's own file (as .xlsx): {ADVICE}")
    for mark, encoding, name in _MARKS:
        if content.startswith(mark):
            try:
                return content.decode(encoding), name
            except UnicodeDecodeError as error:
                raise ValueError(f"it begins as {name or 'UTF-8'} but is not ({error.reason}): {ADVICE}") from None
    if b"\0" in content:
        raise ValueError(f"it holds null characters, as UTF-16 without a byte order mark does: {ADVICE}")
    try:
        return content.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        wrong = error
    texts = {encoding: content.decode(encoding, "replace") for encoding in _WESTERN}
    alone = len(_ALONE.findall(content)) == len(_HIGH.findall(content))
    if alone and len(set(texts.values())) == 1:
        return texts["latin-1"], "Windows-1252"
    line = len(re.findall(rb"\r\n|\r|\n", content[: wrong.start])) + 1
    word = {encoding: _word(text, wrong.start) for encoding, text in texts.items()}
    raise ValueError(
        f"line {line} is not UTF-8, and other encodings disagree, so that it may be {word['cp1252']!r} (Windows-1252) "
        f"or {word['cp1250']!r} (Windows-1250): {ADVICE}"
    )


def _word(text: str, place: int) -> str:
    """The letters around a place, safe for a terminal."""
    ahead = re.split(r"[\s,;]", text[max(0, place - 20) : place])[-1]
    return printable(ahead + re.split(r"[\s,;]", text[place : place + 20])[0])


def parse(text: str, encoding: str = "", most: int = 1_000) -> Rows:
    """The cells of a table: the separator is the one that the header shows; empty rows and last columns are left out.

    Args:
        text: of the file.
        encoding: as `decode` gives it.
        most: columns at most.

    Raises:
        csv.Error: it is no CSV.
        ValueError: the separator can't be told, or there are too many columns.
    """
    notes = [encoding] if encoding else []
    told = re.match(r"(?i)\"?sep=(.)\"?(?=[\r\n]|$)", text)
    separator = told[1] if told else _separator(text)
    if told and separator not in SEPARATORS:
        raise ValueError(f"its first line says sep={printable(separator)}; separate its cells by commas")
    if told or separator != ",":
        notes.append(f"{SEPARATORS[separator]} between cells")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines = ((f"line {reader.line_num}", [normal(cell.strip()) for cell in row]) for row in reader if row)
    if told:
        next(lines)
    header = next((row for _, row in lines if any(row)), [])
    rows = list(lines)
    places = [where for where, row in rows if any(row)]
    empty = len(rows) - len(places)
    cells = [row for _, row in rows if any(row)]
    wide = len(header)
    while header and not header[-1]:
        header.pop()
    if any(any(row[len(header) :]) for row in cells):
        header += [""] * (wide - len(header))
    if len(header) > most:
        raise ValueError(f"it has {len(header):,} columns, more than {most:,}; leave some out")
    if len(header) == 1 and any(mark in header[0] for mark in SEPARATORS):
        raise ValueError("its header is a single cell in quotes; write lines without quotes around the whole of each")
    cut = wide > len(header)
    for row in cells:
        if len(row) > len(header) and not any(row[len(header) :]):
            del row[len(header) :]
            cut = True
    if empty:
        notes.append(f"{empty:,} empty row{'s' * (empty > 1)} left out")
    if cut:
        notes.append("empty columns at the end left out")
    return Rows(header, places, cells, SEPARATORS[separator], tuple(notes))


def _separator(text: str) -> str:
    """What splits the header; of several the one that splits all rows into as many cells, the most of them."""
    splitting = [separator for separator in SEPARATORS if next(_widths(text, separator), 0) > 1]
    if len(splitting) > 1:
        widths = {separator: set(_widths(text, separator)) for separator in splitting}
        alike = [separator for separator in splitting if len(widths[separator]) == 1]
        return max(alike, key=lambda separator: max(widths[separator]), default=",")
    return splitting[0] if splitting else ","


def _widths(text: str, separator: str) -> Iterator[int]:
    """The number of cells of each row that is not empty; 0 where the text is no CSV by this separator."""
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            if any(row):
                yield len(row)
    except csv.Error:
        yield 0


def decimal_points(columns: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Columns of numbers as text, decimal commas as points where all numbers have them; and what was done, or empty.

    A comma is a decimal one where no number of the table has a decimal point, and at least one number can't have its
    comma between thousands. Cells that are no numbers in either way stay as they are, for the caller to refuse.

    >>> decimal_points(pd.DataFrame({"a": ["0,5", "1"], "b": ["1,250", ""]}))[0].values.tolist()
    [['0.5', '1.250'], ['1', '']]
    """
    cells = pd.Series(columns.to_numpy().ravel(), dtype=str)
    cells = cells[cells.str.contains("[.,]")]
    commas = cells[cells.str.contains(",", regex=False)]
    commas = commas[commas.map(_matches(_COMMA))]
    if commas.empty or commas.map(_matches(_THOUSANDS)).all() or cells.map(_matches(_POINT)).any():
        return columns, ""
    points = {name: column.str.replace(",", ".", regex=False) for name, column in columns.items()}
    changed = {name: column.where(~column.map(_matches(_COMMA)), points[name]) for name, column in columns.items()}
    return pd.DataFrame(changed, index=columns.index), "decimal commas"


def number_advice(cells: Sequence[str]) -> str:
    """What to do about cells that are no numbers."""
    if any("," in cell and any(map(str.isdigit, cell)) for cell in cells):
        return "give finite numbers with a decimal point and nothing between thousands (1,234 may be 1.234 or 1234)"
    return "give finite numbers"


def width_advice(header: Sequence[str], rows: Sequence[Sequence[str]], separator: str) -> str:
    """What to do about rows that are longer or shorter than the header.

    Args:
        header: the names of the columns.
        rows: the cells of all rows.
        separator: what stands between cells, in words.
    """
    longer = [row for row in rows if len(row) > len(header)]
    split = any(len(_HALVES.findall(",".join(row))) >= len(row) - len(header) for row in longer)
    if separator == SEPARATORS[","] and split and not any(map(_matches(_POINT), chain.from_iterable(rows))):
        return (
            "decimal commas without quotes are the likely cause, as 0,5 is two cells: write numbers with a decimal "
            "point, or separate cells by semicolons"
        )
    return title_advice(header, rows) or f"correct these rows, with {separator} between cells"


def title_advice(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """What to do where the first line looks like a title above the header; empty where it does not."""
    below = [cell for cell in rows[0] if cell] if rows else []
    if len(below) == 1:
        below = re.split("[,;\t]", below[0])
    names = [name for name in header if name]
    numbers = [cell for cell in below if cell[:1].isdigit()]
    if len(names) > 2 or "file" in names or len(below) < 3 or len(set(below)) < len(below) or numbers:
        return ""
    return f"the first line looks like a title ({printable(' '.join(names), 50)}): the header must be the first line"


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def refuse_workbook(name: str) -> None:
    """Refuses a spreadsheet's own file by its ending.

    Raises:
        InputError: says how to save it.
    """
    if name.lower().endswith(WORKBOOKS):
        raise InputError(f"{printable(name, 200)} is a spreadsheet's own file, which is not read: {ADVICE}.")
