"""Extraction: computes the log-mels of a corpus on all cores and keeps them in the feature store.

The files are divided into tasks, which worker processes take one after the other. Each worker writes shards of its own
and reports each of them to the main process. An extraction that was stopped goes on from the last shards written.
"""

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
from exvo.features.conversion import with_conversion
from exvo.features.log_mel import LogMel
from exvo.features.shards import Clip
from exvo.features.store import Store
from exvo.files import on_disk

TASK_FILES = 16  # files that a process takes at a time
SHARD_FILES = 256  # files after which a worker writes a shard: about 12 MB of vocal bursts
SHARD_NUMBERS = 2**22  # numbers in log-mels (16 MB) after which it writes one earlier
HASH_BLOCK = 2**16  # bytes hashed at a time
MAX_READ_ONCE = 2**21  # bytes (a minute at 16 kHz): a larger file is read twice, to hash it and to decode it
STOP_SECONDS = 5.0  # that a worker has to end its task when the run is stopped
FAINT = 1e-6  # peak below which samples are scaled up before they are squared: the squares would be 0 in float32
COUNTS = ("rate", "channels", "frames")  # columns that hold 0 where unknown; the other numbers are then NaN


class _FileResult(NamedTuple):
    """The outcome of one file, as the table of `extract` has it."""

    content: str  # SHA-256 of its bytes; '' if they can't be read
    problem: str  # '' if its log-mel is in the store or in a shard that is not written yet


class _ShardReport(NamedTuple):
    """What a process reports after each attempt to write a shard."""

    results: dict[int, list[_FileResult]]  # by task number: the tasks that it did since its last report
    failure: str | None  # why the shard could not be written; None if it was
    last: bool  # whether the process has no more tasks


def extract(
    folder: str | Path, files: Sequence[str], store_folder: str | Path, config: FeatureConfig, workers: int = 0
) -> tuple[Store, pd.DataFrame]:
    """Computes the log-mels of audio files and adds them to the feature store, but for those that it holds already.

    Args:
        folder: the folder to which the paths of the files are relative.
        files: paths.
        store_folder: where the stores lie, one for each `FeatureConfig`.
        config: feature settings.
        workers: processes; 0 is one a core. Where there are no more tasks than that, this process does them all.

    Returns:
        The store, and a table with one row a file, in the order given: file, content, seconds, rate (Hz), channels,
        frames, peak (full scale is 1), rms_db (dB to full scale), decoded (equal for equal samples in whatever file;
        '' if not known), note (what of the file is not in the log-mel; '' as a rule), problem ('' if none). Unreadable
        files are in the table, with their problem; `require_readable` refuses them.

    Raises:
        InputError: `workers` is negative, a worker died, or the features can't be written; what was written before is
            kept.
    """
    if workers < 0:
        raise InputError(f"The number of workers must be 0 (one a core) or more, found {workers}.")
    store = Store(store_folder, config)
    store.sweep()
    results: dict[int, list[_FileResult]] = {}
    bar = tqdm(total=len(files), desc="features", unit="clip", disable=None)
    with bar, _Workers(_Tasks(Path(folder), files, store, config), workers or _cores()) as processes:
        for report in processes.reports():
            store.refresh()
            if report.failure is not None:
                break
            results |= report.results
            bar.update(sum(map(len, report.results.values())))
        else:
            in_order = [result for number in sorted(results) for result in results[number]]
            return store, _table(store, files, in_order)
    store.refresh()  # the other workers have written theirs
    raise InputError(
        f"The features can't be written to {store.folder}: {report.failure}. The {len(store)} clips written before are "
        "kept: free some space or choose another folder, and run again to go on from there."
    )


def require_readable(audio: pd.DataFrame, skip_unreadable: bool) -> pd.DataFrame:
    """The readable rows of `extract`'s table.

    Raises:
        InputError: a file can't be used and `skip_unreadable` is false, or no file can be used. It lists those that
            can't.
    """
    unreadable = audio[audio["problem"] != ""]
    if len(unreadable) == 0 or (skip_unreadable and len(unreadable) < len(audio)):
        return audio.drop(unreadable.index)
    lines = [f"  {file}: {problem}" for file, problem in zip(unreadable["file"], unreadable["problem"], strict=True)]
    advice = "repair them" if skip_unreadable else "repair them, or pass skip_unreadable=true to leave them out"
    raise InputError("\n".join([f"{len(unreadable)} of {len(audio)} audio files can't be used: {advice}.", *lines]))


class _Tasks:
    """The files, divided into tasks. Each task is taken once, by any of the processes."""

    def __init__(self, folder: Path, files: Sequence[str], store: Store, config: FeatureConfig) -> None:
        self.folder, self.store, self.config, self.log_mel = folder, store, config, LogMel(config)
        self.tasks = [files[at : at + TASK_FILES] for at in range(0, len(files), TASK_FILES)]
        self._taken = multiprocessing.Value("i", 0)

    def __len__(self) -> int:
        return len(self.tasks)

    def stop(self) -> None:
        """Marks all tasks as taken. It does not wait for the lock, which a killed process may hold."""
        self._taken.get_obj().value = len(self)

    def work(self) -> Iterator[_ShardReport]:
        """Does one task after the other until all are taken; an interrupted process still writes its last shard."""
        shard = _PendingShard(self.store, self.log_mel)
        results: dict[int, list[_FileResult]] = {}
        try:
            while (number := self._take()) < len(self):
                results[number] = self._process(self.tasks[number], shard)
                if len(results) * TASK_FILES >= SHARD_FILES or shard.size >= SHARD_NUMBERS:
                    yield _ShardReport(results, shard.write(), last=False)
                    results = {}
        finally:
            failure = shard.write()
        yield _ShardReport(results, failure, last=True)

    def _take(self) -> int:
        """The number of the next task; `len(self)` or more where none is left."""
        with self._taken:
            number = int(self._taken.value)
            self._taken.value = number + 1
        return number

    def _process(self, files: Sequence[str], shard: _PendingShard) -> list[_FileResult]:
        """Hashes files; decodes those whose clips the store doesn't hold, and adds them to the shard."""
        results: list[_FileResult] = []
        folder = str(self.folder)
        for name in files:
            path, content, problem = on_disk(folder, name), "", ""
            try:
                with open_regular(path) as file:
                    before = _file_state(os.fstat(file.fileno()))
                    whole = file.read(before.size) if before.size <= MAX_READ_ONCE else b""
                    content = hashlib.sha256(whole).hexdigest() if whole else _digest(file)
                if content not in shard.clips and not self.store.intact(content):
                    audio = read_audio(whole or path, self.config)
                    if _file_state(os.stat(path)) == before:
                        shard.add(content, audio)
                    else:
                        content, problem = "", "changed while it was read"
            except OSError as error:
                problem = os_problem(error)
            except AudioError as error:
                problem = with_conversion(error.problem, path)
            results.append(_FileResult(content, problem))
        return results


class _PendingShard:
    """The clips of the next shard. Their log-mels lie one after the other in one buffer, which each shard uses anew."""

    def __init__(self, store: Store, log_mel: LogMel) -> None:
        self.clips: dict[str, Clip] = {}
        self.size = 0  # numbers in their log-mels
        self._store, self._log_mel = store, log_mel
        longest = log_mel.config.frames(math.ceil(log_mel.config.max_seconds * log_mel.config.sample_rate)) + 1
        self._values = np.empty(SHARD_NUMBERS + TASK_FILES * longest * log_mel.config.bands, np.float32)

    def add(self, content: str, audio: Audio) -> None:
        """Computes a clip's log-mel and levels, and adds it.

        Args:
            content: SHA-256 of the file's bytes, hexadecimal.
            audio: of the clip.
        """
        frames, bands = self._log_mel.config.frames(len(audio.waveform)), self._log_mel.config.bands
        log_mel = self._values[self.size : self.size + frames * bands].reshape(frames, bands)
        self._log_mel(audio.waveform, log_mel)
        scale = audio.peak if audio.peak < FAINT else 1.0
        scaled = audio.waveform if scale == 1.0 else audio.waveform / scale
        rms_db = 20.0 * math.log10(scale) + 10.0 * math.log10(float(np.dot(scaled, scaled)) / len(scaled))
        self.clips[content] = Clip(
            content,
            log_mel,
            seconds=audio.seconds,
            rate=audio.rate,
            channels=audio.channels,
            peak=audio.peak,
            rms_db=rms_db,
            decoded=audio.decoded,
            note=audio.note,
        )
        self.size += log_mel.size

    def write(self) -> str | None:
        """Writes the shard and begins the next one. Returns why it can't be written, None where it was."""
        clips, self.clips, self.size = list(self.clips.values()), {}, 0
        try:
            self._store.add(clips, self._values)
        except OSError as error:
            return error.strerror or str(error)
        return None


class _Workers:
    """The processes that do the tasks; where there are no more tasks than processes, this process does them all.

    They are processes, not threads: most of the time of a short WAV file goes into calls so small that threads would
    wait for the interpreter's lock (`make bench` has the figures).
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
        for receiver, worker in self._processes.items():
            receiver.close()
            worker.join(STOP_SECONDS)
            worker.terminate()
            worker.join()
        self._limits.restore_original_limits()

    def reports(self) -> Iterator[_ShardReport]:
        """The reports of all processes, as they come.

        Raises:
            InputError: a worker died.
        """
        if not self._count:
            yield from self._tasks.work()
        for _ in range(self._count):
            receiver, sender = multiprocessing.Pipe(duplex=False)
            worker = multiprocessing.Process(target=_work, args=(self._tasks, sender, os.getpid()), daemon=True)
            worker.start()
            sender.close()  # so that the worker's end is the only one
            self._processes[receiver] = worker
        working = list(self._processes)
        while working:
            for receiver in cast(list[Connection], multiprocessing.connection.wait(working)):
                report = _receive(self._processes[receiver], receiver)
                if report.last:
                    working.remove(receiver)
                yield report


def _work(tasks: _Tasks, sender: Connection, parent: int) -> None:
    """Does tasks in a worker process and sends its reports, until all are done or its parent process is gone."""
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        try:
            for report in tasks.work():
                sender.send(report)
                if os.getppid() != parent:
                    return
        except Exception as error:
            sender.send(error)


def _receive(worker: multiprocessing.Process, receiver: Connection) -> _ShardReport:
    """The next report of a worker.

    Raises:
        InputError: the worker died.
        Exception: whatever the worker raised.
    """
    try:
        message: _ShardReport | Exception = receiver.recv()
    except (EOFError, OSError):
        worker.join()
        raise InputError(
            f"A process that decodes audio has died ({_ending(worker.exitcode)}). What was extracted before is kept: "
            "run again to go on from there, with less memory in use or with workers=1."
        ) from None
    if isinstance(message, Exception):
        raise message
    return message


def _ending(code: int | None) -> str:
    """The exit code of a process in words."""
    return f"killed by signal {-code}" if code is not None and code < 0 else f"status {code}"


def _digest(file: io.FileIO) -> str:
    """SHA-256 of a file, read in blocks: one longer than `MAX_READ_ONCE`, or an empty one."""
    digest = hashlib.sha256()
    while block := file.read(HASH_BLOCK):
        digest.update(block)
    return digest.hexdigest()


class _FileState(NamedTuple):
    """What changes when a file is replaced or written to."""

    device: int
    number: int
    size: int  # bytes
    modified: int  # ns


def _file_state(status: os.stat_result) -> _FileState:
    return _FileState(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _table(store: Store, files: Sequence[str], results: Sequence[_FileResult]) -> pd.DataFrame:
    """The table of `extract`: each file's result, with what the store holds about its clip."""
    contents = [result.content for result in results]
    clips = store.table().reindex(contents).reset_index(drop=True)
    clips[list(COUNTS)] = clips[list(COUNTS)].fillna(0).astype(np.int64)
    clips[["decoded", "note"]] = clips[["decoded", "note"]].fillna("")
    table = clips.assign(file=list(files), content=contents, problem=[result.problem for result in results])
    facts = ["seconds", "rate", "channels", "frames", "peak", "rms_db", "decoded", "note"]
    return table[["file", "content", *facts, "problem"]]


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
