"""Reads CSV files as spreadsheets write them, with their encodings, separators and decimal commas.

Notes say what differs from plain CSV (UTF-8, commas, decimal points). A file that can be read in two ways is refused.
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
"""Endings of the files of spreadsheet programs, which are not read."""

ADVICE = "save it as 'CSV UTF-8'"

_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF8, "utf-8-sig", ""),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_WESTERN = ("cp1252", "cp1250", "cp1254", "iso8859-15", "latin-1")
_LONE_LETTER = re.compile(rb"(?<![\x80-\xff])[\x80-\xff](?=[A-Za-z])|(?<=[A-Za-z])[\x80-\xff](?![\x80-\xff])")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_COMMA = re.compile(r"[+-]?\d*,\d*([eE][+-]?\d+)?", re.ASCII)
_POINT = re.compile(r"[+-]?\d*\.\d*([eE][+-]?\d+)?", re.ASCII)
_SPLIT_DECIMAL = re.compile(r"(?<![^,])[+-]?\d+,\d+(?![^,])", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)


class Rows(NamedTuple):
    """The cells of a CSV file, as stripped text in composed form (NFC).

    Attributes:
        header: the names of the columns.
        places: where each row ends, as `line N`.
        cells: the cells of each row, whose number may differ from the header's.
        separator: the name of the separator, in the plural.
        notes: how the file was read, where it is not plain CSV: short phrases.
    """

    header: list[str]
    places: list[str]
    cells: list[list[str]]
    separator: str
    notes: tuple[str, ...]


def decode(content: bytes) -> tuple[str, str]:
    """The text of a table, and the name of its encoding; '' for UTF-8.

    A file without a byte order mark is UTF-8, or in a Western encoding of one byte a letter. The latter is accepted
    only where Windows-1252, -1250, -1254, Latin-1 and Latin-9 give the same text, and each letter beyond ASCII stands
    alone beside an unaccented one: in Greek, Cyrillic and Asian encodings such letters stand side by side.

    Raises:
        ValueError: it is something else; says what, and what to do.
    """
    if content[:4] == b"PK\3\4" or content[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise ValueError(f"it is the file of a spreadsheet program (as .xlsx): {ADVICE}")
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
        start = error.start
    texts = {encoding: content.decode(encoding, "replace") for encoding in _WESTERN}
    all_alone = len(_LONE_LETTER.findall(content)) == len(_NOT_ASCII.findall(content))
    if all_alone and len(set(texts.values())) == 1:
        return texts["latin-1"], "Windows-1252"
    line = len(re.findall(rb"\r\n|\r|\n", content[:start])) + 1
    word = {encoding: _word(text, start) for encoding, text in texts.items()}
    raise ValueError(
        f"line {line} is not UTF-8, and other encodings disagree, so that it may be {word['cp1252']!r} (Windows-1252) "
        f"or {word['cp1250']!r} (Windows-1250): {ADVICE}"
    )


def _word(text: str, place: int) -> str:
    """The word around a place of a text, safe for a terminal."""
    ahead = re.split(r"[\s,;]", text[max(0, place - 20) : place])[-1]
    return printable(ahead + re.split(r"[\s,;]", text[place : place + 20])[0])


def parse(text: str, encoding: str = "", max_columns: int = 1_000) -> Rows:
    """The cells of a table. The header shows the separator; empty rows, and empty columns at the end, are left out.

    Args:
        text: of the file.
        encoding: as `decode` gives it.
        max_columns: the most columns.

    Raises:
        csv.Error: it is not CSV.
        ValueError: its separator is unknown or unclear, or it has too many columns.
    """
    notes = [encoding] if encoding else []
    sep_line = re.match(r"(?i)\"?sep=(.)\"?(?=[\r\n]|$)", text)
    separator = sep_line[1] if sep_line else _separator(text)
    if sep_line and separator not in SEPARATORS:
        raise ValueError(f"its first line says sep={printable(separator)}; separate its cells by commas")
    if sep_line or separator != ",":
        notes.append(f"{SEPARATORS[separator]} between cells")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines = ((f"line {reader.line_num}", [normal(cell.strip()) for cell in row]) for row in reader if row)
    if sep_line:
        next(lines)
    header = next((row for _, row in lines if any(row)), [])
    rows = list(lines)
    places = [where for where, row in rows if any(row)]
    empty = len(rows) - len(places)
    cells = [row for _, row in rows if any(row)]
    width = len(header)
    while header and not header[-1]:
        header.pop()
    if any(any(row[len(header) :]) for row in cells):
        header += [""] * (width - len(header))
    if len(header) > max_columns:
        raise ValueError(f"it has {len(header):,} columns, more than {max_columns:,}; leave some out")
    if len(header) == 1 and any(mark in header[0] for mark in SEPARATORS):
        raise ValueError("its header is a single cell in quotes; write lines without quotes around the whole of each")
    columns_cut = width > len(header)
    for row in cells:
        if len(row) > len(header) and not any(row[len(header) :]):
            del row[len(header) :]
            columns_cut = True
    if empty:
        notes.append(f"{empty:,} empty row{'s' * (empty > 1)} left out")
    if columns_cut:
        notes.append("empty columns at the end left out")
    return Rows(header, places, cells, SEPARATORS[separator], tuple(notes))


def _separator(text: str) -> str:
    """The character that splits the header.

    Of several it is the one that gives all rows the same number of cells; of several such, the one that gives the most.
    """
    splitting = [separator for separator in SEPARATORS if next(_widths(text, separator), 0) > 1]
    if len(splitting) > 1:
        widths = {separator: set(_widths(text, separator)) for separator in splitting}
        regular = [separator for separator in splitting if len(widths[separator]) == 1]
        return max(regular, key=lambda separator: max(widths[separator]), default=",")
    return splitting[0] if splitting else ","


def _widths(text: str, separator: str) -> Iterator[int]:
    """The number of cells of each row that is not empty; 0 at the end where the text is no CSV with this separator."""
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            if any(row):
                yield len(row)
    except csv.Error:
        yield 0


def decimal_points(columns: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Columns of numbers, as text, with decimal points in place of decimal commas; and a note on that, '' without any.

    Commas are decimal ones where no number of the table has a decimal point, and the comma of at least one number can't
    separate thousands. Cells that are not numbers either way stay as they are, for the caller to refuse.

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
    """What to do about cells that are not numbers."""
    if any("," in cell and any(map(str.isdigit, cell)) for cell in cells):
        return "give finite numbers with a decimal point and nothing between thousands (1,234 may be 1.234 or 1234)"
    return "give finite numbers"


def width_advice(header: Sequence[str], rows: Sequence[Sequence[str]], separator: str) -> str:
    """What to do about rows that are longer or shorter than the header.

    Args:
        header: the names of the columns.
        rows: the cells of all rows.
        separator: its name, as in `Rows`.
    """
    longer = [row for row in rows if len(row) > len(header)]
    split = any(len(_SPLIT_DECIMAL.findall(",".join(row))) >= len(row) - len(header) for row in longer)
    if separator == SEPARATORS[","] and split and not any(map(_matches(_POINT), chain.from_iterable(rows))):
        return (
            "decimal commas without quotes are the likely cause, as 0,5 is two cells: write numbers with a decimal "
            "point, or separate cells by semicolons"
        )
    return title_advice(header, rows) or f"correct these rows, with {separator} between cells"


def title_advice(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """What to do about a first line that looks like a title above the header; '' where it does not look so."""
    below = [cell for cell in rows[0] if cell] if rows else []
    if len(below) == 1:
        below = re.split("[,;\t]", below[0])
    names = [name for name in header if name]
    numbers = [cell for cell in below if cell[:1].isdigit()]
    if len(names) > 2 or "file" in names or len(below) < 3 or len(set(below)) < len(below) or numbers:
        return ""
    return f"the first line looks like a title ({printable(' '.join(names), 50)}): the header must be the first line"


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    """A function that says whether a pattern matches the whole of a text."""
    return lambda text: pattern.fullmatch(text) is not None


def refuse_workbook(name: str) -> None:
    """Refuses the file of a spreadsheet program, by its ending.

    Raises:
        InputError: says how to save it.
    """
    if name.lower().endswith(WORKBOOKS):
        raise InputError(f"{printable(name, 200)} is the file of a spreadsheet program, which is not read: {ADVICE}.")
