"""The small languages of options about a corpus: `new=old+old` and `column>=3`, several with commas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from exvo.errors import InputError
from exvo.text import LONGEST_NAME, listing, nearest, normal, printable

ESCAPED = "\\, \\+ \\= and \\| stand for the sign itself"

OPERATORS = ("!=", ">=", "<=", "=", ">", "<")

_CONDITION = re.compile(r"((?:\\.|[^\\=<>!])+)(!=|>=|<=|=|>|<)(.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class Condition(NamedTuple):
    """One condition of `where`, on a column.

    Attributes:
        column: its name.
        operator: one of `OPERATORS`.
        values: with = and != any of them is meant; with the others there is one, a number.
        text: as it was given, fit for a terminal.
    """

    column: str
    operator: str
    values: tuple[str, ...]
    text: str


def parts(text: str, mark: str) -> list[str]:
    """A text divided at a mark, unless a backslash stands before it; backslashes stay.

    >>> parts("a,b\\\\,c", ",")
    ['a', 'b\\\\,c']
    """
    found = re.split(rf"(?<!\\){re.escape(mark)}", text)
    return [part.strip() for part in found]


def plain(text: str) -> str:
    """A name without the backslashes before marks, in composed form."""
    return normal(re.sub(r"\\([,+=|:<>!])", r"\1", text.strip()))


def parse_merges(option: str, text: str) -> dict[str, str]:
    """What each old name becomes, '' where its clips are left out.

    >>> parse_merges("labels", "happiness=joy+amusement,boredom=")
    {'joy': 'happiness', 'amusement': 'happiness', 'boredom': ''}

    Raises:
        InputError: a rule has no =, or a name has two rules.
    """
    merges: dict[str, str] = {}
    for rule in filter(None, parts(text, ",")):
        new, *olds = parts(rule, "=")
        if len(olds) != 1 or not new:
            raise InputError(
                f"{option}: {printable(rule, 80)} is no rule; write new=old1+old2, or old= to leave its clips out "
                f"({ESCAPED})."
            )
        pairs = [(plain(old), plain(new)) for old in parts(olds[0], "+")] if olds[0] else [(plain(new), "")]
        for old, becomes in pairs:
            if not old or old in merges:
                problem = (
                    f"{printable(old, 80)!r} is named twice" if old else f"{printable(rule, 80)} has an empty name"
                )
                raise InputError(f"{option}: {problem}; give each name one rule.")
            merges[old] = becomes
    return merges


def parse_conditions(text: str) -> list[Condition]:
    """The conditions of `where`, all of which must hold.

    >>> [tuple(condition)[:3] for condition in parse_conditions("sex=female,age>=18,country=Chile|Peru")]
    [('sex', '=', ('female',)), ('age', '>=', ('18',)), ('country', '=', ('Chile', 'Peru'))]

    Raises:
        InputError: one can't be read.
    """
    conditions = []
    for rule in filter(None, parts(text, ",")):
        match = _CONDITION.fullmatch(rule)
        values = tuple(plain(value) for value in parts(match[3], "|")) if match else ()
        if match is None or (match[2] not in ("=", "!=") and not (len(values) == 1 and is_number(values[0]))):
            raise InputError(
                f"where: {printable(rule, 80)} is no condition; write column=value, column=value|value, column!=value, "
                f"or with a number column>=3, <=, > or < ({ESCAPED})."
            )
        conditions.append(Condition(plain(match[1]), match[2], values, printable(rule, 200)))
    return conditions


def holds(condition: Condition, column: pd.Series) -> pd.Series:
    """Whether a condition holds in each row of its column, of texts or numbers; an empty cell is no number.

    Raises:
        InputError: numbers are to be compared, and a cell is none.
    """
    cells = column.map(lambda cell: "" if pd.isna(cell) else str(cell))
    if condition.operator in ("=", "!="):
        wanted = {_key(value) for value in condition.values}
        found = cells.map(lambda cell: _key(cell) in wanted)
        return found if condition.operator == "=" else ~found
    wrong = [repr(printable(cell)) for cell in dict.fromkeys(cells) if cell and not is_number(cell)]
    if wrong:
        raise InputError(
            f"where: {condition.text} compares numbers, but {printable(condition.column)} holds "
            f"{listing(wrong, 3)}; compare it by = or !=."
        )
    numbers, bound = pd.to_numeric(cells, errors="coerce"), float(condition.values[0])
    compared = {">=": numbers >= bound, "<=": numbers <= bound, ">": numbers > bound, "<": numbers < bound}
    return compared[condition.operator]


def require_known(option: str, names: Sequence[str], known: Sequence[str], what: str) -> None:
    """Refuses names of an option that the corpus does not have.

    Raises:
        InputError: names the first, and those that are near.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        more = f" (nor {listing(map(repr, map(printable, unknown[1:])), 3)})" if len(unknown) > 1 else ""
        some = [printable(name, LONGEST_NAME) for name in known]
        near = nearest(unknown[0], some) if len(some) <= 40 else f"; known are {listing(some, 20)}."
        raise InputError(f"{option}: the corpus has no {what} {printable(unknown[0])!r}{more}{near}")


def is_number(text: str) -> bool:
    """Whether a text is a number with a decimal point."""
    return _NUMBER.fullmatch(text) is not None


def _key(text: str) -> str | float:
    """What is equal for equal values: a number, however it is written, or the text."""
    return float(text) if is_number(text) else text
