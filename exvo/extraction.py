"""Extraction: the log-mels of a corpus into the feature store, on all cores. Stopped at any time, it can go on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from exvo.config import FeatureConfig, InputError
from exvo.containers import AudioError, open_regular, os_problem
from exvo.features import Audio, LogMel, read_audio
from exvo.store import Clip, Store

SHARD = 256  # files a task at most; what a task extracts it writes as one shard: up to 16 MB of vocal bursts
FEW = 16  # files a worker under which starting it isn't worth while
READ = 2**16  # bytes hashed at a time
PATIENCE = 5.0  # seconds that a worker has to end its task when the run is stopped
COUNTS = ("rate", "channels", "frames")  # 0 where unknown; the other columns NaN


class _Found(NamedTuple):
    """What came of one file."""

    content: str  # SHA-256 of its bytes; '' if they can't be read
    problem: str  # '' if its log-mel is in the store or about to be


_Done = tuple[list[_Found], str]  # what came of a task's files, and why its shard couldn't be written


def extract(
    folder: str | Path, files: Sequence[str], store_folder: str | Path, config: FeatureConfig, workers: int = 0
) -> tuple[Store, pd.DataFrame]:
    """Bring the log-mels of audio files into the feature store, but for those that it holds already.

    Args:
        folder: what the files are relative to.
        files: paths.
        store_folder: where the stores lie, one for each `FeatureConfig`.
        config: feature settings.
        workers: processes; 0 is one a core. A few files are done in this one.

    Returns:
        The store, and a table with one row a file, in the order given: file, content, seconds, rate (Hz), channels,
        frames, peak (full scale is 1), rms_db (dB to full scale), problem ('' if none). Unreadable files are in the
        table, with their problem; `check` refuses them.

    Raises:
        InputError: the features can't be written; what was written before is kept.
    """
    if workers < 0:
        raise InputError(f"The number of workers must be 0 (one a core) or more, found {workers}.")
    store = Store(store_folder, config)
    store.sweep()
    shards = Shards(Path(folder), files, store, workers or _cores())
    found: list[_Found] = []
    with tqdm(total=len(files), desc="features", unit="clip", disable=None) as bar:
        for results, problem in shards.extracted():
            if problem:
                store.refresh()
                raise InputError(
                    f"The features can't be written to {store.folder}: {problem}. The {len(store)} clips written "
                    "before are kept: free some space or choose another folder, and run again to go on from there."
                )
            found += results
            bar.update(len(results))
    store.refresh()
    return store, _table(store, files, found)


def check(audio: pd.DataFrame, skip_unreadable: bool) -> pd.DataFrame:
    """The readable rows of `extract`'s table.

    Raises:
        InputError: a file can't be used and `skip_unreadable` is false, or none can. It lists all of them.
    """
    bad = audio[audio["problem"] != ""]
    if len(bad) == 0 or (skip_unreadable and len(bad) < len(audio)):
        return audio.drop(bad.index)
    lines = [f"  {file}: {problem}" for file, problem in zip(bad["file"], bad["problem"], strict=True)]
    advice = "repair them" if skip_unreadable else "repair them, or pass skip_unreadable=true to leave them out"
    raise InputError("\n".join([f"{len(bad)} of {len(audio)} audio files can't be used: {advice}.", *lines]))


class Shards:
    """The files in tasks, each of which extracts what the store lacks of them and writes that as one shard.

    Processes do them. Threads don't help here: of a short WAV file's time most goes into calls so small that the
    threads wait for the interpreter's lock (`make bench` has the figures).
    """

    def __init__(self, folder: Path, files: Sequence[str], store: Store, workers: int) -> None:
        self.store = store
        tasks = workers * math.ceil(len(files) / (workers * SHARD))  # as many for each worker
        size = math.ceil(len(files) / max(tasks, 1)) or 1
        self.tasks = [[folder / file for file in files[at : at + size]] for at in range(0, len(files), size)]
        self.workers = min(workers, len(self.tasks)) if workers > 1 and len(files) > workers * FEW else 0

    def task(self, number: int) -> _Done:
        """What came of a task's files, and why it could not be written ('' if it was)."""
        done: dict[str, Clip] = {}
        try:
            found = _process(self.tasks[number], self.store, done)
        finally:  # interrupted, it keeps what it has
            problem = _write(self.store, done)
        return found, problem

    def extracted(self) -> Iterator[_Done]:
        """All tasks, in order.

        Raises:
            InputError: a worker died.
        """
        with threadpool_limits(1):  # the threads of BLAS, forked, wait for each other
            if self.workers:
                yield from self._by_workers()
            else:
                yield from map(self.task, range(len(self.tasks)))

    def _by_workers(self) -> Iterator[_Done]:
        """Each worker has its tasks from the start, so it begins while the next is being forked, and ends by itself."""
        stop = multiprocessing.Event()
        workers: list[tuple[multiprocessing.Process, Connection]] = []
        try:
            for first in range(self.workers):
                results, sender = multiprocessing.Pipe(duplex=False)
                worker = multiprocessing.Process(
                    target=_work, args=(self, first, sender, stop, os.getpid()), daemon=True
                )
                worker.start()
                sender.close()  # so that the worker's end is the only one
                workers.append((worker, results))
            for number in range(len(self.tasks)):
                yield _receive(*workers[number % self.workers])
        finally:
            stop.set()
            for worker, results in workers:
                results.close()
                worker.join(PATIENCE)
                worker.terminate()
                worker.join()


def _work(shards: Shards, first: int, results: Connection, stop: Event, parent: int) -> None:
    """A worker's tasks, as long as somebody waits for them."""
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        for number in range(first, len(shards.tasks), shards.workers):
            if stop.is_set() or os.getppid() != parent:
                return
            try:
                results.send(shards.task(number))
            except Exception as error:
                results.send(error)


def _receive(worker: multiprocessing.Process, results: Connection) -> _Done:
    """What a worker sends next; its exceptions are raised here."""
    try:
        done: _Done | Exception = results.recv()
    except (EOFError, OSError):
        worker.join()
        raise InputError(
            f"A process that decodes audio has died ({_end(worker.exitcode)}). What was extracted before is kept: run "
            "again to go on from there, with less memory in use or with workers=1."
        ) from None
    if isinstance(done, Exception):
        raise done
    return done


def _end(code: int | None) -> str:
    return f"killed by signal {-code}" if code is not None and code < 0 else f"status {code}"


def _process(paths: Sequence[Path], store: Store, done: dict[str, Clip]) -> list[_Found]:
    """Hash files; decode those whose clips the store doesn't hold and leave them in `done`."""
    found: list[_Found] = []
    log_mel = LogMel(store.config)
    for path in paths:
        content, problem = "", ""
        try:
            with open_regular(path) as file:
                before = _state(os.fstat(file.fileno()))
                content = _digest(file)
            if content not in done and not store.intact(content):
                audio = read_audio(path, store.config)
                if _state(os.stat(path)) == before:
                    done[content] = _clip(content, audio, log_mel)
                else:
                    content, problem = "", "changed while it was read"
        except OSError as error:
            problem = os_problem(error)
        except AudioError as error:
            problem = error.problem
        found.append(_Found(content, problem))
    return found


def _digest(file: io.FileIO) -> str:
    """SHA-256. `hashlib.file_digest` clears a quarter of a megabyte first, which for short clips takes a while."""
    digest = hashlib.sha256()
    while block := file.read(READ):
        digest.update(block)
    return digest.hexdigest()


def _clip(content: str, audio: Audio, log_mel: LogMel) -> Clip:
    """A clip with its log-mel and levels."""
    peak = float(np.abs(audio.waveform).max())
    scaled = audio.waveform / peak  # so that no square vanishes
    rms_db = 20.0 * math.log10(peak) + 10.0 * math.log10(float(np.dot(scaled, scaled)) / len(scaled))
    return Clip(content, log_mel(audio.waveform), audio.seconds, audio.rate, audio.channels, peak, rms_db)


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    """What changes when a file is replaced or written to."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _write(store: Store, done: Mapping[str, Clip]) -> str:
    """Write what is done as a shard; '' or why it can't be."""
    try:
        store.add(list(done.values()))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _table(store: Store, files: Sequence[str], found: Sequence[_Found]) -> pd.DataFrame:
    contents = [result.content for result in found]
    known = store.table().reindex(contents).reset_index(drop=True)
    known[list(COUNTS)] = known[list(COUNTS)].fillna(0).astype(np.int64)
    table = known.assign(file=list(files), content=contents, problem=[result.problem for result in found])
    return table[["file", "content", "seconds", "rate", "channels", "frames", "peak", "rms_db", "problem"]]


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
