"""Extraction: computes the features of a corpus on all cores and keeps them in the feature store.

The files are divided into tasks, which worker processes take one after the other. Log-mels and functionals are computed
there too: each worker writes shards of its own and reports each of them to the main process. For an encoder the workers
only decode, and the main process encodes and writes; a worker waits while its report is not taken, so that never more
than a task a worker and a batch are in memory. An extraction that was stopped goes on from the last shards written.

On a Dask cluster each part of the files is extracted in the same way by one process of a worker.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from exvo.cluster import refuse_unseen, share_out
from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.audio import Audio, read_audio
from exvo.features.containers import AudioError, open_regular, os_problem
from exvo.features.conversion import with_conversion
from exvo.features.encoding import EncodedShards, stored_clip
from exvo.features.extractors import ClipExtractor, Encoder, Extractor
from exvo.features.log_mel import LogMel
from exvo.features.shards import Clip
from exvo.features.store import Store
from exvo.features.workers import FileResult, Report, Workers
from exvo.files import on_disk
from exvo.progress import counting

TASK_FILES = 16  # files that a process takes at a time
SHARD_FILES = 256  # files after which a worker writes a shard: about 12 MB of vocal bursts
SHARD_NUMBERS = 2**22  # numbers in features (16 MB) after which it writes one earlier
HASH_BLOCK = 2**16  # bytes hashed at a time
MAX_READ_ONCE = 2**21  # bytes (a minute at 16 kHz): a larger file is read twice, to hash it and to decode it
CHANGED = "changed while it was read"
COUNTS = ("rate", "channels", "frames")  # columns that hold 0 where unknown; the other numbers are then NaN


def extract(
    folder: str | Path,
    files: Sequence[str],
    store_folder: str | Path,
    extractor: Extractor | FeatureConfig,
    workers: int = 0,
    cluster: str = "",
) -> tuple[Store, pd.DataFrame]:
    """Computes the features of audio files and adds them to the feature store, but for those that it holds already.

    Args:
        folder: the folder to which the paths of the files are relative.
        files: paths.
        store_folder: where the stores lie, one for each kind and key of features.
        extractor: what computes them; settings alone are those of the log-mel.
        workers: processes; 0 is one a core. Where there are no more tasks than that, this process does them all.
        cluster: address of the Dask scheduler whose workers compute them instead; empty: none.

    Returns:
        The store, and a table with one row a file, in the order given: file, content, seconds, rate (Hz), channels,
        frames, peak (full scale is 1), rms_db (dB to full scale), decoded (equal for equal samples in whatever file;
        '' if not known), note (what of the file is not in the features; '' as a rule), problem ('' if none). Unreadable
        files are in the table, with their problem; `require_readable` refuses them.

    Raises:
        InputError: `workers` is negative, a worker died, the features can't be written, or the cluster can't be used
            (see `share_out`); what was written before is kept.
    """
    if workers < 0:
        raise InputError(f"The number of workers must be 0 (one a core) or more, found {workers}.")
    extractor = LogMel(extractor) if isinstance(extractor, FeatureConfig) else extractor
    store = Store(store_folder, extractor.features)
    store.sweep()
    with counting("features", len(files), "clip") as done:
        if cluster and files:
            results = _extract_on_cluster(cluster, os.path.abspath(folder), files, store, extractor, done)
        else:
            results = _extract_here(folder, files, store, extractor, workers or cores(), done)
    return store, _table(store, files, results)


def _extract_here(
    folder: str | Path,
    files: Sequence[str],
    store: Store,
    extractor: Extractor,
    workers: int,
    done: Callable[[int], object],
) -> list[FileResult]:
    """Computes and writes the features that the store lacks, on this machine; gives each file's result, in their order.

    `done` is told how many more files are done; for the rest see `extract`.
    """
    tasks = _Tasks(Path(folder), files, store, extractor)
    encoded = EncodedShards(store, extractor) if isinstance(extractor, Encoder) else None
    results: dict[int, list[FileResult]] = {}
    failure: str | None = None
    with Workers(tasks, workers, computes=encoded is not None) as processes:
        for report in processes.reports():
            store.refresh()
            failure = report.failure or (encoded.add(report.decoded) if encoded else None)
            if failure is not None:
                break
            results |= report.results
            done(sum(map(len, report.results.values())))
        else:
            failure = encoded.write() if encoded else None
    if failure is None:
        problems = encoded.problems if encoded else {}
        in_order = (result for number in sorted(results) for result in results[number])
        return [FileResult(content, problem or problems.get(content, "")) for content, problem in in_order]
    store.refresh()  # the other workers have written theirs
    raise InputError(
        f"The features can't be written to {store.folder}: {failure}. The {len(store)} clips written before are "
        "kept: free some space or choose another folder, and run again to go on from there."
    )


class _Part:
    """Extracts some files on a worker of a cluster, into a shard of its own, but for those that the store holds."""

    def __init__(self, folder: str, store: Store, extractor: Extractor) -> None:
        self.folder, self.store, self.extractor = folder, store, extractor

    def __call__(self, files: Sequence[str]) -> list[FileResult]:
        if self.extractor.features != self.store.features:
            raise InputError(
                f"A worker of the cluster computes other features, {self.extractor.features.text}, than this machine, "
                f"{self.store.features.text}: install the same versions of all libraries on both."
            )
        self.store.refresh()
        return _extract_here(self.folder, files, self.store, self.extractor, 1, lambda more: None)


def _extract_on_cluster(
    cluster: str,
    folder: str,
    files: Sequence[str],
    store: Store,
    extractor: Extractor,
    done: Callable[[int], object],
) -> list[FileResult]:
    """The same as `_extract_here`, by the workers of a cluster; `folder` is absolute."""
    parts = [files[at : at + SHARD_FILES] for at in range(0, len(files), SHARD_FILES)]
    paths = [on_disk(folder, file) for file in files]
    extracted = share_out(
        cluster,
        _Part(folder, store, extractor),
        parts,
        what="features",
        done=done,
        files=paths,
        folder=store.root,
        device=getattr(extractor, "device", "cpu"),
        threads=isinstance(extractor, Encoder),
        tolerance="by 0.001 dB" if isinstance(extractor, LogMel) else "by a thousandth of the largest number",
    )
    in_order = [result for part in extracted for result in part]
    unread = zip(paths, in_order, strict=True)
    refuse_unseen({path: problem for path, (content, problem) in unread if not content and problem != CHANGED})
    store.wait_for({content for content, problem in in_order if content and not problem})
    return in_order


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

    def __init__(self, folder: Path, files: Sequence[str], store: Store, extractor: Extractor) -> None:
        self.folder, self.store = folder, store
        self.extractor = None if isinstance(extractor, Encoder) else extractor
        self.config = self.extractor.config if self.extractor else FeatureConfig()
        self.tasks = [files[at : at + TASK_FILES] for at in range(0, len(files), TASK_FILES)]
        self._taken = multiprocessing.Value("i", 0)

    def __len__(self) -> int:
        return len(self.tasks)

    def stop(self) -> None:
        """Marks all tasks as taken. It does not wait for the lock, which a killed process may hold."""
        self._taken.get_obj().value = len(self)

    def work(self) -> Iterator[Report]:
        """Does one task after the other until all are taken; an interrupted process still writes its last shard."""
        pending = _PendingShard(self.store, self.extractor) if self.extractor else _DecodedClips()
        results: dict[int, list[FileResult]] = {}
        try:
            while (number := self._take()) < len(self):
                results[number] = self._process(self.tasks[number], pending)
                if pending.is_full(len(results) * TASK_FILES):
                    yield Report(results, *pending.write(), last=False)
                    results = {}
        finally:
            written = pending.write()
        yield Report(results, *written, last=True)

    def _take(self) -> int:
        """The number of the next task; `len(self)` or more where none is left."""
        with self._taken:
            number = int(self._taken.value)
            self._taken.value = number + 1
        return number

    def _process(self, files: Sequence[str], pending: _PendingShard | _DecodedClips) -> list[FileResult]:
        """Hashes files; decodes those whose clips the store doesn't hold, and adds them to what is pending."""
        results: list[FileResult] = []
        folder = str(self.folder)
        for name in files:
            path, content, problem = on_disk(folder, name), "", ""
            try:
                with open_regular(path) as file:
                    before = _file_state(os.fstat(file.fileno()))
                    whole = file.read(before.size) if before.size <= MAX_READ_ONCE else b""
                    content = hashlib.sha256(whole).hexdigest() if whole else _digest(file)
                if content not in pending.clips and not self.store.intact(content):
                    audio = read_audio(whole or path, self.config)
                    if _file_state(os.stat(path)) == before:
                        pending.add(content, audio)
                    else:
                        content, problem = "", CHANGED
            except OSError as error:
                problem = os_problem(error)
            except AudioError as error:
                problem = with_conversion(error.problem, path)
            results.append(FileResult(content, problem))
        return results


class _PendingShard:
    """The clips of the next shard. Their features lie one after the other in one buffer, which each shard uses anew."""

    def __init__(self, store: Store, extractor: ClipExtractor) -> None:
        self.clips: dict[str, Clip] = {}
        self._size = 0  # numbers in their features
        self._store, self._extractor = store, extractor
        self._values = np.empty(SHARD_NUMBERS + TASK_FILES * extractor.most, np.float32)

    def add(self, content: str, audio: Audio) -> None:
        """Computes a clip's features and levels, and adds it.

        Args:
            content: SHA-256 of the file's bytes, hexadecimal.
            audio: of the clip.

        Raises:
            AudioError: the clip can't be used.
        """
        rows, columns = self._extractor.shape(len(audio.waveform))
        values = self._values[self._size : self._size + rows * columns].reshape(rows, columns)
        self._extractor(audio.waveform, values)
        self.clips[content] = stored_clip(content, values, audio)
        self._size += values.size

    def is_full(self, files: int) -> bool:
        """Whether it is time to write the shard, which so many files have gone into."""
        return files >= SHARD_FILES or self._size >= SHARD_NUMBERS

    def write(self) -> tuple[str | None, dict[str, Audio]]:
        """Writes the shard and begins the next one. Says why it can't be written, None where it was."""
        clips, self.clips, self._size = list(self.clips.values()), {}, 0
        try:
            self._store.add(clips, self._values)
        except OSError as error:
            return error.strerror or str(error), {}
        return None, {}


class _DecodedClips:
    """The clips of a task that the main process will encode."""

    def __init__(self) -> None:
        self.clips: dict[str, Audio] = {}

    def add(self, content: str, audio: Audio) -> None:
        """Adds a clip by its content, see `_PendingShard.add`."""
        self.clips[content] = audio

    def is_full(self, files: int) -> bool:
        """Always: each task is reported by itself."""
        return True

    def write(self) -> tuple[str | None, dict[str, Audio]]:
        """Gives the clips away."""
        clips, self.clips = self.clips, {}
        return None, clips


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


def _table(store: Store, files: Sequence[str], results: Sequence[FileResult]) -> pd.DataFrame:
    """The table of `extract`: each file's result, with what the store holds about its clip.

    Args:
        store: the store.
        files: paths.
        results: of each file.
    """
    contents, found = [result.content for result in results], [result.problem for result in results]
    clips = store.table().reindex(contents).reset_index(drop=True)
    clips[list(COUNTS)] = clips[list(COUNTS)].fillna(0).astype(np.int64)
    clips[["decoded", "note"]] = clips[["decoded", "note"]].fillna("")
    table = clips.assign(file=list(files), content=contents, problem=found)
    facts = ["seconds", "rate", "channels", "frames", "peak", "rms_db", "decoded", "note"]
    return table[["file", "content", *facts, "problem"]]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
