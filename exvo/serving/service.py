"""The served model over HTTP, in front of MLflow's app: limits of size, number and time, and refusals.

MLflow's app (3.17) reads bodies of any size, works on all requests at once, and continues when nobody waits for the
answer any more. Here `/invocations` is answered without it; it answers `/ping`, `/health` and `/version`, and no other
page is open. Each request that is not answered is refused with one sentence in JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from exvo.devices import return_freed_memory
from exvo.errors import InputError
from exvo.serving.request import MAX_BODY, GivenUp, given_up_check

WORKERS = 2
"""Requests that are worked on at the same time: one is decoded while another is in the network, on all cores."""

MAX_REQUESTS = 32
"""Requests that are worked on or wait for a worker: with a second of audio each they take some seconds."""

MAX_HELD = 2 * MAX_BODY
"""Bytes of all bodies in memory, including those that still arrive."""

LARGE = 2**20
"""Bytes of a body after which freed memory is returned to the system."""

GRACE = 10.0
"""Seconds that requests have left when the server is told to stop."""

DRAIN = 5.0
"""Seconds for which the rest of a refused body is read and dropped: a client cut off while sending sees no answer."""

RETRY = 10
"""Seconds after which a client that met a busy server may try again."""

OPEN_PAGES = ("/ping", "/health", "/version")

ERROR_CODES = {404: "ENDPOINT_NOT_FOUND", 405: "BAD_REQUEST", 408: "DEADLINE_EXCEEDED", 503: "TEMPORARILY_UNAVAILABLE"}
"""MLflow's error code for a status; for all others it is INVALID_PARAMETER_VALUE."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Reply = Callable[[bytearray], str]
"""From a body to the JSON of its answer. May empty the body.

Raises:
    InputError: the request can't be answered.
    GivenUp: nobody waits for the answer any more.
"""


class Refused(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        sentence: the reason.
        allow: the method that the page takes, where the request has another; else empty.
    """

    def __init__(self, status: int, sentence: str, allow: str = "") -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.allow = status, sentence, allow


class Job:
    """A request that waits for a worker or is worked on.

    Attributes:
        body: None once work has begun, or the request is given up.
        size: bytes of the body.
        given_up: whether nobody waits for the answer any more.
    """

    def __init__(self, body: bytearray) -> None:
        self.body: bytearray | None = body
        self.size = len(body)
        self.given_up = False

    def raise_if_given_up(self) -> None:
        """Ends the work on a request that is given up, see `request.given_up_check`.

        Raises:
            GivenUp: it is given up.
        """
        if self.given_up:
            raise GivenUp

    def give_up(self) -> None:
        """Drops the body, and ends the work at the next clip or batch."""
        self.given_up, self.body = True, None

    def run(self, reply: Reply) -> tuple[int, str]:
        """The status of HTTP, and the answer or a sentence.

        Never raises an error: its traceback would keep the body in memory.
        """
        body, self.body = self.body, None
        given_up_check.set(self.raise_if_given_up)
        try:
            self.raise_if_given_up()
            assert body is not None
            return 200, reply(body)
        except InputError as error:
            return 400, str(error)
        except GivenUp:
            return 503, "The request was given up: send it again."
        except MemoryError:
            return 503, "The server has too little memory for this request: send fewer clips."
        except Exception:
            logging.getLogger("exvo").exception("A request failed; this is a mistake in exvo, please report it.")
            return 503, "The request failed by a mistake in exvo, which the server's log shows: please report it."
        finally:
            if self.size > LARGE:
                return_freed_memory()


class Service:
    """An ASGI app in front of MLflow's.

    Args:
        app: MLflow's.
        reply: answers a body.
        seconds: that a request may take, from its head to its answer.

    Attributes:
        requests: number of requests that wait for a worker or are worked on.
        held: bytes of all bodies in memory.
        end: when the server stops, on the clock of `time.monotonic`, seconds.
    """

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], reply: Reply, seconds: float) -> None:
        self.app, self.reply, self.seconds = app, reply, seconds
        self.pool = ThreadPoolExecutor(WORKERS, "request")
        self.requests = self.held = 0
        self.end = float("inf")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers a request or refuses it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path, method = scope["path"].rstrip("/"), scope["method"]
        try:
            if path == "/invocations":
                check_method(method, "POST")
                check_head(scope["headers"])
                if answer := await self.answer(receive):
                    await respond(send, *answer)
            elif path in OPEN_PAGES:
                check_method("GET" if method == "HEAD" else method, "GET")
                await self.app({**scope, "path": path, "method": "GET"}, receive, send)
            else:
                raise Refused(404, "There is no such page: send a POST to /invocations, or a GET to /ping.")
        except Refused as refused:
            status, sentence, allow = refused.status, refused.sentence, refused.allow
        else:
            return
        await respond(send, status, sentence, allow, more=True)
        message: Message | None = {"more_body": True}
        deadline = time.monotonic() + DRAIN
        while message and message.get("more_body"):
            message = await self.next_message(receive, deadline)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def next_message(self, receive: Receive, deadline: float) -> Message | None:
        """The next message of the client; None if there is none before the deadline, or before the server stops."""
        while (left := min(deadline, self.end) - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, 0.5)):
                    return await receive()
            except TimeoutError:
                pass
        return None

    async def answer(self, receive: Receive) -> tuple[int, str] | None:
        """The status and body of the answer to a request; None if the client has gone.

        Raises:
            Refused: as for `read` and `work`, or the server is busy.
        """
        deadline = time.monotonic() + self.seconds
        body = bytearray()
        try:
            if not await self.read(receive, body, deadline):
                return None
            if self.requests >= MAX_REQUESTS:
                raise Refused(503, "The server is busy: send the request again later.")
            job, body = Job(body), bytearray()
        finally:
            self.held -= len(body)
        return await self.work(receive, job, deadline)

    async def read(self, receive: Receive, body: bytearray, deadline: float) -> bool:
        """Reads a request into `body`; False if the client has gone before its end.

        Raises:
            Refused: the body is too large or too slow, or too many bodies are in memory.
        """
        more = True
        while more:
            message = await self.next_message(receive, deadline)
            if message is None:
                raise self.refusal_when_late(
                    408, f"The request did not arrive within {self.seconds:g} s: send fewer clips."
                )
            if message["type"] == "http.disconnect":
                return False
            part = message.get("body", b"")
            body += part
            self.held += len(part)
            if len(body) > MAX_BODY:
                raise Refused(413, TOO_LARGE)
            if self.held > MAX_HELD:
                raise Refused(503, "The server holds too many large requests: send this one again later.")
            more = message.get("more_body", False)
        return True

    async def work(self, receive: Receive, job: Job, deadline: float) -> tuple[int, str] | None:
        """The status and body of the answer; None if the client has gone. A request without an answer is given up.

        Raises:
            Refused: it took too long.
        """
        loop = asyncio.get_running_loop()
        self.requests += 1
        future = self.pool.submit(job.run, self.reply)
        future.add_done_callback(lambda _: self.release(loop, job.size))
        done = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(self.next_message(receive, deadline))
        both: set[asyncio.Future[Any]] = {done, gone}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                return done.result()
            if gone.result() is not None:
                return None
            raise self.refusal_when_late(
                503, f"The request took longer than {self.seconds:g} s: send fewer clips, or try later."
            )
        finally:
            job.give_up()
            gone.cancel()
            done.cancel()

    def release(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        """Counts a request as done, answered or not; may be called in any thread."""

        def count() -> None:
            self.requests -= 1
            self.held -= size

        with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
            loop.call_soon_threadsafe(count)

    def refusal_when_late(self, status: int, sentence: str) -> Refused:
        """The refusal of a request whose time is over; another one if the server stops."""
        if self.end < float("inf"):
            return Refused(503, "The server ends: send the request again later.")
        return Refused(status, sentence)

    def stop(self) -> None:
        """Gives all requests `GRACE` seconds to end."""
        self.end = min(self.end, time.monotonic() + GRACE)


TOO_LARGE = f"The request is larger than {MAX_BODY // 2**20} MiB: send fewer clips."


def check_method(method: str, allowed: str) -> None:
    """Refuses a request with another method than the allowed one.

    Raises:
        Refused: it has another.
    """
    if method != allowed:
        raise Refused(405, f"This page takes {allowed}, not {method[:20]}.", allowed)


def check_head(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuses a request by its headers, before its body is read.

    Raises:
        Refused: the body is no JSON in UTF-8, or compressed, or too large.
    """
    values = {name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in headers}
    kind, *parameters = [part.strip().lower() for part in values.get("content-type", "").split(";")]
    if kind != "application/json":
        raise Refused(415, "The request's content type is not application/json: send JSON.")
    for name, _, value in (parameter.partition("=") for parameter in parameters):
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise Refused(415, "The request's charset is not utf-8: send UTF-8.")
    if values.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "The request's content-encoding is not identity: send it uncompressed.")
    length = values.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > MAX_BODY:
        raise Refused(413, TOO_LARGE)


async def respond(send: Send, status: int, text: str, allow: str = "", more: bool = False) -> None:
    """Sends an answer.

    Args:
        send: to the client.
        status: of HTTP.
        text: the JSON of the answer; a sentence where the status is not 200.
        allow: the method that the page takes, where the request has another.
        more: whether the answer stays open, so that the rest of the request can be read before it is closed.
    """
    error = {"error_code": ERROR_CODES.get(status, "INVALID_PARAMETER_VALUE"), "message": text}
    body = (text if status == 200 else json.dumps(error)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"%d" % RETRY))
    if allow:
        headers.append((b"allow", allow.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more})
