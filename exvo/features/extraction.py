"""Extraction: the log-mels of a corpus into the feature store, on all cores. Stopped at any time, it can go on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import multiprocessing.connection
import os
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.audio import Audio, read_audio
from exvo.features.containers import AudioError, open_regular, os_problem
from exvo.features.log_mel import LogMel
from exvo.features.shards import Clip
from exvo.features.store import Store
from exvo.files import on_disk, with_conversion

TASK = 16  # files that a worker takes at a time; for fewer it isn't worth while starting
SHARD = 256  # files after which a worker writes what it has as one shard: about 12 MB of vocal bursts
LARGE = 2**22  # numbers in log-mels after which it does so earlier: 16 MB
READ = 2**16  # bytes hashed at a time
WHOLE = 2**21  # bytes of a file that is read once, for its hash and its samples: a minute at 16 kHz
PATIENCE = 5.0  # seconds that a worker has to end its task when the run is stopped
FAINT = 1e-6  # a peak below which samples are scaled before they are squared, so that no square vanishes
COUNTS = ("rate", "channels", "frames")  # 0 where unknown; the other columns NaN


class _Found(NamedTuple):
    """What came of one file."""

    content: str  # SHA-256 of its bytes; '' if they can't be read
    problem: str  # '' if its log-mel is in the store or about to be


class _Done(NamedTuple):
    """What a process has done, with the shard that it wrote."""

    found: dict[int, list[_Found]]  # of each of its tasks since the last shard
    problem: str  # why the shard could not be written; '' if it was
    last: bool  # nothing follows


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
        frames, peak (full scale is 1), rms_db (dB to full scale), decoded (equal for equal samples in whatever file;
        '' if not known), note (what of the file is not in the log-mel; '' as a rule), problem ('' if none). Unreadable
        files are in the table, with their problem; `check` refuses them.

    Raises:
        InputError: the features can't be written; what was written before is kept.
    """
    if workers < 0:
        raise InputError(f"The number of workers must be 0 (one a core) or more, found {workers}.")
    store = Store(store_folder, config)
    store.sweep()
    found: dict[int, list[_Found]] = {}
    bar = tqdm(total=len(files), desc="features", unit="clip", disable=None)
    with bar, _Workers(_Tasks(Path(folder), files, store, config), workers or _cores()) as at_work:
        for done in at_work.results():
            store.refresh()
            if done.problem:
                break
            found |= done.found
            bar.update(sum(map(len, done.found.values())))
        else:
            return store, _table(store, files, [one for number in sorted(found) for one in found[number]])
    store.refresh()  # the other workers have written theirs
    raise InputError(
        f"The features can't be written to {store.folder}: {done.problem}. The {len(store)} clips written before are "
        "kept: free some space or choose another folder, and run again to go on from there."
    )


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


class _Tasks:
    """The files in tasks, each of which is taken once, by one process or another."""

    def __init__(self, folder: Path, files: Sequence[str], store: Store, config: FeatureConfig) -> None:
        self.folder, self.store, self.config, self.log_mel = folder, store, config, LogMel(config)
        self.tasks = [files[at : at + TASK] for at in range(0, len(files), TASK)]
        self._taken = multiprocessing.Value("i", 0)

    def __len__(self) -> int:
        return len(self.tasks)

    def stop(self) -> None:
        """Leaves none to take. Not through the lock, which a killed process may hold."""
        self._taken.get_obj().value = len(self)

    def work(self) -> Iterator[_Done]:
        """Take one after the other, as long as there are any."""
        shard = _Shard(self.store, self.log_mel)
        found: dict[int, list[_Found]] = {}
        try:
            while (number := self._take()) < len(self):
                found[number] = self._process(self.tasks[number], shard)
                if len(found) * TASK >= SHARD or shard.size >= LARGE:
                    yield _Done(found, shard.write(), last=False)
                    found = {}
        finally:  # interrupted, it keeps what it has
            problem = shard.write()
        yield _Done(found, problem, last=True)

    def _take(self) -> int:
        with self._taken:
            number = int(self._taken.value)
            self._taken.value = number + 1
        return number

    def _process(self, files: Sequence[str], shard: _Shard) -> list[_Found]:
        """Hash files; decode those whose clips the store doesn't hold, and add them to the shard."""
        found: list[_Found] = []
        folder = str(self.folder)
        for name in files:
            path, content, problem = on_disk(folder, name), "", ""
            try:
                with open_regular(path) as file:
                    before = _state(os.fstat(file.fileno()))
                    whole = file.read(before.size) if before.size <= WHOLE else b""
                    content = hashlib.sha256(whole).hexdigest() if whole else _digest(file)
                if content not in shard.clips and not self.store.intact(content):
                    audio = read_audio(whole or path, self.config)
                    if _state(os.stat(path)) == before:
                        shard.add(content, audio)
                    else:
                        content, problem = "", "changed while it was read"
            except OSError as error:
                problem = os_problem(error)
            except AudioError as error:
                problem = with_conversion(error.problem, path)
            found.append(_Found(content, problem))
        return found


class _Shard:
    """The clips of the next shard. Their log-mels lie one after the other, where those of the one before lay."""

    def __init__(self, store: Store, log_mel: LogMel) -> None:
        self.clips: dict[str, Clip] = {}
        self.size = 0  # numbers in their log-mels
        self._store, self._log_mel = store, log_mel
        longest = log_mel.frames(math.ceil(log_mel.config.max_seconds * log_mel.config.sample_rate)) + 1
        self._values = np.empty(LARGE + TASK * longest * log_mel.config.bands, np.float32)

    def add(self, content: str, audio: Audio) -> None:
        """A clip with its log-mel and levels."""
        frames, bands = self._log_mel.frames(len(audio.waveform)), self._log_mel.config.bands
        log_mel = self._values[self.size : self.size + frames * bands].reshape(frames, bands)
        self._log_mel(audio.waveform, log_mel)
        scale = audio.peak if audio.peak < FAINT else 1.0
        scaled = audio.waveform if scale == 1.0 else audio.waveform / scale
        rms_db = 20.0 * math.log10(scale) + 10.0 * math.log10(float(np.dot(scaled, scaled)) / len(scaled))
        known = (audio.seconds, audio.rate, audio.channels, audio.peak, rms_db, audio.decoded, audio.note)
        self.clips[content] = Clip(content, log_mel, *known)
        self.size += log_mel.size

    def write(self) -> str:
        """Write it and begin the next one; '' or why it can't be written."""
        clips, self.clips, self.size = list(self.clips.values()), {}, 0
        try:
            self._store.add(clips, self._values)
        except OSError as error:
            return error.strerror or str(error)
        return ""


class _Workers:
    """The processes that do the tasks; a few files are done in this one.

    Threads don't help here: of a short WAV file's time most goes into calls so small that the threads wait for the
    interpreter's lock (`make bench` has the figures).
    """

    def __init__(self, tasks: _Tasks, count: int) -> None:
        self._tasks = tasks
        self._count = count if 1 < count < len(tasks) else 0
        self._processes: dict[Connection, multiprocessing.Process] = {}

    def __enter__(self) -> _Workers:
        self._limits = threadpool_limits(1)  # the threads of BLAS, forked, wait for each other
        return self

    def __exit__(self, *_: object) -> None:
        self._tasks.stop()
        for results, worker in self._processes.items():
            results.close()
            worker.join(PATIENCE)
            worker.terminate()
            worker.join()
        self._limits.restore_original_limits()

    def results(self) -> Iterator[_Done]:
        """What comes of the tasks, as they are done.

        Raises:
            InputError: a worker died.
        """
        if not self._count:
            yield from self._tasks.work()
        for _ in range(self._count):
            results, sender = multiprocessing.Pipe(duplex=False)
            worker = multiprocessing.Process(target=_work, args=(self._tasks, sender, os.getpid()), daemon=True)
            worker.start()
            sender.close()  # so that the worker's end is the only one
            self._processes[results] = worker
        at_work = list(self._processes)
        while at_work:
            for results in cast(list[Connection], multiprocessing.connection.wait(at_work)):
                done = _receive(self._processes[results], results)
                if done.last:
                    at_work.remove(results)
                yield done


def _work(tasks: _Tasks, results: Connection, parent: int) -> None:
    """What a worker does, as long as somebody waits for it."""
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        try:
            for done in tasks.work():
                results.send(done)
                if os.getppid() != parent:
                    return
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


def _digest(file: io.FileIO) -> str:
    """SHA-256 of a file that is longer than `WHOLE`, or empty."""
    digest = hashlib.sha256()
    while block := file.read(READ):
        digest.update(block)
    return digest.hexdigest()


class _State(NamedTuple):
    """What changes when a file is replaced or written to."""

    device: int
    number: int
    size: int  # bytes
    modified: int  # ns


def _state(found: os.stat_result) -> _State:
    return _State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _table(store: Store, files: Sequence[str], found: Sequence[_Found]) -> pd.DataFrame:
    contents = [result.content for result in found]
    known = store.table().reindex(contents).reset_index(drop=True)
    known[list(COUNTS)] = known[list(COUNTS)].fillna(0).astype(np.int64)
    known[["decoded", "note"]] = known[["decoded", "note"]].fillna("")
    table = known.assign(file=list(files), content=contents, problem=[result.problem for result in found])
    facts = ["seconds", "rate", "channels", "frames", "peak", "rms_db", "decoded", "note"]
    return table[["file", "content", *facts, "problem"]]


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
