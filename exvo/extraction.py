"""Extraction: the log-mels of a corpus into the feature store, on all cores. Stopped at any time, it can go on."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from exvo.config import FeatureConfig, InputError
from exvo.features import Audio, AudioError, log_mels, open_regular, os_problem, read_audio
from exvo.store import Clip, Store

SHARD_FRAMES = 100_000  # frames after which a shard is written: about 500 vocal bursts, 26 MB
SHARD_SECONDS = 10.0  # ... or the time since the last one
CHUNK = 16  # files a task
SAMPLES = 2**21  # of decoded clips that wait for their log-mels, in each worker: 2 minutes, 17 MB
AHEAD = 4  # tasks a worker has waiting: what is done and not yet written stays small
COUNTS = ("rate", "channels", "frames")  # 0 where unknown; the other columns NaN


class _Found(NamedTuple):
    """What came of one file."""

    content: str  # SHA-256 of its bytes; '' if they can't be read
    problem: str  # '' if its log-mel is in the store or about to be
    frames: int  # newly extracted


def extract(
    folder: str | Path, files: Sequence[str], store_folder: str | Path, config: FeatureConfig, workers: int = 0
) -> tuple[Store, pd.DataFrame]:
    """Bring the log-mels of audio files into the feature store, but for those that it holds already.

    Args:
        folder: what the files are relative to.
        files: paths.
        store_folder: where the stores lie, one for each `FeatureConfig`.
        config: feature settings.
        workers: threads; 0 is one a core.

    Returns:
        The store, and a table with one row a file, in the order given: file, content, seconds, rate (Hz), channels,
        frames, peak (full scale is 1), rms_db (dB to full scale), problem ('' if none). Unreadable files are in the
        table, with their problem; `check` refuses them.

    Raises:
        InputError: the features can't be written; what was written before is kept.
    """
    if workers < 0:
        raise InputError(f"The number of workers must be 0 (one a core) or more, found {workers}.")
    workers = workers or _cores()
    store = Store(store_folder, config)
    store.sweep()
    done: dict[str, Clip] = {}

    def process(chunk: Sequence[str]) -> list[_Found]:
        return _process([Path(folder, file) for file in chunk], store, done)

    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    found: list[_Found] = []
    frames, written = 0, time.monotonic()
    with _one_torch_thread(), tqdm(total=len(files), desc="features", unit="clip", disable=None) as bar:
        try:
            with contextlib.closing(_in_order(process, chunks, workers)) as stream:
                for results in stream:
                    found += results
                    bar.update(len(results))
                    frames += sum(result.frames for result in results)
                    if frames >= SHARD_FRAMES or time.monotonic() - written > SHARD_SECONDS:
                        _write(store, done)
                        frames, written = 0, time.monotonic()
        except InputError:  # the disk takes no more
            done.clear()
            raise
        finally:
            _write(store, done)
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


def _process(paths: Sequence[Path], store: Store, done: dict[str, Clip]) -> list[_Found]:
    """Hash files; decode those whose clips the store doesn't hold and leave their log-mels in `done`."""
    found: list[_Found] = []
    decoded: dict[str, Audio] = {}
    for path in paths:
        content, problem, frames = "", "", 0
        try:
            with open_regular(path) as file:
                before = _state(os.fstat(file.fileno()))
                content = hashlib.file_digest(file, "sha256").hexdigest()
            if not store.intact(content) and content not in decoded:
                audio = read_audio(path, store.config)
                if _state(os.stat(path)) == before:
                    decoded[content] = audio
                    frames = 1 + len(audio.waveform) // store.config.hop
                else:
                    content, problem = "", "changed while it was read"
        except OSError as error:
            content, problem = "", os_problem(error)
        except AudioError as error:
            problem = error.problem
        found.append(_Found(content, problem, frames))
        if sum(len(audio.waveform) for audio in decoded.values()) > SAMPLES:
            _finish(decoded, store, done)
    _finish(decoded, store, done)
    return found


def _finish(decoded: dict[str, Audio], store: Store, done: dict[str, Clip]) -> None:
    """Move decoded clips into `done`, with their log-mels and levels."""
    mels = log_mels([audio.waveform for audio in decoded.values()], store.config) if decoded else []
    for (content, audio), log_mel in zip(decoded.items(), mels, strict=True):
        peak = float(np.abs(audio.waveform).max())
        scaled = audio.waveform / peak  # so that no square vanishes
        rms_db = 20.0 * math.log10(peak) + 10.0 * math.log10(float(np.dot(scaled, scaled)) / len(scaled))
        done[content] = Clip(content, log_mel, audio.seconds, audio.rate, audio.channels, peak, rms_db)
    decoded.clear()


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    """What changes when a file is replaced or written to."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _in_order(
    process: Callable[[Sequence[str]], list[_Found]], chunks: Sequence[Sequence[str]], workers: int
) -> Generator[list[_Found]]:
    """The results in order. Threads do: decoding, resampling and the transforms all leave the interpreter's lock.

    Left early, it drops what has not begun and waits for what has.
    """
    ahead: deque[Future[list[_Found]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for chunk in chunks:
                ahead.append(pool.submit(process, chunk))
                if len(ahead) > workers * AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write(store: Store, done: dict[str, Clip]) -> None:
    """Move what is done into the store; the same audio may have been done twice, under two names."""
    clips = [done.popitem()[1] for _ in range(len(done))]
    try:
        store.add([clip for clip in clips if clip.content not in store])
    except OSError as error:
        raise InputError(
            f"The features can't be written to {store.folder}: {error.strerror or error}. The {len(store)} clips "
            "written before are kept: free some space or choose another folder, and run again to go on from there."
        ) from error


def _table(store: Store, files: Sequence[str], found: Sequence[_Found]) -> pd.DataFrame:
    contents = [result.content for result in found]
    known = store.table().reindex(contents).reset_index(drop=True)
    known[list(COUNTS)] = known[list(COUNTS)].fillna(0).astype(np.int64)
    table = known.assign(file=list(files), content=contents, problem=[result.problem for result in found])
    return table[["file", "content", "seconds", "rate", "channels", "frames", "peak", "rms_db", "problem"]]


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """The clips run in parallel, so each alone must not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
