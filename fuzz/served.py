"""Requests to the served model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from exvo.serving import request
from exvo.serving.service import Service
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
METHODS = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST", "x" * 999)
PATHS = ("/", "", "/ping", "/version", "/health/", "/docs", "/openapi.json", "//ping", "/invocations/x", "/\ud800é")
HEADERS = [
    (b"content-encoding", b"gzip"),
    (b"content-length", b"9" * 99),
    (b"content-length", b"-1"),
    (b"content-length", b"\xff"),
    (b"content-type", b"\xff\xfe"),
    (b"x-" + b"y" * 999, b"z" * 9_999),
]

GOOD = text(audio()[0])
BIG = {"audio": GOOD} | {f"column {number}": 0 for number in range(2_000)}


def draw_request(random: Random) -> tuple[bytes, str | None]:
    """A body and its content type."""
    ways = [damaged_audio, odd_row, odd_request, damaged_text, noise, structure]
    body = random.choices(ways, [3, 3, 2, 2, 2, 1])[0](random)
    kinds = [*["application/json"] * 38, "Application/JSON", 'application/json; charset="UTF-8"', *CONTENT_TYPES]
    return body, random.choice(kinds)


@dataclass
class Exchange:
    """A request as a server hands it to an ASGI app, and what the app answers."""

    method: str
    path: str
    headers: Sequence[tuple[bytes, bytes]]
    parts: list[bytes]
    goes: bool = False
    """Whether the client goes before its body's end."""
    status: int = 0
    body: bytes = b""
    """Of the answer."""
    answer_headers: dict[bytes, bytes] = field(default_factory=dict)

    async def receive(self) -> dict[str, Any]:
        """The next part of the body; a client that has sent all of it waits for its answer."""
        if self.parts:
            return {"type": "http.request", "body": self.parts.pop(0), "more_body": bool(self.parts) or self.goes}
        if not self.goes and not self.status:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """Takes a part of the answer."""
        if message["type"] == "http.response.start":
            self.status, self.answer_headers = message["status"], dict(message["headers"])
        else:
            self.body += message["body"]

    def ask(self, service: Service) -> None:
        """Sends the request and waits for its end."""
        scope = {"type": "http", "method": self.method, "path": self.path, "headers": self.headers}
        asyncio.run(service(scope, self.receive, self.send))


def draw_exchange(random: Random, body: bytes, content_type: str | None) -> Exchange:
    """A body on its way: in parts, mostly to the right page with the right headers, seldom broken off."""
    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    if random.random() < 0.1:
        headers.append(random.choice(HEADERS))
    method = "POST" if random.random() < 0.95 else random.choice(METHODS)
    path = "/invocations" if random.random() < 0.95 else random.choice(PATHS)
    size = random.choice([1_000_000, 65_536, max(1, len(body) // 7)])
    parts = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
    return Exchange(method, path, headers, parts, goes=random.random() < 0.03)


def structure(random: Random) -> bytes:
    """Much structure in few bytes, where rows, cells, keys or words of base64 should be."""
    times = random.choice([3, 500, 600, 100_000, 300_000])
    item = random.choice([b"[]", b"{}", b"0", b'""', b'{"a":0}', b"[[", b'"\\ud800"', b"1e999", b"-0.0"])
    many = b"[" + b",".join([item] * times) + b"]"
    words = b'"' + random.choice([b"AA ", b"A", b"\\n", b"\\u0041", b"=", "𝔘".encode(), b"A\\n"]) * times + b'"'
    inner = random.choice([many, words, b'{"a": 1, "a": 2}'])
    return random.choice(
        [
            inner,
            b'{"x": ' + inner + b"}",
            b'{"dataframe_records": ' + inner + b"}",
            b'{"dataframe_records": [{"audio": ' + inner + b"}]}",
            b'{"dataframe_records": [{"audio": "", "profile": ' + inner + b"}]}",
            b'{"dataframe_records": [{"audio": "", "enrolment": ' + inner + b"}]}",
            b'{"dataframe_records": [{' + words + b": 1}]}",
            b'{"dataframe_split": {"columns": ' + inner + b', "data": ' + inner + b"}}",
            b'{"dataframe_records": [], "params": ' + inner + b', "dataframe_records": ' + inner + b"}",
            b'{"params": {"mode": ' + inner + b'}, "dataframe_records": [{"audio": ""}]}',
        ]
    )


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
