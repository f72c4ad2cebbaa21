"""Rules by which values that are not trusted are checked: those of a model file's header."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from exvo.errors import InputError
from exvo.text import is_name, printable

Rules = Mapping[str, Callable[[Any], bool]]
"""For each name that an object must have: whether a value may stand there."""


def check_value(name: str, value: Any, is_right: Callable[[Any], bool]) -> None:
    """Refuses a wrong value.

    Raises:
        InputError: it is wrong.
    """
    if not is_right(value):
        raise InputError(f"says {printable(name)} is {printable(repr(value))}, which can't be")


def check_object(section: str, values: Mapping[str, Any], rules: Rules) -> None:
    """Refuses a JSON object that holds a wrong value, or not exactly the names that it must hold.

    Args:
        section: its name; empty for the whole header.
        values: what it holds.
        rules: a name without a rule is unknown, one without a value missing.

    Raises:
        InputError: names the value that is wrong, unknown or missing.
    """
    prefix = f"{section}." if section else ""
    differing = sorted(values.keys() ^ rules.keys())
    if differing:
        state = "unknown" if differing[0] in values else "missing"
        raise InputError(f"has a header in which {prefix}{printable(differing[0])} is {state}")
    for name, is_right in rules.items():
        check_value(f"{prefix}{name}", values[name], is_right)


def is_any(value: Any) -> bool:
    """Whether a value is there: what it holds is checked elsewhere."""
    return True


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)
    )


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 1 to a million."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000


def is_range(value: Any) -> bool:
    """Whether a value is a list of two finite numbers, the lower one first."""
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and value[0] <= value[1]


def is_note(value: Any) -> bool:
    """Whether a value is a number, a text of a line, true, false or nothing."""
    return is_name(value) if isinstance(value, str) else value is None or isinstance(value, (int, float))


def are_names(value: Any) -> bool:
    """Whether a value is a list of different names."""
    is_list = isinstance(value, list) and all(isinstance(name, str) and is_name(name) for name in value)
    return is_list and len(set(value)) == len(value)
