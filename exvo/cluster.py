"""A Dask cluster that shares out long work: the files of an extraction, the clips of a prediction.

Dask decides which worker does which part, and has the parts of a lost worker done by others. So a part may be done
twice: what it leaves on the disk must be the same each time. All machines have the same code, and see the same folders.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import logging
import os
import platform
import sys
import threading
import time
import urllib.parse
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from exvo.errors import InputError
from exvo.extras import require
from exvo.machine import Machine, source_digest, this_machine
from exvo.text import listing, printable, reason

SECONDS = 10
"""That a scheduler is given to answer, and then a first worker to join it."""

FILES = 100  # the most files that workers are asked for before the work begins, each of another folder
HEAD = 2**16  # bytes of such a file that must be the same everywhere

Part = TypeVar("Part", bound=Sized)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Expected:
    """What must be so on each worker.

    Attributes:
        token: of this work.
        code: Python, PyTorch and exvo's code, and the version of each.
        device: cpu or cuda.
        folder: into which workers write, where the file `token` lies; empty: they write nothing.
        files: the path and the digest of some of the files that they read.
        threads: whether the number of PyTorch's threads may change the last bits of a result.
    """

    token: str
    code: tuple[tuple[str, str], ...]
    device: str
    folder: str
    files: tuple[tuple[str, str], ...]
    threads: bool


def share_out(
    address: str,
    work: Callable[[Part], Result],
    parts: Sequence[Part],
    *,
    what: str,
    done: Callable[[int], object],
    files: Sequence[str],
    folder: Path | None = None,
    device: str = "cpu",
    threads: bool = True,
    tolerance: str = "",
) -> list[Result]:
    """The result of each part of some work, in their order.

    Args:
        address: of the cluster's scheduler; empty: this process does one part after the other.
        work: does a part. Each thread of a worker gets a copy of its own.
        parts: of the work.
        what: is computed, one word.
        done: is told how many more items are done, with each part.
        files: absolute paths of the files that are read.
        folder: into which the parts write; None: into none.
        device: where they compute, cpu or cuda.
        threads: whether the number of PyTorch's threads may change the last bits of a result.
        tolerance: by how much results may differ where the workers are other machines than this one, in words.

    Raises:
        InputError: the scheduler does not answer, has no workers, or is lost; a worker has other code, or does not see
            the folder or the files; or as `work` does.
    """
    results: dict[int, Result] = {}
    if not address:
        for number, part in enumerate(parts):
            results[number] = work(part)
            done(len(part))
        return list(results.values())
    distributed = require("distributed", "cluster", f"cluster={printable(address, 200)}")
    check_address(address)
    with _connected(distributed, address) as client, _expected(files, folder, device, threads) as expected:
        own, known = this_machine(threads), set(_machines(client, address, expected))
        if known:  # else all have ended meanwhile, and those that come instead say it
            _say(_comparison(address, own, known, tolerance))
        for number, (machine, results[number]) in _results(client, address, work, parts, what, expected):
            if machine not in known:
                known.add(machine)
                _say(_comparison(address, own, known, tolerance))
            done(len(parts[number]))
        client.run(_forget, on_error="ignore")
    return [results[number] for number in range(len(parts))]


def check_address(address: str) -> None:
    """Refuses what can't be the address of a scheduler.

    Raises:
        InputError: says what one looks like.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        is_address = parts.scheme in ("tcp", "tls") and parts.hostname and parts.port and not parts.path.strip("/")
    except ValueError:
        is_address = False
    if not is_address:
        raise InputError(
            f"cluster={printable(address, 200)} is not the address of a Dask scheduler; give the one that `dask "
            "scheduler` prints, tcp://<host>:8786 or tls://<host>:8786."
        )


def refuse_unseen(paths: Mapping[str, str]) -> None:
    """Refuses a cluster whose workers can't read a file that this machine can.

    Args:
        paths: the files that they could not read, and why.

    Raises:
        InputError: names the first such file.
    """
    for path, problem in paths.items():
        if os.path.isfile(path) and os.access(path, os.R_OK):
            raise InputError(
                f"A worker of the cluster can't read {printable(path, 200)} ({problem}), which this machine can: the "
                "folder must be seen under the same path by all machines."
            )


@contextlib.contextmanager
def _connected(distributed: ModuleType, address: str) -> Iterator[Any]:
    """A client of the scheduler, which has a worker."""
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it would report is a sentence here
    try:
        asyncio.run(asyncio.wait_for(_greet(address), SECONDS))
        client = distributed.Client(address, timeout=SECONDS, set_as_default=False)
    except Exception as error:  # a server of another kind answers in any way
        advice = "; for tls:// Dask's settings must name the certificates" if address.startswith("tls:") else ""
        raise InputError(
            f"cluster={address}: no Dask scheduler answers within {SECONDS} s ({reason(error)}); start one with `dask "
            f"scheduler`, and look whether a firewall is between{advice}."
        ) from None
    with contextlib.closing(client):
        try:
            client.wait_for_workers(1, timeout=SECONDS)
        except TimeoutError:
            raise InputError(
                f"cluster={address}: no worker has joined the scheduler within {SECONDS} s; start some with `dask "
                f"worker {address} --nthreads 1`."
            ) from None
        yield client


async def _greet(address: str) -> None:
    """Exchanges greetings with a scheduler: the client itself waits for these without end."""
    from distributed import Security
    from distributed.comm import connect

    comm = await connect(address, timeout=SECONDS, **Security().get_connection_args("client"))
    await comm.close()


@contextlib.contextmanager
def _expected(files: Sequence[str], folder: Path | None, device: str, threads: bool) -> Iterator[Expected]:
    """What workers must see; the file with the token, and those by which they answer, are there for the time."""
    token = uuid.uuid4().hex
    chosen = {os.path.dirname(path): path for path in files}
    digests = tuple((path, digest) for path in list(chosen.values())[:FILES] if (digest := _head(path)))
    place = os.path.abspath(folder) if folder else ""
    try:
        if place:
            _write_token(place, token, token)
        yield Expected(token, _code(), device, place, digests, threads)
    finally:
        for left in Path(place).glob(f".{token}*") if place else ():
            with contextlib.suppress(OSError):
                left.unlink()


def _write_token(folder: str, name: str, token: str) -> None:
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f".{name}"), "w", encoding="utf-8") as file:
        file.write(token)


def _head(path: str) -> str:
    """The digest of a file's beginning; empty where it can't be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read(HEAD)).hexdigest()
    except (OSError, ValueError):
        return ""


def _code() -> tuple[tuple[str, str], ...]:
    """What must be the same on all machines, and its version here."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return ("Python", python), ("PyTorch", version("torch")), ("exvo's code", source_digest()[:12])


@lru_cache(maxsize=4)
def examine(expected: Expected) -> Machine:
    """The machine of this worker; it leaves a file in the folder that all must see.

    Raises:
        InputError: something is not as it is expected.
    """
    where = f"The worker {platform.node()} (process {os.getpid()}) of the cluster"
    for (name, theirs), (_, own) in zip(expected.code, _code(), strict=True):
        if own != theirs:
            raise InputError(f"{where} has {name} {own}, and this machine {theirs}: install the same on both.")
    if expected.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError(f"{where} has no CUDA device; give device=cpu.")
    seen = "all machines must see it under the same path"
    if expected.folder:
        try:
            content = (Path(expected.folder) / f".{expected.token}").read_text(encoding="utf-8")
            assert content == expected.token
            _write_token(expected.folder, f"{expected.token}-{uuid.uuid4().hex}", expected.token)
        except (OSError, AssertionError) as error:
            raise InputError(f"{where} can't use the folder {expected.folder} ({reason(error)}); {seen}.") from None
    for path, content in expected.files:
        if _head(path) != content:
            raise InputError(f"{where} does not see {path} as this machine does; {seen}.")
    return this_machine(expected.threads)


def _machines(client: Any, address: str, expected: Expected) -> list[Machine]:
    """The machine of each worker that is there, after what these have written is seen here."""
    answers = client.run(examine, expected, on_error="return")
    present = {worker: answer for worker, answer in answers.items() if not isinstance(answer, OSError)}  # others ended
    for worker, answer in present.items():
        if not isinstance(answer, Machine):
            raise _refused(answer, f"cluster={address}: the worker {worker}")
    until = time.monotonic() + SECONDS
    while expected.folder and len(list(Path(expected.folder).glob(f".{expected.token}-*"))) < len(present):
        if time.monotonic() > until:
            raise InputError(
                f"cluster={address}: what workers write into {expected.folder} is not seen on this machine; all "
                "machines must see the same folder under that path."
            )
        time.sleep(0.1)
    return list(present.values())


def _refused(error: Exception, who: str) -> Exception:
    """An error of a worker: as a sentence where it lacks a module; Dask may give such an error as a text."""
    if isinstance(error, ImportError) or "ModuleNotFoundError" in str(error):
        return InputError(f"{who} can't import what it needs ({reason(error)}); install the same exvo there.")
    return error


def _comparison(address: str, own: Machine, machines: Iterable[Machine], tolerance: str) -> str:
    """Whether the workers give what this machine would give, in a line."""
    different = sorted({text for machine in machines for text in own.differences(machine)})
    if not different:
        return (
            f"cluster {address}: workers of this machine's processor, versions and threads: the result is this "
            "machine's, bit for bit"
        )
    return f"cluster {address}: other machines than this one ({listing(different)}): the result may differ {tolerance}"


@lru_cache(maxsize=64)
def _say(line: str) -> None:
    """Prints a line once."""
    print(line, flush=True)


def _results(
    client: Any, address: str, work: Callable[[Part], Result], parts: Sequence[Part], what: str, expected: Expected
) -> Iterator[tuple[int, tuple[Machine, Result]]]:
    """What the workers give of each part, as they come; see `share_out`.

    The work is one task, on which the parts depend: Dask then sends it to each worker once, and a part only to a worker
    that is free, so that one that joins late finds some left.
    """
    from distributed import CancelledError, KilledWorker, as_completed

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph")  # a network, once
        job = client.submit(_same, work, pure=False, key=f"work-{expected.token}")
    again = "run again; features that were written are kept."
    try:
        futures = client.map(_do, parts, job=job, expected=expected, pure=False, key=what)
        numbers = {future: number for number, future in enumerate(futures)}
        del futures
        for future in as_completed(list(numbers), loop=client.loop):
            result = future.result()
            yield numbers.pop(future), result
            future.release()  # the workers need not keep it
    except KilledWorker as error:
        deaths = error.allowed_failures + 1
        raise InputError(
            f"cluster={address}: {deaths} workers have died doing the same part. Give them more memory, or look into "
            f"their logs, and {again}"
        ) from None
    except CancelledError:
        raise InputError(f"cluster={address}: the scheduler is lost. Start it and {again}") from None
    except Exception as error:
        raise _refused(error, f"cluster={address}: a worker") from None


def _same(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Puts the work on the cluster as the result of a task, which Dask makes anew where it is lost."""
    return work


_jobs: dict[int, tuple[str, Callable[[Any], Any]]] = {}
"""The token and the work of each thread of this worker."""


def _do(part: Any, job: Callable[[Any], Any], expected: Expected) -> tuple[Machine, Any]:
    """Does a part on a worker; one that has joined late is examined first."""
    machine, thread = examine(expected), threading.get_ident()
    if thread not in _jobs or _jobs[thread][0] != expected.token:
        _jobs[thread] = expected.token, copy.deepcopy(job)
    return machine, _jobs[thread][1](part)


def _forget() -> None:
    """Frees what a worker keeps for the next part."""
    _jobs.clear()
