"""What a checkpoint says of itself, as JSON beside its weights. Nothing in it is trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exvo.config import TASKS, FeatureConfig, InputError
from exvo.networks.cnn import BANDS, CHANNELS
from exvo.tasks import Task
from exvo.text import is_name, shown

LONGEST = 16 * 2**20
"""Characters: 30 emotions and 1,700 speakers take fewer than 100,000."""

MAX_WINDOW = 2**14
"""Samples of a window: one second at 16 kHz."""


@dataclass(frozen=True)
class Header:
    """The attributes of a `Checkpoint` but its network, and the arguments with which that is made."""

    network: dict[str, Any]
    task: Task
    features: FeatureConfig
    fill: str
    notes: dict[str, str | int | float | bool | None]


def read_header(text: str, version: str) -> Header:
    """The header, checked.

    Args:
        text: JSON.
        version: the only format that is read.

    Raises:
        InputError: what is wrong with it, without the file's name and the full stop.
    """
    if len(text) > LONGEST:
        raise InputError(f"has a header of {len(text):,} characters, more than {LONGEST:,}")
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("is not a whole checkpoint of exvo (its header is not JSON)") from None
    found = about.get("format") if isinstance(about, dict) else None
    if found != version:
        raise InputError(f"has the format {shown(str(found))}; this version of exvo reads {version}")
    parts = {name: part(about, name) for name in ("network", "task", "features", "notes")}
    fill = about.get("fill")
    check("fill", fill, lambda value: value in ("zero", "floor", "repeat"))
    for name, value in parts["notes"].items():
        check(f"notes.{name}", value, is_note)
    return Header(network(parts["network"]), task(parts["task"]), features(parts["features"]), fill, parts["notes"])


def part(about: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of the header."""
    found = about.get(name)
    check(name, found, lambda value: isinstance(value, dict))
    return dict(found or {})


def check(name: str, value: Any, right: Callable[[Any], bool]) -> None:
    """Raises InputError where a value is not right."""
    if not right(value):
        raise InputError(f"says {shown(name)} is {shown(repr(value))}, which can't be")


def take(name: str, given: dict[str, Any], rules: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    """The values of a part, each checked by its rule.

    Raises:
        InputError: a value is wrong, unknown or missing.
    """
    differing = sorted(given.keys() ^ rules.keys())
    if differing:
        state = "unknown" if differing[0] in given else "missing"
        raise InputError(f"has a header in which {name}.{shown(differing[0])} is {state}")
    for key, right in rules.items():
        check(f"{name}.{key}", given[key], right)
    return given


def network(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `Network`. That they go together is checked by making it."""
    heads = ("enrolment_emotion", "enrolment_speaker", "main_speaker")
    rules: dict[str, Callable[[Any], bool]] = {
        "encoder": lambda value: value in list(CHANNELS),
        "outputs": is_count,
        "width": lambda value: is_number(value) and 0 < value <= 1e6,
        "dropout": lambda value: is_number(value) and 0 <= value < 1,
        "enrolment": lambda value: value in ["none", "shared", "cnn5", "cnn10"],
        "fusion": lambda value: value in ["none", "attention", "conditioning", "relative", "film"],
        "layer_norm": is_bool,
        "heads": lambda value: isinstance(value, dict) and {*value} <= {*heads} and all(map(is_count, value.values())),
    }
    return take("network", given, rules)


def task(given: dict[str, Any]) -> Task:
    """The task."""
    rules: dict[str, Callable[[Any], bool]] = {
        "name": lambda value: value in list(TASKS),
        "targets": are_names,
        "countries": are_names,
        "categories": is_bool,
        "objective": lambda value: value in ["ccc", "mse"],
        "speakers": are_names,
    }
    values = take("task", given, rules)
    lists: dict[str, Any] = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Task(**(values | lists))


def features(given: dict[str, Any]) -> FeatureConfig:
    """The settings of the log-mel."""
    rules: dict[str, Callable[[Any], bool]] = {
        "sample_rate": lambda value: is_count(value) and value <= 192_000,
        "window": lambda value: is_count(value) and 2 <= value <= MAX_WINDOW,
        "hop": is_count,
        "bands": lambda value: is_count(value) and value == BANDS,
        "fmin": lambda value: is_number(value) and value >= 0,
        "fmax": is_number,
        "floor": lambda value: is_number(value) and 1e-30 <= value <= 1,
        "min_samples": is_count,
        "max_seconds": lambda value: is_number(value) and 0 < value <= 3600,
    }
    found = FeatureConfig(**take("features", given, rules))
    if not found.fmin < found.fmax <= found.sample_rate / 2:
        raise InputError(
            f"says bands go from {found.fmin} to {found.fmax} Hz at {found.sample_rate} Hz, which can't be"
        )
    if not found.window // 2 < found.min_samples <= found.sample_rate or found.hop > found.window:
        raise InputError("says window, hop and min_samples that don't fit each other")
    return found


def is_bool(value: Any) -> bool:
    """Whether it is true or false."""
    return isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not is_bool(value) and abs(value) < 1e300 and math.isfinite(value)


def is_count(value: Any) -> bool:
    """Whether it is a whole number from 1 to a million."""
    return isinstance(value, int) and not is_bool(value) and 1 <= value <= 1_000_000


def is_note(value: Any) -> bool:
    """Whether it is a number, a text of a line, true, false or nothing."""
    return is_name(value) if isinstance(value, str) else value is None or isinstance(value, (int, float))


def are_names(value: Any) -> bool:
    """Whether it is a list of different names."""
    named = isinstance(value, list) and all(isinstance(name, str) and is_name(name) for name in value)
    return named and len(set(value)) == len(value)
