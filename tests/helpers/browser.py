"""A real Chromium without a window, driven through its DevTools protocol, with a microphone that plays a file."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")


class Browser:
    """A Chromium with a profile folder of its own.

    Args:
        folder: for its profile.
        microphone: a WAV file that the microphone plays once; None: a silent one that is refused.
    """

    def __init__(self, folder: Path, microphone: Path | None) -> None:
        words = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--mute-audio"]
        words += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "--disable-dev-shm-usage"]
        words += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--lang=en"]
        words += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--use-fake-device-for-media-stream"]
        if microphone is not None:
            words += ["--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={microphone}%noloop"]
        else:
            words += ["--deny-permission-prompts"]
        self._log = (folder.parent / f"{folder.name}.log").open("wb")
        self._process = subprocess.Popen(
            [*words, "about:blank"], stdout=self._log, stderr=self._log, start_new_session=True
        )
        self.loop = asyncio.new_event_loop()
        self.port = int(wait_for(lambda: (folder / "DevToolsActivePort").read_text().split()[0], 60))

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
        self._log.close()
        self.loop.close()

    def open(self, url: str, width: int = 1200, height: int = 900, dark: bool = False) -> Tab:
        """A tab that has loaded a page."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT")
        described = json.loads(urllib.request.urlopen(request, timeout=30).read())
        tab = Tab(self, described["webSocketDebuggerUrl"])
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            tab.call(f"{domain}.enable")
        tab.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.call("Emulation.setEmulatedMedia", features=[scheme])
        tab.call("Page.navigate", url=url)
        return tab


class Tab:
    """A tab: it evaluates JavaScript, clicks, and notes what it asks the network for.

    Attributes:
        requested: the addresses of all requests.
    """

    def __init__(self, browser: Browser, address: str) -> None:
        self._loop = browser.loop
        self.requested: list[str] = []
        self.problems: list[str] = []
        self._number = 0
        self._socket = self._loop.run_until_complete(connected(address))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), 60))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.write_message(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            text = await self._socket.read_message()
            assert text is not None, "the tab has closed"
            message = json.loads(text)
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            if message.get("method") == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
            if message.get("method") == "Log.entryAdded":
                self.problems.append(message["params"]["entry"]["text"])

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> Any:
        """The value of an expression once it is true."""
        try:
            return wait_for(lambda: self.js(expression), seconds, expression)
        except AssertionError as error:
            raise AssertionError(f"{error}; the page says: {self.text()}; {self.problems}") from None

    def text(self, selector: str = "body") -> str:
        """What a part of the page says."""
        return str(self.js(f"document.querySelector({selector!r})?.innerText ?? ''"))

    def click(self, selector: str) -> None:
        """Clicks as a person does, in the middle of what is there, once it can be clicked."""
        self.until(f"(() => {{const e = document.querySelector({selector!r}); return e && !e.disabled}})()")
        box, former = [0.0, 0.0], []
        while box != former:  # what comes and goes above it moves it
            former, box = (
                box,
                self.js(
                    f"(() => {{const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}}); "
                    "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]})()"
                ),
            )
            time.sleep(0.3)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def drop(self, selector: str, file: Path) -> None:
        """Gives a file to an input of files."""
        self.until(f"!!document.querySelector({selector!r})")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def resize(self, width: int, height: int) -> None:
        """Gives the page another size, CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def picture(self, file: Path) -> None:
        """Writes the whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))

    def elsewhere(self) -> list[str]:
        """The requests that went to another machine."""
        own = re.compile(r"(https?://127\.0\.0\.1:\d+/|data:|blob:|about:)")
        return [url for url in self.requested if not own.match(url)]

    def close(self) -> None:
        """Closes the tab as a person does."""
        self.call("Page.close")


async def connected(address: str) -> WebSocketClientConnection:
    """A connection whose messages may hold the picture of a page."""
    return await websocket_connect(address, max_message_size=2**27)


def wait_for(value: Callable[[], Any], seconds: float, what: str = "") -> Any:
    """A value once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError, IndexError):
            if found := value():
                return found
        time.sleep(0.2)
    raise AssertionError(f"{what or value} is not true after {seconds:g} s")
