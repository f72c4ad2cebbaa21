"""What a run logs, in single entries, and the line of JSON as which each is kept on disk.

Where one can't be sent, pure functions say which others have to wait with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

from exvo.errors import InputError
from exvo.text import all_writable

Destination = Literal["tracking server", "artifact store"]
"""Where entries go; the artifact store may be away when the rest of the server is not."""

DESCRIPTIONS = ("environment.json", "settings.json", "audit.json", "uncommitted.diff.txt")
"""Artifacts that describe a run; all others hold what it has computed."""


@dataclass(frozen=True)
class Name:
    """The run's new name."""

    kind: ClassVar = "name"
    value: str


@dataclass(frozen=True)
class Tags:
    """Tags by name; they take the place of equal ones."""

    kind: ClassVar = "tags"
    values: Mapping[str, str]


@dataclass(frozen=True)
class Params:
    """Params by name."""

    kind: ClassVar = "params"
    values: Mapping[str, str]


@dataclass(frozen=True)
class Metrics:
    """Metrics by name.

    Attributes:
        values: by name.
        step: the epoch, or 0.
        time: milliseconds since 1970.
    """

    kind: ClassVar = "metrics"
    values: Mapping[str, float]
    step: int
    time: int


@dataclass(frozen=True)
class Dataset:
    """The corpus, as MLflow's `Dataset.to_dict` gives it."""

    kind: ClassVar = "dataset"
    dataset: Mapping[str, str]


@dataclass(frozen=True)
class Artifact:
    """A file, by its path among the run's artifacts; its content comes beside the entry."""

    kind: ClassVar = "artifact"
    name: str


@dataclass(frozen=True)
class Model:
    """The served model around a checkpoint, a file that stays where it is."""

    kind: ClassVar = "model"
    weights: str


@dataclass(frozen=True)
class End:
    """The run's end.

    Attributes:
        status: MLflow's, such as FINISHED.
        time: milliseconds since 1970.
    """

    kind: ClassVar = "end"
    status: str
    time: int


Entry = Name | Tags | Params | Metrics | Dataset | Artifact | Model | End

KINDS: dict[str, type[Entry]] = {
    entry.kind: entry for entry in (Name, Tags, Params, Metrics, Dataset, Artifact, Model, End)
}


def to_json(entry: Entry) -> dict[str, Any]:
    """The entry as JSON holds it: its kind and its fields."""
    return {"kind": entry.kind, **asdict(entry)}


def from_json(content: Mapping[str, Any]) -> Entry:
    """The entry that `to_json` has turned into JSON; other names beside its fields are passed over.

    Raises:
        InputError: this version of exvo has no entries of that kind, or with other fields.
    """
    kind = KINDS.get(content["kind"])
    try:
        if kind is not None:
            return kind(**{field.name: content[field.name] for field in fields(kind)})
    except KeyError:
        pass
    raise InputError(
        f"What is kept of the run was written by another version of exvo (an entry {content['kind']}); deliver it with "
        "that version."
    )


def with_writable_texts(entry: Entry) -> Entry:
    """The entry with backslash escapes for bytes of names that are not UTF-8; a model's path stays as it is."""
    return entry if isinstance(entry, Model) else type(entry)(**all_writable(asdict(entry)))


def holds_results(entry: Entry) -> bool:
    """Whether an entry holds what a run has computed, not what describes it."""
    return isinstance(entry, Metrics | Model) or (isinstance(entry, Artifact) and entry.name not in DESCRIPTIONS)


def destination(entry: Entry) -> Destination:
    """Where an entry goes."""
    return "artifact store" if isinstance(entry, Artifact | Model) else "tracking server"


def must_wait(entry: Entry, waiting: Collection[Destination]) -> bool:
    """Whether an entry has to wait behind entries for these destinations: the end for any, others for their own."""
    return bool(waiting) if isinstance(entry, End) else destination(entry) in waiting
