"""The served model over HTTP, in front of MLflow's app: what is read, how much at once, for how long, what is refused.

MLflow's app (3.17) reads bodies of any size, starts whatever it is sent, and goes on with it when nobody waits for the
answer any more. Here `/invocations` is answered without it; `/ping`, `/health` and `/version` are its own, and nothing
else is open. Whatever is not answered is refused with one sentence in JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import fastapi
import pyarrow as pa

from exvo.devices import return_freed_memory
from exvo.errors import InputError
from exvo.serving.request import MAX_BODY, GivenUp, still_wanted

AT_ONCE = 2
"""Requests that are worked on at the same time: one is decoded while another is in the network, on all cores."""

MAX_REQUESTS = 32
"""Requests that are worked on or wait for it: of common ones, of a second of audio, some seconds of work."""

MAX_HELD = 2 * MAX_BODY
"""Bytes of all bodies that are kept at the same time, those that still arrive among them."""

LARGE = 2**20
"""Bytes of a body after which freed memory goes back to the system."""

GRACE = 10.0
"""Seconds that requests have left when the server is told to end."""

DRAIN = 5.0
"""Seconds in which the rest of a refused body is thrown away: a client cut off in mid-sending sees no answer."""

RETRY = 10
"""Seconds after which a client that met a busy server may try again."""

OPEN = ("/ping", "/health", "/version")

CODES = {404: "ENDPOINT_NOT_FOUND", 405: "BAD_REQUEST", 408: "DEADLINE_EXCEEDED", 503: "TEMPORARILY_UNAVAILABLE"}
"""MLflow's words for a status; all other are INVALID_PARAMETER_VALUE."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Reply = Callable[[bytearray], str]
"""Body -> JSON of the answer. Raises InputError for what can't be answered; may empty the body."""


class Refused(Exception):
    """A request that is not answered: its status, one sentence, the method that the page takes where it is another."""

    def __init__(self, status: int, sentence: str, allow: str = "") -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.allow = status, sentence, allow


class Job:
    """A request that waits for a thread or has one."""

    def __init__(self, body: bytearray) -> None:
        self.body: bytearray | None = body
        self.size = len(body)
        self.given_up = False

    def still_wanted(self) -> None:
        """See `request.still_wanted`."""
        if self.given_up:
            raise GivenUp

    def give_up(self) -> None:
        """Lets go of the body, and of the work at the next clip or batch."""
        self.given_up, self.body = True, None

    def run(self, reply: Reply) -> tuple[int, str]:
        """Status, and the answer or a sentence. It never raises: an error would keep the body with its traceback."""
        body, self.body = self.body, None
        still_wanted.set(self.still_wanted)
        try:
            self.still_wanted()
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
    """

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], reply: Reply, seconds: float) -> None:
        self.app, self.reply, self.seconds = app, reply, seconds
        self.pool = ThreadPoolExecutor(AT_ONCE, "request")
        self.requests = self.held = 0
        self.end = float("inf")  # of the server, on the clock of `time.monotonic`

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
            elif path in OPEN:
                check_method("GET" if method == "HEAD" else method, "GET")
                await self.app({**scope, "path": path, "method": "GET"}, receive, send)
            else:
                raise Refused(404, "There is no such page: send a POST to /invocations, or a GET to /ping.")
        except Refused as refused:
            status, sentence, allow = refused.status, refused.sentence, refused.allow
        else:
            return
        await respond(send, status, sentence, allow, more=True)
        rest: Message | None = {"more_body": True}
        until = time.monotonic() + DRAIN
        while rest and rest.get("more_body"):
            rest = await self.next(receive, until)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def next(self, receive: Receive, until: float) -> Message | None:
        """The next message of the client; None where there is none until then, or until the server ends."""
        while (left := min(until, self.end) - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, 0.5)):
                    return await receive()
            except TimeoutError:
                pass
        return None

    async def answer(self, receive: Receive) -> tuple[int, str] | None:
        """Status and body of the answer to a request; None where the client has gone.

        Raises:
            Refused: see `read` and `work`, or the server is busy.
        """
        until = time.monotonic() + self.seconds
        body = bytearray()
        try:
            if not await self.read(receive, body, until):
                return None
            if self.requests >= MAX_REQUESTS:
                raise Refused(503, "The server is busy: send the request again later.")
            job, body = Job(body), bytearray()
        finally:
            self.held -= len(body)
        return await self.work(receive, job, until)

    async def read(self, receive: Receive, body: bytearray, until: float) -> bool:
        """Reads a body; False where the client has gone before its end.

        Raises:
            Refused: it is too large, too slow, or there are too many.
        """
        more = True
        while more:
            message = await self.next(receive, until)
            if message is None:
                raise self.late(408, f"The request did not arrive within {self.seconds:g} s: send fewer clips.")
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

    async def work(self, receive: Receive, job: Job, until: float) -> tuple[int, str] | None:
        """Status and body of the answer; None where the client has gone. What is late or not wanted is given up.

        Raises:
            Refused: it took too long.
        """
        loop = asyncio.get_running_loop()
        self.requests += 1
        future = self.pool.submit(job.run, self.reply)
        future.add_done_callback(lambda _: self.release(loop, job.size))
        done = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(self.next(receive, until))
        both: set[asyncio.Future[Any]] = {done, gone}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                return done.result()
            if gone.result() is not None:
                return None
            raise self.late(503, f"The request took longer than {self.seconds:g} s: send fewer clips, or try later.")
        finally:
            job.give_up()
            gone.cancel()
            done.cancel()

    def release(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        """Counts a request as done, answered or not; in whichever thread has done it."""

        def count() -> None:
            self.requests -= 1
            self.held -= size

        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            loop.call_soon_threadsafe(count)

    def late(self, status: int, sentence: str) -> Refused:
        """What to answer where time is over: the request's, or the server's."""
        if self.end < float("inf"):
            return Refused(503, "The server ends: send the request again later.")
        return Refused(status, sentence)

    def stop(self) -> None:
        """Ends all requests in `GRACE` seconds."""
        self.end = min(self.end, time.monotonic() + GRACE)


TOO_LARGE = f"The request is larger than {MAX_BODY // 2**20} MiB: send fewer clips."


def check_method(method: str, right: str) -> None:
    """Raises Refused for another method."""
    if method != right:
        raise Refused(405, f"This page takes {right}, not {method[:20]}.", right)


def check_head(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuses a request whose body is not read.

    Raises:
        Refused: it is no JSON in UTF-8, or compressed, or too large.
    """
    given = {name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in headers}
    kind, *parameters = [part.strip().lower() for part in given.get("content-type", "").split(";")]
    if kind != "application/json":
        raise Refused(415, "The request's content type is not application/json: send JSON.")
    for name, _, value in (parameter.partition("=") for parameter in parameters):
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise Refused(415, "The request's charset is not utf-8: send UTF-8.")
    if given.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "The request's content-encoding is not identity: send it uncompressed.")
    length = given.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > MAX_BODY:
        raise Refused(413, TOO_LARGE)


async def respond(send: Send, status: int, text: str, allow: str = "", more: bool = False) -> None:
    """Sends an answer, or a sentence where the status is not 200; `more` leaves it open, for what still arrives."""
    told = {"error_code": CODES.get(status, "INVALID_PARAMETER_VALUE"), "message": text}
    content = text if status == 200 else json.dumps(told)
    body = content.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"%d" % RETRY))
    if allow:
        headers.append((b"allow", allow.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more})


def install(reply: Reply, seconds: float) -> None:
    """Puts a `Service` in front of the app that MLflow makes next, and has SIGTERM and Ctrl-C stop it.

    MLflow loads the model first, then makes its app from `fastapi.FastAPI`. When the app's life begins, uvicorn has set
    its own signal handlers.

    Args:
        reply: answers a body.
        seconds: that a request may take.
    """
    pa.set_memory_pool(pa.system_memory_pool())  # pandas has text in Arrow, whose own pool keeps what is freed
    plain = fastapi.FastAPI

    class App(plain):  # type: ignore[misc, valid-type]
        """MLflow's app, asked through a `Service`."""

        def __init__(self, *args: Any, **options: Any) -> None:
            fastapi.FastAPI = plain  # type: ignore[misc]
            super().__init__(*args, **options)
            inner = functools.partial(plain.__call__, self)
            self.service = Service(inner, reply, seconds)

        async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan" and threading.current_thread() is threading.main_thread():
                for number in (signal.SIGTERM, signal.SIGINT):
                    stop_first(number, self.service)
            await self.service(scope, receive, send)

    fastapi.FastAPI = App  # type: ignore[misc]


def stop_first(number: signal.Signals, service: Service) -> None:
    """Has a signal stop the service before its present handler is called."""
    before = signal.getsignal(number)

    if callable(before):
        then: Callable[[int, FrameType | None], Any] = before

        def stop(number: int, frame: FrameType | None) -> None:
            service.stop()
            then(number, frame)

        signal.signal(number, stop)
