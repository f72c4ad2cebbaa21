"""What the header of a model file says that is not needed to load it: read, and checked."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, cast

from exvo.features.conditions import Ranges
from exvo.networks.rules import Rules, check_object, check_value, is_number, is_range
from exvo.tasks import Level

OPTIONAL = ("temperature", "levels", "ranges")
"""Parts of the header that may be absent."""

MOST_LEVELS = 101
"""Whole percents from 0 to 100."""

RANGES_RULES: Rules = {
    "seconds": lambda value: is_range(value) and value[0] > 0,
    "rms_db": is_range,
    "rate": lambda value: is_range(value) and value[0] > 0,
}


def read_temperature(content: Mapping[str, Any]) -> float | None:
    """The temperature; None where the header has none.

    Raises:
        InputError: it is no positive number.
    """
    if "temperature" not in content:
        return None
    check_value("temperature", content["temperature"], lambda value: is_number(value) and value > 0)
    return cast(float, content["temperature"])


def read_levels(content: Mapping[str, Any]) -> tuple[Level, ...]:
    """How sure answers must be; empty where the header does not say.

    Raises:
        InputError: they are no list of three shares each, or their accuracies do not ascend.
    """
    if "levels" not in content:
        return ()
    check_value("levels", content["levels"], are_levels)
    return tuple(Level(*map(float, level)) for level in content["levels"])


def are_levels(value: Any) -> bool:
    """Whether a value is a list of levels, as `write_header` writes them."""
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_LEVELS:
        return False
    for level in value:
        if not (isinstance(level, list) and len(level) == 3 and all(is_number(x) and 0 <= x <= 1 for x in level)):
            return False
    return all(first[0] < second[0] for first, second in itertools.pairwise(value))


def read_ranges(content: Mapping[str, Any]) -> Ranges | None:
    """Within what the training clips lie; None where the header does not say.

    Raises:
        InputError: a range is wrong, unknown or missing.
    """
    if "ranges" not in content:
        return None
    check_value("ranges", content["ranges"], lambda value: isinstance(value, dict))
    check_object("ranges", content["ranges"], RANGES_RULES)
    return Ranges(**{name: (float(low), float(high)) for name, (low, high) in content["ranges"].items()})
