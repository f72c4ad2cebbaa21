"""The header of a model file: JSON beside the weights. Nothing in it is trusted.

    format       exvo-3
    revision     of the networks, 2: weights of another revision would give other outputs
    network      the arguments of `Network`
    task         name, labels and objective
    features     kind (log-mel, functionals, states, embeddings), key and settings; of other kinds than log-mel also
                 dtype and shape, which are the same for every clip
    enrolment    protocol and shots; null: the network takes none, or it is not known
    temperature  by which outputs are divided so that they are calibrated; absent until it is fitted
    levels       how sure an answer must be to be right so often: a list of [accuracy, share, coverage], see `Level`,
                 accuracies ascending; absent where there is no temperature, or there were too few validation clips
    ranges       [lowest, highest] of the training clips' seconds, rms_db and rate, see `Ranges`; absent in older files
    fill         how a clip that is shorter than the network needs is filled: zero, floor or repeat
    notes        where the weights come from

Files of the format before, exvo-2, have neither revision, enrolment nor temperature, and of the features only the
settings. They are read if the network has not changed since.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from exvo.config import MAX_SHOTS, MOST_MEMBERS, OBJECTIVES, PROTOCOLS, TASKS, FeatureConfig
from exvo.enrolment import EnrolmentSettings
from exvo.errors import InputError
from exvo.features.conditions import Ranges
from exvo.features.shards import Features
from exvo.networks.cnn import BANDS
from exvo.networks.encoders import ENCODERS
from exvo.networks.fitted import OPTIONAL, read_levels, read_ranges, read_temperature
from exvo.networks.network import NetworkArguments
from exvo.networks.rules import (
    Rules,
    are_names,
    check_object,
    check_value,
    is_any,
    is_count,
    is_note,
    is_number,
    is_range,
)
from exvo.tasks import Level, Task
from exvo.text import printable

FORMAT, FORMER = "exvo-3", "exvo-2"
REVISION = 2
KIND = "log-mel"

MAX_HEADER = 16 * 2**20
"""Characters: 30 emotions and 1,700 speakers take fewer than 100,000."""

MAX_WINDOW = 2**14
"""Samples of a window: one second at 16 kHz."""

Notes = Mapping[str, str | int | float | bool | None]
"""Where weights come from: system, epoch, score and the like."""


@dataclass(frozen=True)
class Header:
    """The attributes of a `Checkpoint`, with the arguments of its network in place of the network."""

    network: NetworkArguments
    task: Task
    features: FeatureConfig | Features
    fill: str
    notes: Notes
    enrolment: EnrolmentSettings | None = None
    temperature: float | None = None
    levels: tuple[Level, ...] = ()
    ranges: Ranges | None = None


def write_header(header: Header) -> str:
    """The header as JSON."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "revision": REVISION,
        "network": header.network,
        "task": asdict(header.task),
        "features": features_section(header.features),
        "enrolment": header.enrolment and asdict(header.enrolment),
        "fill": header.fill,
        "notes": header.notes,
    }
    ranges = header.ranges and asdict(header.ranges)
    fitted = {"temperature": header.temperature, "levels": header.levels, "ranges": ranges}
    return json.dumps(content | {name: value for name, value in fitted.items() if value not in (None, ())})


def read_header(text: str) -> Header:
    """The header, checked.

    Args:
        text: JSON, of this format or of the one before.

    Raises:
        InputError: what is wrong with it, without the file's name and the full stop.
    """
    if len(text) > MAX_HEADER:
        raise InputError(f"has a header of {len(text):,} characters, more than {MAX_HEADER:,}")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("is not a whole checkpoint of exvo (its header is not JSON)") from None
    version = content.get("format") if isinstance(content, dict) else None
    if version not in (FORMAT, FORMER):
        raise InputError(f"has the format {printable(str(version))}; this version of exvo reads {FORMAT} and {FORMER}")
    sections = {name: read_section(content, name) for name in ("network", "task", "features", "notes")}
    fill, notes = content.get("fill"), sections["notes"]
    check_value("fill", fill, lambda value: value in ("zero", "floor", "repeat"))
    for name, value in notes.items():
        check_value(f"notes.{name}", value, is_note)
    network = read_network(sections["network"])
    if version == FORMER:
        refuse_changed(network)
        return Header(network, read_task(sections["task"]), read_features(sections["features"]), fill, notes)
    check_revision(content.get("revision"))
    names = dict.fromkeys({"format", "revision", *sections, "enrolment", "fill"}, is_any)
    check_object("", {name: value for name, value in content.items() if name not in OPTIONAL}, names)
    fitted = read_temperature(content), read_levels(content), read_ranges(content)
    features = read_keyed_features(sections["features"])
    enrolment = read_enrolment_settings(content["enrolment"], network["fusion"])
    return Header(network, read_task(sections["task"]), features, fill, notes, enrolment, *fitted)


def check_revision(revision: Any) -> None:
    """Refuses a network of another revision.

    Raises:
        InputError: it is of another, or no revision at all.
    """
    check_value("revision", revision, is_count)
    if revision != REVISION:
        raise InputError(
            f"holds a network of revision {revision}, and this version of exvo computes those of revision {REVISION}: "
            "use the version that trained it, or train again"
        )


def refuse_changed(network: NetworkArguments) -> None:
    """Refuses a network of the format before that is computed otherwise now.

    Raises:
        InputError: what has changed.
    """
    if "cnn5" in (network["encoder"], network["enrolment"]):
        change = "the convolutions of CNN5 have biases now"
    elif network["fusion"] == "conditioning":
        change = "conditioning now ends with the fully connected layer twice"
    elif network["fusion"] == "attention" and network["layer_norm"]:
        change = "attention with LayerNorm now adds the normalised embedding"
    else:
        return
    raise InputError(
        f"was trained before its network was mended: {change}, as published, and its weights would give other answers "
        "than they did, so train it again"
    )


def read_section(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section of the header.

    Raises:
        InputError: it is missing, or no JSON object.
    """
    section = content.get(name)
    check_value(name, section, lambda value: isinstance(value, dict))
    return dict(section or {})


HEADS = {"enrolment_emotion", "enrolment_speaker", "main_speaker"}
NETWORK_RULES: Rules = {
    "encoder": lambda value: value in list(ENCODERS),
    "outputs": is_count,
    "width": lambda value: is_number(value) and 0 < value <= 1e6,
    "dropout": lambda value: is_number(value) and 0 <= value < 1,
    "enrolment": lambda value: value in ["none", "shared", "cnn5", "cnn10"],
    "fusion": lambda value: value in ["none", "attention", "conditioning", "relative", "film"],
    "layer_norm": lambda value: isinstance(value, bool),
    "heads": lambda value: isinstance(value, dict) and {*value} <= HEADS and all(map(is_count, value.values())),
    "head": lambda value: value in ["linear", "chain"],
    "typical_clips": lambda value: value == 0 or (is_count(value) and value <= MAX_SHOTS),
    "members": lambda value: is_count(value) and value <= MOST_MEMBERS,
    "inputs": lambda value: (
        value is None or (isinstance(value, list) and len(value) == 2 and all(map(is_count, value)))
    ),
}
LATER_NETWORK: dict[str, Any] = {"head": "linear", "typical_clips": 0, "inputs": None, "members": 1}
"""What the network of a model file lacked before, with what it was then."""
TASK_RULES: Rules = {
    "name": lambda value: value in list(TASKS),
    "targets": are_names,
    "countries": are_names,
    "categories": lambda value: isinstance(value, bool),
    "objective": lambda value: value in list(OBJECTIVES),
    "speakers": are_names,
    "limits": lambda value: value is None or is_range(value),
}
LATER: dict[str, Any] = {"limits": None}
"""What the task of a model file lacked before, with what it was then."""
FEATURES_RULES: Rules = {
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
KEYED_FEATURES_RULES: Rules = {
    "kind": lambda value: value == KIND,
    "key": is_any,
    "settings": is_any,
}
CLIP_FEATURES_RULES: Rules = {
    "kind": lambda value: value in ["functionals", "states", "embeddings"],
    "key": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{12,64}", value) is not None,
    "dtype": lambda value: value in ["float32", "float16"],
    "shape": lambda value: isinstance(value, list) and len(value) == 2 and all(map(is_count, value)),
    "settings": lambda value: isinstance(value, dict),
}
ENROLMENT_RULES: Rules = {
    "protocol": lambda value: value in list(PROTOCOLS),
    "shots": lambda value: is_count(value) and value <= MAX_SHOTS,
}


def read_network(section: dict[str, Any]) -> NetworkArguments:
    """The arguments of `Network`, with those that an older file lacks; whether they fit shows when it is made.

    Raises:
        InputError: one is wrong, unknown or missing.
    """
    section = LATER_NETWORK | section
    check_object("network", section, NETWORK_RULES)
    return cast(NetworkArguments, section)


def read_task(section: dict[str, Any]) -> Task:
    """The task.

    Raises:
        InputError: a value is wrong, unknown or missing.
    """
    section = LATER | section
    check_object("task", section, TASK_RULES)
    tuples: dict[str, Any] = {name: tuple(value) for name, value in section.items() if isinstance(value, list)}
    return Task(**(section | tuples))


def read_features(settings: dict[str, Any]) -> FeatureConfig:
    """The settings of the log-mel.

    Raises:
        InputError: one is wrong, unknown or missing, or they don't fit each other.
    """
    check_object("features", settings, FEATURES_RULES)
    features = FeatureConfig(**settings)
    if not features.fmin < features.fmax <= features.sample_rate / 2:
        raise InputError(
            f"says bands go from {features.fmin} to {features.fmax} Hz at {features.sample_rate} Hz, which can't be"
        )
    if not features.window // 2 < features.min_samples <= features.sample_rate or features.hop > features.window:
        raise InputError("says window, hop and min_samples that don't fit each other")
    return features


def features_section(features: FeatureConfig | Features) -> dict[str, Any]:
    """The section of the header that `read_keyed_features` reads."""
    if isinstance(features, Features):
        return asdict(features)
    return {"kind": KIND, "key": features.digest(), "settings": asdict(features)}


def read_keyed_features(section: dict[str, Any]) -> FeatureConfig | Features:
    """The settings of the log-mel, from a section that also holds their kind and key; or features of another kind.

    Whether a key of another kind is that of what computes the features shows when this is loaded.

    Raises:
        InputError: as for `read_features`, a value is wrong, or the key is not that of the log-mel's settings.
    """
    if section.get("kind") != KIND:
        check_value("features.kind", section.get("kind"), CLIP_FEATURES_RULES["kind"])
        check_object("features", section, CLIP_FEATURES_RULES)
        return Features(**section | {"shape": tuple(section["shape"])})
    check_object("features", section, KEYED_FEATURES_RULES)
    features = read_features(read_section(section, "settings"))
    check_value("features.key", section["key"], lambda value: value == features.digest())
    return features


def read_enrolment_settings(section: Any, fusion: str) -> EnrolmentSettings | None:
    """How speakers are enrolled; None for a network without fusion.

    Raises:
        InputError: a value is wrong, unknown or missing, or a network without fusion has such settings.
    """
    check_value("enrolment", section, lambda value: value is None or (isinstance(value, dict) and fusion != "none"))
    if section is None:
        return None
    check_object("enrolment", section, ENROLMENT_RULES)
    return EnrolmentSettings(**section)
