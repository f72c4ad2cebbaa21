"""What a checkpoint says of itself, as JSON beside its weights. Nothing in it is trusted.

    format       exvo-3
    revision     of the networks: 2; another one's weights mean something else
    network      the arguments of `Network`
    task         name, labels and objective
    features     kind (log-mel), key (the digest of the settings) and settings
    enrolment    protocol and shots; null: the network takes none, or it is not known
    temperature  by which outputs are divided so that they are calibrated; absent until it is fitted
    fill         what follows a clip that is shorter than the network needs
    notes        where the weights come from

Files of the format before, exvo-2, have neither revision, enrolment nor temperature, and of the features the settings
alone. They are read where the network has not changed since.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from exvo.config import MAX_SHOTS, PROTOCOLS, TASKS, FeatureConfig
from exvo.enrolment import EnrolmentSettings
from exvo.errors import InputError
from exvo.networks.cnn import BANDS, CHANNELS
from exvo.tasks import Task
from exvo.text import is_name, printable

FORMAT, FORMER = "exvo-3", "exvo-2"
REVISION = 2
KIND = "log-mel"

LONGEST = 16 * 2**20
"""Characters: 30 emotions and 1,700 speakers take fewer than 100,000."""

MAX_WINDOW = 2**14
"""Samples of a window: one second at 16 kHz."""


@dataclass(frozen=True)
class Header:
    """The attributes of a `Checkpoint`, with the arguments of its network in place of that."""

    network: dict[str, Any]
    task: Task
    features: FeatureConfig
    fill: str
    notes: dict[str, str | int | float | bool | None]
    enrolment: EnrolmentSettings | None = None
    temperature: float | None = None


def write_header(header: Header) -> str:
    """The header as JSON."""
    about: dict[str, Any] = {
        "format": FORMAT,
        "revision": REVISION,
        "network": header.network,
        "task": asdict(header.task),
        "features": {"kind": KIND, "key": header.features.digest(), "settings": asdict(header.features)},
        "enrolment": header.enrolment and asdict(header.enrolment),
        "fill": header.fill,
        "notes": header.notes,
    }
    return json.dumps(about | ({} if header.temperature is None else {"temperature": header.temperature}))


def read_header(text: str) -> Header:
    """The header, checked.

    Args:
        text: JSON, of this format or of the one before.

    Raises:
        InputError: what is wrong with it, without the file's name and the full stop.
    """
    if len(text) > LONGEST:
        raise InputError(f"has a header of {len(text):,} characters, more than {LONGEST:,}")
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("is not a whole checkpoint of exvo (its header is not JSON)") from None
    version = about.get("format") if isinstance(about, dict) else None
    if version not in (FORMAT, FORMER):
        raise InputError(f"has the format {printable(str(version))}; this version of exvo reads {FORMAT} and {FORMER}")
    parts = {name: part(about, name) for name in ("network", "task", "features", "notes")}
    fill = about.get("fill")
    check("fill", fill, lambda value: value in ("zero", "floor", "repeat"))
    for name, value in parts["notes"].items():
        check(f"notes.{name}", value, is_note)
    arguments = network(parts["network"])
    if version == FORMER:
        refuse_changed(arguments)
        return Header(arguments, task(parts["task"]), features(parts["features"]), fill, parts["notes"])
    revision = about.get("revision")
    check("revision", revision, is_count)
    if revision != REVISION:
        raise InputError(
            f"holds a network of revision {revision}, and this version of exvo computes those of revision {REVISION}: "
            "use the version that trained it, or train again"
        )
    named = dict.fromkeys({"format", "revision", *parts, "enrolment", "fill"}, is_any)
    take("", {name: value for name, value in about.items() if name != "temperature"}, named)
    temperature = about.get("temperature")
    check("temperature", temperature, lambda value: "temperature" not in about or (is_number(value) and value > 0))
    settings = take(
        "features", parts["features"], {"kind": lambda value: value == KIND, "key": is_any, "settings": is_any}
    )
    signal = features(part(settings, "settings"))
    check("features.key", settings["key"], lambda value: value == signal.digest())
    enrolled = enrolment(about["enrolment"], arguments["fusion"])
    return Header(arguments, task(parts["task"]), signal, fill, parts["notes"], enrolled, temperature)


def refuse_changed(arguments: Mapping[str, Any]) -> None:
    """Refuses a network of the format before that is computed otherwise now.

    Raises:
        InputError: what has changed.
    """
    if "cnn5" in (arguments["encoder"], arguments["enrolment"]):
        change = "the convolutions of CNN5 have biases now"
    elif arguments["fusion"] == "conditioning":
        change = "conditioning now ends with the fully connected layer twice"
    elif arguments["fusion"] == "attention" and arguments["layer_norm"]:
        change = "attention with LayerNorm now adds the normalised embedding"
    else:
        return
    raise InputError(
        f"was trained before its network was mended: {change}, as published, and its weights would give other answers "
        "than they did, so train it again"
    )


def enrolment(given: Any, fusion: str) -> EnrolmentSettings | None:
    """How speakers are enrolled; a network without fusion has no such settings."""
    check("enrolment", given, lambda value: value is None or (isinstance(value, dict) and fusion != "none"))
    if given is None:
        return None
    rules: dict[str, Callable[[Any], bool]] = {
        "protocol": lambda value: value in list(PROTOCOLS),
        "shots": lambda value: is_count(value) and value <= MAX_SHOTS,
    }
    return EnrolmentSettings(**take("enrolment", given, rules))


def part(about: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of the header."""
    found = about.get(name)
    check(name, found, lambda value: isinstance(value, dict))
    return dict(found or {})


def check(name: str, value: Any, right: Callable[[Any], bool]) -> None:
    """Raises InputError where a value is not right."""
    if not right(value):
        raise InputError(f"says {printable(name)} is {printable(repr(value))}, which can't be")


def take(name: str, given: dict[str, Any], rules: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    """The values of a part, each checked by its rule; the whole header is the part without a name.

    Raises:
        InputError: a value is wrong, unknown or missing.
    """
    before = f"{name}." if name else ""
    differing = sorted(given.keys() ^ rules.keys())
    if differing:
        state = "unknown" if differing[0] in given else "missing"
        raise InputError(f"has a header in which {before}{printable(differing[0])} is {state}")
    for key, right in rules.items():
        check(f"{before}{key}", given[key], right)
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


def is_any(value: Any) -> bool:
    """Whether it is there: what it holds is checked elsewhere."""
    return True


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
