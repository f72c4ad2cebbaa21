"""Attacks on the served model: `python -m fuzz.attack <model>` starts `mlflow models serve` on loopback and reports.

What the server answers, how much memory it takes at most and keeps, and how long /ping waits meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import soundfile

from fuzz.material import audio, text

LENGTH = 199_229_440  # bytes promised by an upload that is broken off
SENT = 100 * 2**20  # bytes of it that are sent
STRUCTURE = 40 * 2**20  # bytes of a body that is nothing but structure
GOOD = json.dumps({"dataframe_records": [{"audio": text(audio()[0])}]}).encode()


class Watch:
    """A server on loopback, watched: its memory, and how long /ping waits."""

    def __init__(self, port: int, pid: int) -> None:
        self.port, self.process = port, psutil.Process(pid)
        self.most = self.slowest = 0.0
        self.pings: Counter[object] = Counter()

    def memory(self) -> float:
        """Resident memory of the server's processes, MiB."""
        total = 0
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / 2**20

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, str]:
        """Status and body of an answer; status 0 where there is none within 150 s."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=150)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, type(error).__name__
        finally:
            connection.close()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within it `most` (MiB), `slowest` (seconds of a /ping) and `pings` (by status) are kept up to date."""
        self.most, self.slowest, self.pings = self.memory(), 0.0, Counter()
        done = threading.Event()

        def ping() -> None:
            while not done.wait(0.1):
                started = time.monotonic()
                self.pings[self.ask("GET", "/ping")[0]] += 1
                self.slowest = max(self.slowest, time.monotonic() - started)

        def look() -> None:
            while not done.wait(0.02):
                self.most = max(self.most, self.memory())

        threads = [threading.Thread(target=ping), threading.Thread(target=look)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            done.set()
            for thread in threads:
                thread.join()


def head(length: int) -> bytes:
    """Of a request whose body has so many bytes."""
    lines = ["POST /invocations HTTP/1.1", "Host: x", f"Content-Length: {length}", "Content-Type: application/json"]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def abort(port: int, sent: int = SENT) -> None:
    """An upload that is broken off."""
    head = (
        f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {LENGTH}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head.encode())
        with contextlib.suppress(OSError):
            for _ in range(sent // 2**20):
                connection.sendall(b"A" * 2**20)


@cache
def silence(seconds: int = 59, rate: int = 655_350, channels: int = 8) -> bytes:
    """A FLAC of zeros: much to decode in few bytes."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, channels, "PCM_16", format="FLAC") as sound:
        for _ in range(seconds):
            sound.write(np.zeros((rate, channels), np.int16))
    return file.getvalue()


def silent_request(clips: int = 10) -> bytes:
    """A request of clips that take a minute to decode; each has another checksum of samples, which nobody compares."""
    whole = silence()
    different = [whole[:26] + number.to_bytes(16, "big") + whole[42:] for number in range(clips)]
    return json.dumps({"dataframe_records": [{"audio": text(clip)} for clip in different]}).encode()


@cache
def busy_request(clips: int = 5, seconds: int = 59) -> bytes:
    """A request that may be sent, and takes seconds: noise at 8 kHz."""
    return noise_request(clips, (seconds * 8_000,), 8_000, "ULAW")


@cache
def largest_request() -> bytes:
    """A request that may be sent, of 143 MiB: five minutes of noise in stereo at 48 kHz with 32 bits."""
    return noise_request(5, (59 * 48_000, 2), 48_000, "FLOAT")


def noise_request(clips: int, shape: tuple[int, ...], rate: int, kind: str) -> bytes:
    """A request of clips of noise, (samples,) or (samples, channels), as WAV files of a kind."""
    rows = []
    for seed in range(clips):
        file, noise = io.BytesIO(), np.random.default_rng(seed).uniform(-0.5, 0.5, shape)
        soundfile.write(file, noise, rate, format="WAV", subtype=kind)
        rows.append({"audio": text(file.getvalue())})
    return json.dumps({"dataframe_records": rows}).encode()


def leave(port: int, body: bytes, seconds: float = 0.0) -> None:
    """A request whose client goes before it is answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head(len(body)) + body)
        time.sleep(seconds)


def structures(size: int = STRUCTURE) -> dict[str, bytes]:
    """Bodies from which a parser makes many times their size."""
    return {
        "[]": b'{"dataframe_records": [' + b"[]," * (size // 3) + b"[]]}",
        "{} under an unknown key": b'{"x": [' + b"{}," * (size // 3) + b"{}]}",
        "two-letter words": b'{"dataframe_records": [{"audio": "' + b"AA " * (size // 3) + b'"}]}',
        "numbers": b'{"dataframe_records": [{"profile": [' + b"0," * (size // 2) + b"0]}]}",
        "not ASCII": b'{"dataframe_records": [{"audio": "' + b"A" * size + '𝔘"}]}'.encode(),
    }


def main() -> int:
    """Runs all attacks on a server of its own and prints what came of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="URI of the model, as `mlflow models serve -m` takes it")
    options = parser.parse_args()
    silent, busy = silent_request(), busy_request()
    with tempfile.TemporaryDirectory() as folder, started(options.model, Path(folder) / "log") as watch:

        def post(body: bytes) -> int:
            return watch.ask("POST", "/invocations", body)[0]

        def many(times: int, attack: Callable[..., None], *arguments: object) -> list[str]:
            for _ in range(times):
                attack(watch.port, *arguments)
            return ["gone"] * times

        def beside(times: int, body: bytes) -> list[int]:
            with ThreadPoolExecutor(times) as pool:
                others = [pool.submit(post, body) for _ in range(times)]
                time.sleep(1)
                return [post(GOOD), *(other.result() for other in others)]

        report(watch, "a good request", lambda: [post(GOOD)])
        for times in (1, 5, 20):
            report(watch, f"{times} uploads broken off", lambda times=times: many(times, abort))  # type: ignore[misc]
        for name, body in structures().items():
            report(watch, f"40 MiB: {name}", lambda body=body: [post(body)])  # type: ignore[misc]
        report(watch, "5 minutes of audio in 143 MiB", lambda: [post(largest_request())])
        report(watch, "ten silent FLACs", lambda: [post(silent)])
        report(watch, "8 times that, and a good one", lambda: beside(8, silent))
        report(watch, "5 minutes of audio", lambda: [post(busy)])
        report(watch, "20 times that, clients gone", lambda: many(20, leave, busy))
        report(watch, "a good request after that", lambda: [post(GOOD)])
        report(watch, "40 times that, and a good one", lambda: beside(40, busy))
        with ThreadPoolExecutor(40) as pool:
            for body in [busy, silent] * 20:
                pool.submit(post, body)
            time.sleep(2)
            processes = [watch.process, *watch.process.children(recursive=True)]
            began = time.monotonic()
            watch.process.terminate()
            left = psutil.wait_procs(processes, timeout=60)[1]
            outcome = f"{len(left)} processes STILL THERE" if left else "ended"
            print(f"SIGTERM under all that: {outcome} after {time.monotonic() - began:.1f} s", flush=True)
            for process in left:
                process.kill()
        print(f"tracebacks in the log: {(Path(folder) / 'log').read_text().count('Traceback')}")
    return 0


def report(watch: Watch, name: str, attack: Callable[[], Sequence[object]]) -> None:
    """A line: seconds, statuses, memory before, at most and after, the slowest /ping."""
    before, began = watch.memory(), time.monotonic()
    with watch.watched():
        statuses = Counter(attack())
        seconds = time.monotonic() - began
    time.sleep(2)
    line = f"{seconds:6.1f} s  statuses {dict(statuses)}  MiB {before:.0f} -> {watch.most:.0f} -> {watch.memory():.0f}"
    print(f"{name:<32} {line}  /ping at most {watch.slowest:.2f} s {dict(watch.pings)}", flush=True)


@contextlib.contextmanager
def started(model: str, log: Path) -> Iterator[Watch]:
    """`mlflow models serve` on a free port, in a session of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    words = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*words, "-h", "127.0.0.1", "-p", str(port)], env=os.environ | {"PATH": path}, stdout=out, stderr=out
        )
    watch = Watch(port, process.pid)
    try:
        while watch.ask("GET", "/ping")[0] != 200:
            if process.poll() is not None:
                raise RuntimeError(log.read_text()[-2_000:])
            time.sleep(0.2)
        yield watch
    finally:
        kill(watch.process)


def kill(process: psutil.Process) -> None:
    """Ends a process and its children at once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


if __name__ == "__main__":
    sys.exit(main())
