"""Stands before Gradio's app: lets through what the page needs, within the service's limits, and nothing else.

Gradio has more pages than this one needs: some fetch addresses that a request names, keep a history of runs, or show
who used it. They are answered with 404. Headers forbid the browser to load anything from elsewhere, and to
keep recordings.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from exvo.demo.visits import Visits
from exvo.errors import InputError
from exvo.serving.request import MAX_CLIP_BYTES
from exvo.serving.service import MAX_HELD, Message, Receive, Send

API = "/gradio_api"

READ = re.compile(
    rf"/|/config/?|/(assets|static)/.+|/theme\.css|/favicon\.ico|/manifest\.json|{API}/(theme\.css|info|queue/data|"
    r"upload_progress|startup-events)|/gradio_api/heartbeat/\w+|/gradio_api/file=.+"
)
"""Paths that are read."""

WRITTEN = (f"{API}/queue/join", f"{API}/upload", f"{API}/reset", f"{API}/cancel")
"""Paths to which something is sent."""

FILE = f"{API}/file="

MAX_CALL = 2**16
"""Bytes of a request that is no upload: it names at most three recordings."""

FORM = 2**16
"""Bytes of an upload beside the recording itself: the form around it."""

SWEEP = 5.0
"""Seconds from a look at what may be deleted to the next."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that only it can use."""

HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

App = Callable[[Message, Receive, Send], Awaitable[None]]


class Refused(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        sentence: the reason.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Guard:
    """An ASGI app in front of Gradio's.

    Args:
        app: Gradio's.
        visits: whose folder holds the uploads.
        loopback: whether only this machine is to reach it; then other names of it are refused too, under which a page
            from elsewhere could.
    """

    def __init__(self, app: App, visits: Visits, loopback: bool) -> None:
        self.app, self.visits, self.loopback = app, visits, loopback
        self.arriving = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers a request or refuses it."""
        if scope["type"] == "lifespan":
            await self.live(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self.answer(scope, receive, send)
            except Refused as refused:
                body = refused.sentence.encode()
                headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
                await send({"type": "http.response.start", "status": refused.status, "headers": headers})
                await send({"type": "http.response.body", "body": body})

    async def live(self, scope: Message, receive: Receive, send: Send) -> None:
        """The server's life, during which visits without a sign of life end."""

        async def sweep() -> None:
            while True:
                await asyncio.sleep(SWEEP)
                await asyncio.to_thread(self.visits.sweep)

        task = asyncio.create_task(sweep())
        try:
            await self.app(scope, receive, send)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def answer(self, scope: Message, receive: Receive, send: Send) -> None:
        """Has Gradio answer a request that the page needs.

        Raises:
            Refused: it is another one, or over the limits.
        """
        path, method = scope["path"], scope["method"]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self.check_host(headers.get("host", ""))
        if not (READ.fullmatch(path) if method in ("GET", "HEAD") else method == "POST" and path in WRITTEN):
            raise Refused(404, "There is no such page.")
        if path.startswith(FILE):
            self.check_file(unquote(path.removeprefix(FILE)))
        private = path.startswith(API)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = HEADERS | ({"cache-control": "no-store"} if private else {})
                kept = [pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in own]
                message["headers"] = kept + [(name.encode(), value.encode()) for name, value in own.items()]
            await send(message)

        if path == f"{API}/upload":
            await self.upload(scope, receive, send_with_headers, headers)
        elif method == "POST":
            await self.app(scope, replay(await self.read_call(receive)), send_with_headers)
        elif path.startswith(f"{API}/heartbeat/"):
            session = path.rpartition("/")[2]
            self.visits.of(session).connected = True
            try:
                await self.app(scope, receive, send_with_headers)
            finally:  # the page is closed, or loaded anew
                self.visits.end(session)
        else:
            await self.app(scope, receive, send_with_headers)

    def check_host(self, host: str) -> None:
        """Refuses names of this machine that are not loopback's."""
        if self.loopback and re.sub(r":\d+$", "", host).strip("[]") not in LOOPBACK:
            raise Refused(403, "This page is for this machine alone: open it as http://127.0.0.1.")

    def check_file(self, file: Any) -> None:
        """Refuses what is no recording of this page: another file, or an address that Gradio would fetch."""
        try:
            self.visits.within(str(file))
        except (InputError, ValueError):
            raise Refused(403, "This is no recording of this page.") from None

    async def upload(self, scope: Message, receive: Receive, send: Send, headers: dict[str, str]) -> None:
        """Has Gradio store an upload, if there is room for it.

        Raises:
            Refused: it is too large, or the recordings of all visits are.
        """
        text = headers.get("content-length", "")
        if not text.isdecimal():
            raise Refused(411, "The upload does not say how long it is.")
        length = int(text[:20])
        if length > MAX_CLIP_BYTES + FORM:
            raise Refused(413, f"The recording is larger than {MAX_CLIP_BYTES // 2**20} MiB.")
        if self.arriving + length + await asyncio.to_thread(self.visits.size) > MAX_HELD:
            raise Refused(503, "The page holds too many recordings: try again in a minute.")
        self.arriving += length
        try:
            await self.app(scope, receive, send)
        finally:
            self.arriving -= length

    async def read_call(self, receive: Receive) -> bytes:
        """The body of a request that is no upload, if it names no files but recordings of this page.

        Raises:
            Refused: it does, is too large, or no JSON.
        """
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "The request has ended.")
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > MAX_CALL:
                raise Refused(413, "The request is too large.")
        try:
            files = paths(json.loads(body))
        except (ValueError, RecursionError):
            raise Refused(400, "The request is no JSON, or too deep.") from None
        for file in files:
            self.check_file(file)
        return body


def paths(value: Any) -> list[Any]:
    """All that a request calls `path`, however deep.

    >>> paths({"data": [{"path": "a.wav", "meta": {}}, [{"path": "b.wav"}]]})
    ['a.wav', 'b.wav']
    """
    if isinstance(value, list):
        return [path for item in value for path in paths(item)]
    if isinstance(value, dict):
        own = [value["path"]] if "path" in value else []
        return own + [path for item in value.values() for path in paths(item)]
    return []


def replay(body: bytes) -> Receive:
    """A body that has been read, to be read again."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()  # until the answer is sent
        raise AssertionError

    return receive
