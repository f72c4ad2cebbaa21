"""The served model's HTTP side in one process: what it reads, refuses, bounds and gives up, without a socket."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

import fastapi
import pyarrow as pa
import pytest

from exvo.errors import InputError
from exvo.serving import installation, service
from exvo.serving.request import MAX_BODY, GivenUp, raise_if_given_up
from exvo.serving.service import Service

JSON = (b"content-type", b"application/json")


class Client:
    """A client's side of a request: sends parts of a body, then waits, or goes."""

    def __init__(self, *parts: bytes, whole: bool = True, goes: bool = False) -> None:
        last = len(parts) - 1
        self.messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": not whole or number < last}
            for number, part in enumerate(parts)
        ]
        self.goes, self.gone = goes, asyncio.Event()
        self.status, self.told, self.headers, self.taken = 0, b"", {}, 0  # type: ignore[var-annotated]

    async def receive(self) -> dict[str, Any]:
        if self.messages:
            message = self.messages.pop(0)
            self.taken += len(message["body"])
            return message
        if not self.goes:
            await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.told += message["body"]
            if not message["more_body"] or len(self.told) == int(self.headers[b"content-length"]):
                self.gone.set()  # the client has its answer

    async def ask(
        self,
        one: Service,
        *headers: tuple[bytes, bytes],
        method: str = "POST",
        path: str = "/invocations",
    ) -> tuple[int, Any]:
        scope = {"type": "http", "method": method, "path": path, "headers": list(headers or (JSON,))}
        await one(scope, self.receive, self.send)
        return self.status, self.told.decode()


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """MLflow's app: its own pages."""
    await service.respond(send, 200, f"{scope['method']} {scope['path']}")


def serve(reply: Callable[[bytearray], str] = lambda body: body.decode(), seconds: float = 30.0) -> Service:
    return Service(pages, reply, seconds)


def sentence(answer: tuple[int, str]) -> tuple[int, str]:
    """Status and message of a refusal, whose body has the form of all."""
    status, told = answer
    body = json.loads(told)
    assert set(body) == {"error_code", "message"}
    assert body["message"].endswith(".")
    return status, body["message"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ('Application/JSON; Charset="UTF-8"', 200),
        ("application/json;charset=utf8", 200),
        ("application/json; profile=x; charset=utf-8", 200),
        ("application/json; charset=latin-1", 415),
        ("text/csv", 415),
        ("application/vnd.apache.parquet", 415),
        ("application/jsonx", 415),
        ("", 415),
        (";;=,", 415),
    ],
)
def test_content_types(kind: str, status: int) -> None:
    answer = asyncio.run(Client(b"{}").ask(serve(), (b"Content-Type", kind.encode())))
    assert answer[0] == status
    if status == 415:
        assert "send" in sentence(answer)[1]


def test_pages_that_are_open_and_those_that_are_not() -> None:
    async def ask(method: str, path: str) -> tuple[Client, tuple[int, str]]:
        client = Client(b"{}")
        return client, await client.ask(serve(), JSON, method=method, path=path)

    for path in ("/ping", "/health", "/version", "/ping/"):
        assert asyncio.run(ask("GET", path))[1] == (200, f"GET {path.rstrip('/')}")
        assert asyncio.run(ask("HEAD", path))[1][0] == 200
        client, answer = asyncio.run(ask("POST", path))
        assert sentence(answer) == (405, "This page takes GET, not POST.")
        assert client.headers[b"allow"] == b"GET"
    for path in ("/docs", "/redoc", "/openapi.json", "/", "", "/docs/oauth2-redirect", "/../ping", "//invocations"):
        assert sentence(asyncio.run(ask("GET", path))[1])[0] == 404
    for method in ("GET", "PUT", "HEAD", "DELETE", "X" * 5_000):
        client, answer = asyncio.run(ask(method, "/invocations"))
        assert sentence(answer)[0] == 405
        assert (client.headers[b"allow"], len(answer[1]) < 200) == (b"POST", True)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ((b"content-encoding", b"gzip"), 415),
        ((b"content-encoding", b"identity"), 200),
        ((b"content-length", b"%d" % (MAX_BODY + 1)), 413),
        ((b"content-length", b"9" * 5_000), 413),
        ((b"content-length", b"-1"), 413),
    ],
)
def test_a_head_alone_may_refuse(header: tuple[bytes, bytes], status: int) -> None:
    assert asyncio.run(Client(b"{}").ask(serve(), JSON, header))[0] == status


def test_a_body_without_a_length_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_BODY", 100)
    monkeypatch.setattr(service, "DRAIN", 0.0)
    for count, status in ((10, 200), (1_000, 413)):
        client, one = Client(*[b"1234567890"] * count), serve()
        answer = asyncio.run(client.ask(one))
        assert answer[0] == status
        assert client.taken <= 110
        if status == 413:
            assert "larger than 192 MiB: send fewer clips." in sentence(answer)[1]


def test_the_rest_of_a_refused_body_is_thrown_away_after_the_answer() -> None:
    client = Client(*[b"x" * 1_000] * 50)
    assert asyncio.run(client.ask(serve(), (b"content-type", b"text/csv")))[0] == 415
    assert client.taken == 50_000


class Body(bytearray):
    """What can be looked for after it should be gone."""


def test_an_upload_that_is_broken_off_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look for cycles: that comes when Python likes, and the body was in one."""
    kept: list[Any] = []

    def body() -> Body:
        one = Body()
        kept.append(weakref.ref(one))
        return one

    monkeypatch.setattr(service, "bytearray", body, raising=False)
    one = serve()
    gc.collect()
    gc.disable()
    try:
        for parts in ([], [b"x" * 1_000] * 3):
            assert asyncio.run(Client(*parts, whole=False, goes=True).ask(one)) == (0, "")
        assert kept
        assert [reference() for reference in kept] == [None] * len(kept)
    finally:
        gc.enable()
    assert (one.held, one.requests) == (0, 0)


def test_an_upload_that_is_slow_is_given_up() -> None:
    one = serve(seconds=0.2)
    answer = asyncio.run(Client(b"x", whole=False).ask(one))
    assert sentence(answer) == (408, "The request did not arrive within 0.2 s: send fewer clips.")
    assert one.held == 0


def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_HELD", 1_000)
    one = serve()

    async def attack() -> None:
        slow = Client(b"x" * 900, whole=False)
        task = asyncio.ensure_future(slow.ask(one))
        await asyncio.sleep(0.05)
        client = Client(b"x" * 200)
        assert sentence(await client.ask(one))[0] == 503
        assert int(client.headers[b"retry-after"]) > 0
        assert one.held == 900
        slow.gone.set()
        await task
        assert await Client(b"x" * 1_000).ask(one) == (200, "x" * 1_000)

    asyncio.run(attack())


class Work:
    """What a request does until it is told that nobody wants it, or may go on."""

    def __init__(self) -> None:
        self.begun = self.given_up = 0
        self.go_on = threading.Event()

    def __call__(self, body: bytearray) -> str:
        self.begun += 1
        try:
            while not self.go_on.wait(0.01):
                raise_if_given_up()
        except GivenUp:
            self.given_up += 1
            raise
        return "{}"

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(500):
            if holds():
                return
            await asyncio.sleep(0.01)
        pytest.fail("does not come")


def test_what_is_worked_on_and_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_REQUESTS", 4)
    work = Work()
    one = serve(work)

    async def attack() -> None:
        tasks = [asyncio.ensure_future(Client(b"{}").ask(one)) for _ in range(4)]
        await work.until(lambda: one.requests == 4 and work.begun == service.WORKERS)
        assert sentence(await Client(b"{}").ask(one)) == (503, "The server is busy: send the request again later.")
        assert (await Client().ask(one, method="GET", path="/ping"))[0] == 200
        work.go_on.set()
        assert [status for status, _ in await asyncio.gather(*tasks)] == [200] * 4
        assert await Client(b"{}").ask(one) == (200, "{}")

    asyncio.run(attack())


def test_what_nobody_waits_for_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that have gone, and a request that takes too long; begun or not."""
    work = Work()
    one = serve(work)

    async def leave() -> None:
        clients = [Client(b"{}") for _ in range(6)]
        tasks = [asyncio.ensure_future(client.ask(one)) for client in clients]
        await work.until(lambda: work.begun == service.WORKERS)
        for client in clients:
            client.gone.set()
        assert await asyncio.gather(*tasks) == [(0, "")] * 6
        await work.until(lambda: one.requests == 0)
        assert (work.begun, work.given_up, one.held) == (service.WORKERS, service.WORKERS, 0)
        one.seconds = 0.1
        assert sentence(await Client(b"{}").ask(one)) == (
            503,
            "The request took longer than 0.1 s: send fewer clips, or try later.",
        )
        await work.until(lambda: one.requests == 0)
        assert work.given_up == service.WORKERS + 1

    asyncio.run(leave())


def test_a_server_that_ends_gives_up_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "GRACE", 0.1)
    work = Work()
    one = serve(work)

    async def end() -> None:
        asked = [Client(b"{}"), Client(b"{}"), Client(b"{}"), Client(b"x", whole=False)]
        tasks = [asyncio.ensure_future(client.ask(one)) for client in asked]
        await work.until(lambda: work.begun == service.WORKERS)
        one.stop()
        for answer in await asyncio.gather(*tasks):
            assert sentence(answer) == (503, "The server ends: send the request again later.")
        await work.until(lambda: one.requests == 0)
        assert work.begun == service.WORKERS

    asyncio.run(end())


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (InputError("row 0: no."), 400, "row 0: no."),
        (MemoryError(), 503, "too little memory"),
        (KeyError("x"), 503, "a mistake in exvo"),
    ],
)
def test_whatever_an_answer_raises_becomes_a_sentence(raised: Exception, status: int, told: str) -> None:
    def fails(body: bytearray) -> str:
        raise raised

    answer = sentence(asyncio.run(Client(b"{}").ask(serve(fails))))
    assert answer[0] == status
    assert told in answer[1]


def test_a_signal_stops_the_service_and_then_does_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server sets its handlers after the app is made and before the app's life begins."""
    plain, pool, heard = fastapi.FastAPI, pa.default_memory_pool(), []
    monkeypatch.setattr(fastapi, "FastAPI", plain)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    installation.install(lambda body: "{}", 60.0)
    app: Any = fastapi.FastAPI()
    assert fastapi.FastAPI is plain
    try:
        for number in before:
            signal.signal(number, lambda number, _: heard.append(number))
        events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive() -> Any:
            return events.pop(0)

        async def send(message: Any) -> None:
            assert message["type"].endswith(".complete")

        asyncio.run(app({"type": "lifespan"}, receive, send))
        for number in before:
            app.service.end = float("inf")
            signal.raise_signal(number)
            assert app.service.end < float("inf")
        assert heard == list(before)
    finally:
        pa.set_memory_pool(pool)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert sentence(asyncio.run(Client(b"{}").ask(app, method="GET", path="/docs")))[0] == 404
