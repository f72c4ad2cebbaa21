"""The journal of what could not be sent: entries and their lines on disk, also those of former versions."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from exvo.errors import InputError
from exvo.tracking.entries import (
    KINDS,
    Artifact,
    Dataset,
    Destination,
    End,
    Entry,
    Metrics,
    Model,
    Name,
    Params,
    Tags,
    destination,
    from_json,
    holds_results,
    must_wait,
    to_json,
)
from exvo.tracking.journal import Journal

FORMER = rb"""
b61c6815 {"kind": "name", "value": "train-odd-fox-1", "number": 1}

b423720c {"kind": "tags", "values": {"a": "\u00e9\n"}, "number": 2}

adaad5e0 {"kind": "params", "values": {"width": "0.05"}, "number": 3}

62633e77 {"kind": "metrics", "values": {"epoch/loss": NaN, "n": 1.5}, "step": 1, "time": 2, "number": 4}

9a7a00e5 {"kind": "dataset", "dataset": {"name": "sample", "digest": "d1", "source_type": "local", "source": "{}", "schema": "{}", "profile": "{}"}, "number": 5}

acdbc38e {"kind": "artifact", "name": "deep/one.txt", "number": 6}

914a52b4 {"kind": "model", "weights": "/o/best.safetensors", "number": 7}

6c7c2276 {"kind": "end", "status": "FINISHED", "time": 3, "number": 8}

82eb542a {"done": 1}
"""  # noqa: E501
"""A journal as exvo wrote it when its entries were dictionaries: one of each kind, the first of them delivered."""

ENTRIES: list[Entry] = [
    Name("train-odd-fox-1"),
    Tags({"a": "é\n"}),
    Params({"width": "0.05"}),
    Metrics({"epoch/loss": math.nan, "n": 1.5}, 1, 2),
    Dataset(dict.fromkeys(("source", "schema", "profile"), "{}") | {"name": "sample", "digest": "d1"}),
    Artifact("deep/one.txt"),
    Model("/o/best.safetensors"),
    End("FINISHED", 3),
]


def test_a_journal_of_a_former_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(FORMER)
    journal = Journal(tmp_path)
    assert list(journal.pending) == [2, 3, 4, 5, 6, 7, 8]
    read = journal.pending
    assert read[2] == Tags({"a": "é\n"})
    assert read[3] == Params({"width": "0.05"})
    assert repr(read[4]) == repr(Metrics({"epoch/loss": math.nan, "n": 1.5}, 1, 2))
    assert isinstance(read[5], Dataset)
    assert read[5].dataset["digest"] == "d1"
    assert [read[6], read[7], read[8]] == [Artifact("deep/one.txt"), Model("/o/best.safetensors"), End("FINISHED", 3)]
    journal.keep(Tags({"b": "c"}))
    assert list(journal.pending)[-1] == 9
    journal.close()


def test_a_journal_is_written_as_by_the_former_version(tmp_path: Path) -> None:
    (tmp_path / "former").mkdir()
    (tmp_path / "former" / "journal").write_bytes(FORMER)
    former, journal = Journal(tmp_path / "former"), Journal(tmp_path / "now")
    for entry in [Name("train-odd-fox-1"), *former.pending.values()]:
        journal.keep(entry, b"one" if isinstance(entry, Artifact) else None)
    journal.done(1)
    former.close()
    journal.close()
    assert (tmp_path / "now" / "journal").read_bytes() == FORMER
    assert (tmp_path / "now" / "artifacts" / "deep" / "one.txt").read_bytes() == b"one"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry.kind))
def test_json_and_back(entry: Entry) -> None:
    assert repr(from_json(json.loads(json.dumps(to_json(entry))))) == repr(entry)


def test_each_kind_of_entry_has_a_name_of_its_own() -> None:
    assert set(KINDS.values()) == set(get_args(Entry)) == {type(entry) for entry in ENTRIES}
    assert [kind for name, kind in KINDS.items() if kind.kind != name or not fields(kind)] == []


@pytest.mark.parametrize(
    "content", [{"kind": "picture", "number": 1}, {"kind": "end", "status": "FINISHED", "number": 1}]
)
def test_entries_of_a_later_version_are_refused_and_stay(tmp_path: Path, content: dict[str, object]) -> None:
    text = json.dumps(content).encode()
    line = b"\n%08x %b\n" % (zlib.crc32(text), text)
    (tmp_path / "journal").write_bytes(line)
    for _ in range(2):  # the first refusal leaves nothing locked
        with pytest.raises(InputError, match=f"by another version of exvo .an entry {content['kind']}.; deliver it"):
            Journal(tmp_path)
    assert (tmp_path / "journal").read_bytes() == line


def test_which_entries_wait() -> None:
    """Files wait for files, the end for all, and what else there is for what is no file."""
    stores: list[Destination] = ["artifact store", "tracking server"]
    for entry in ENTRIES:
        waits = [not must_wait(entry, []), must_wait(entry, stores[:1]), must_wait(entry, stores[1:])]
        if isinstance(entry, End):
            assert waits == [True, True, True]
        else:
            is_file = isinstance(entry, Artifact | Model)
            assert waits == [True, is_file, not is_file]
            assert destination(entry) == stores[not is_file]


def test_which_entries_hold_results() -> None:
    assert [entry.kind for entry in ENTRIES if holds_results(entry)] == ["metrics", "artifact", "model"]
    assert not holds_results(Artifact("settings.json"))
