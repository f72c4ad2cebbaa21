"""Requests to the served model."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from exvo import request
from fuzz import material
from fuzz.material import audio, damage, text, value

CONTENT_TYPES = [
    None,
    "",
    "text/csv",
    "application/vnd.apache.parquet",
    "application/json; charset=utf-16",
    ";;=,",
    "x" * 99,
]

GOOD = text(audio()[0])
BIG = {"audio": GOOD} | {f"column {number}": 0 for number in range(2_000)}


def draw_request(random: Random) -> tuple[bytes, str | None]:
    """A body and its content type."""
    body = random.choice([damaged_audio, odd_row, odd_request, damaged_text, noise])(random)
    return body, random.choices([*["application/json"] * 40, *CONTENT_TYPES])[0]


def damaged_audio(random: Random) -> bytes:
    """One to three rows, some of whose clips are damaged."""
    rows = []
    for _ in range(random.randint(1, 3)):
        row: dict[str, Any] = {"audio": text(clip(random))}
        if random.random() < 0.3:
            row["enrolment"] = [text(clip(random)) for _ in range(2)]
        rows.append(row)
    return json.dumps({"dataframe_records": rows}).encode()


def clip(random: Random) -> bytes:
    """A tone, mostly damaged."""
    whole = random.choice(audio())
    return whole if random.random() < 0.2 else damage(random, whole)


def odd_row(random: Random) -> bytes:
    """A good row with values of the wrong type, absent or unknown columns, odd params."""
    row: dict[str, Any] = {"audio": GOOD, "enrolment": [GOOD], "profile": [0.5] * 26}
    for name in random.sample(list(row), random.randint(0, 2)):
        del row[name]
    for _ in range(random.randint(0, 2)):
        row[random.choice([*request.COLUMNS, *request.COLUMNS, "index", "Audio", ""])] = cell(random)
    rows = [row] * random.choice([1, 1, 1, 2, 65])
    body: dict[str, Any] = {"dataframe_records": random.choice([rows, rows, rows, [BIG], many_columns(random)])}
    if random.random() < 0.5:
        params = [{"mode": "enrol"}, {"mode": value(random, 2)}, {"x": 1}, value(random, 2)]
        body["params"] = random.choice(params)
    return json.dumps(body).encode()


def many_columns(random: Random) -> list[dict[str, int]]:
    """Rows each with a column of its own: as a table, the square of what was sent."""
    return [{f"c{number}": 0} for number in range(random.choice([3, 64, 2_000]))]


def cell(random: Random) -> Any:
    """What a cell of a request may hold, and what it may not."""
    some = [GOOD, GOOD[:99], [0.5] * 26, [float("nan")] * 26, [GOOD, GOOD], [GOOD] * 17, value(random, 3)]
    return random.choice([*some, random.choice(material.CELLS)])


def odd_request(random: Random) -> bytes:
    """JSON of some shape under the names that MLflow knows."""
    names = ["dataframe_records", "dataframe_split", "inputs", "instances", "params", "messages", "input", "x"]
    split = {"columns": value(random, 2), "data": [[GOOD]], "index": value(random, 1)}
    wide = {"columns": list(range(5_000)), "data": [[]] * 64}
    body = {name: random.choice([value(random, 4), split, wide]) for name in random.sample(names, 2)}
    return json.dumps(body).encode()


def damaged_text(random: Random) -> bytes:
    """A good request, bytes of whose text are changed."""
    body = {"dataframe_records": [{"audio": GOOD, "enrolment": [GOOD]}], "params": {"mode": "predict"}}
    return damage(random, json.dumps(body).encode())


def noise(random: Random) -> bytes:
    """Bytes, deep nesting, long numbers and strings."""
    deep, size = random.choice([10, 900, 100_000]), random.choice([0, 10, 5_000, 200_000])
    return random.choice(
        [
            random.randbytes(size),
            b'{"dataframe_records": ' + b"[" * deep + b"]" * deep + b"}",
            b'{"dataframe_records": [' + b'{"audio": ' * deep + b"1" + b"}" * deep + b"]}",
            b'{"dataframe_records": [{"audio": ' + b"9" * size + b"}]}",
            b'{"dataframe_records": [{"audio": "' + b"A" * size + b'"}]}',
            b'{"inputs": ' + b"[" * deep + b"]" * deep + b"}",
            b"audio,profile\n" + b"A" * size + b',"[1, 2]"\n',
        ]
    )
