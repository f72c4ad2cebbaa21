"""The installation of a `Service` in front of MLflow's scoring server."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import fastapi
import pyarrow as pa

from exvo.serving.service import Message, Receive, Reply, Send, Service


def install(reply: Reply, seconds: float) -> None:
    """Puts a `Service` in front of the app that MLflow makes next, and makes SIGTERM and Ctrl-C stop it.

    MLflow first loads the model, then makes its app from `fastapi.FastAPI`. When the app starts, uvicorn has set its
    own signal handlers.

    Args:
        reply: answers a body.
        seconds: that a request may take.
    """
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow, in which pandas holds text, would keep freed memory
    plain = fastapi.FastAPI

    class App(plain):  # type: ignore[misc, valid-type]
        """MLflow's app behind a `Service`."""

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
    """Makes a signal stop the service before its present handler is called."""
    present = signal.getsignal(number)

    if callable(present):
        handler: Callable[[int, FrameType | None], Any] = present

        def stop(number: int, frame: FrameType | None) -> None:
            service.stop()
            handler(number, frame)

        signal.signal(number, stop)
