"""The shards of the feature store: Arrow files of one record batch, a row a clip. Version 2 is written, 1 is read.

A shard holds for each clip its features (the column `values`), their checksum, and facts about its audio. The metadata
hold the format's version, the name of the checksum, and what the features are: kind, key, dtype, shape and settings.
They also hold the CRC-32 of all columns but the features: so opening a shard tells whether those are undamaged, without
reading the features.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exvo.config import FeatureConfig

HEADER = b"exvo.store"  # key in a shard's metadata: what the features are
FACTS = b"exvo.facts"  # key in a shard's metadata: the CRC-32 of all columns but `values`
COLUMNS = {
    "content": pa.binary(32),
    "seconds": pa.float64(),
    "rate": pa.int32(),
    "channels": pa.int32(),
    "peak": pa.float64(),
    "rms_db": pa.float64(),
    "decoded": pa.uint64(),
    "note": pa.string(),
    "checksum": pa.uint64(),  # of the features' bytes
}
CLIP_COLUMNS = ("frames", "seconds", "rate", "channels", "peak", "rms_db", "decoded", "note")
"""The columns of `Store.table`: facts about each clip."""

SETTINGS_1 = b"exvo.features"  # version 1: key in a shard's metadata: the settings of the log-mel
COLUMNS_1 = {
    "content": pa.string(),
    "frames": pa.int32(),
    "seconds": pa.float64(),
    "rate": pa.int32(),
    "channels": pa.int32(),
    "peak": pa.float64(),
    "rms_db": pa.float64(),
    "checksum": pa.uint64(),  # of the log-mel: the sum of its bits
    "log_mel": pa.large_list(pa.float32()),
}


@dataclass(frozen=True)
class Features:
    """The kind of features that a store holds.

    Attributes:
        kind: log-mel, functionals, states (of a pretrained encoder) or embeddings (of a run of ours).
        key: changes with everything that the values depend on.
        dtype: of the values: float32 or float16.
        shape: of a clip's values; None for a first axis whose size differs from clip to clip.
        settings: what the key is the digest of, for people; JSON.
    """

    kind: str
    key: str
    dtype: str
    shape: tuple[int | None, ...]
    settings: dict[str, Any]

    @classmethod
    def of_log_mel(cls, config: FeatureConfig) -> Features:
        """Log-mels: float32 (frames, bands), dB."""
        return cls("log-mel", config.digest(), "float32", (None, config.bands), asdict(config))

    @classmethod
    def of_clips(cls, kind: str, dtype: str, shape: tuple[int, ...], settings: dict[str, Any]) -> Features:
        """Features of the same shape for every clip; the key is the digest of their settings, which are plain JSON."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return cls(kind, digest[:12], dtype, shape, settings)

    @property
    def text(self) -> str:
        """The features in words, for a sentence."""
        sizes = " x ".join("frames" if size is None else f"{size:,}" for size in self.shape)
        return f"{self.kind} {self.key} ({sizes})"

    @cached_property
    def header(self) -> bytes:
        """What a shard's metadata hold under `HEADER`."""
        content = {"version": 2, "checksum": "crc32", **asdict(self)}
        return json.dumps(content, sort_keys=True).encode()

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of a shard."""
        return pa.schema([*COLUMNS.items(), ("values", pa.large_list(pa.from_numpy_dtype(self.dtype)))])

    @cached_property
    def step(self) -> int:
        """How many numbers a step along the first axis takes where its size differs; else how many a clip takes."""
        return int(np.prod([size for size in self.shape if size is not None], dtype=np.int64))

    def fits(self, values: np.ndarray) -> bool:
        """Whether an array has the dtype and the shape of these features."""
        sizes = zip(values.shape, self.shape, strict=False)
        same = values.ndim == len(self.shape) and all(expected in (None, size) for size, expected in sizes)
        return values.dtype == self.dtype and same

    def shaped(self, values: np.ndarray) -> np.ndarray:
        """A clip's numbers, one after the other, as an array of its shape."""
        return values.reshape([-1 if size is None else size for size in self.shape])


@dataclass(frozen=True, eq=False)
class Clip:
    """One row of a shard: a clip's features and facts about its audio; the source is the file."""

    content: str  # SHA-256 of the file's bytes, hexadecimal
    values: np.ndarray  # the features; a log-mel is float32 (frames, bands), dB
    seconds: float  # of the source
    rate: int  # of the source, Hz
    channels: int  # of the source
    peak: float  # largest magnitude of the mono waveform; full scale is 1
    rms_db: float  # level of the mono waveform, dB to full scale
    decoded: int = 0  # `exvo.features.audio.fingerprint` of the source's samples; 0 where it is not known
    note: str = ""  # what of the source is not in the waveform


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard, mapped into memory."""

    path: Path
    contents: np.ndarray  # uint64 (clips, 4): the SHA-256 of each clip's file
    offsets: np.ndarray  # int64 (clips + 1,): where in `values` each clip begins, and where the last one ends
    values: np.ndarray  # the clips' features, one after the other
    checksums: np.ndarray  # uint64 (clips,)
    checksum: Callable[[np.ndarray], int]
    batch: pa.RecordBatch
    state: tuple[int, int, int]  # `file_state` when the file was mapped

    def changed(self) -> bool:
        """Whether the mapped file was written to or cut short since: reading past its end would end this process.

        A file that was deleted or replaced counts as unchanged, since the mapping keeps the old one.
        """
        try:
            now = file_state(self.path)
        except OSError:
            return False
        return now[0] == self.state[0] and now != self.state

    def row(self, number: int) -> np.ndarray:
        """The features of the clip in this row, one number after the other."""
        return self.values[self.offsets[number] : self.offsets[number + 1]]

    def intact(self, number: int) -> bool:
        """Whether the features of the clip in this row are as they were written."""
        return not self.changed() and self.checksum(self.row(number)) == int(self.checksums[number])

    def clip_columns(self, features: Features) -> dict[str, np.ndarray]:
        """The columns of `CLIP_COLUMNS`, (clips,) each; `decoded` and `note` are text, '' where a shard lacks them."""
        absent = np.full(len(self.contents), "", object)
        columns = dict.fromkeys(CLIP_COLUMNS, absent)
        for name in set(CLIP_COLUMNS) & set(self.batch.schema.names):
            columns[name] = self.batch.column(name).to_numpy(zero_copy_only=False)
        columns["frames"] = (np.diff(self.offsets) // features.step).astype(np.int32)
        columns["decoded"] = np.array([f"{number:016x}" if number else "" for number in columns["decoded"]], object)
        return columns


def write_shard(path: Path, features: Features, clips: Sequence[Clip], values: np.ndarray | None) -> None:
    """Writes clips as a new file.

    Args:
        path: of the file, which is not there yet.
        features: the kind of features that the clips have.
        clips: at least one.
        values: an array that begins with the features of all clips, one after another; None: they are copied into one.

    Raises:
        OSError: it can't be written.
        ValueError: a clip's features have another dtype or shape.
    """
    for clip in clips:
        if not features.fits(clip.values):
            shape = ", ".join("frames" if size is None else str(size) for size in features.shape)
            raise ValueError(
                f"a {features.kind} is {features.dtype} ({shape}), not {clip.values.dtype} {clip.values.shape}"
            )
    offsets = np.cumsum([0] + [clip.values.size for clip in clips])
    if values is None:
        values = np.concatenate([clip.values.reshape(-1) for clip in clips])
    facts = ("seconds", "rate", "channels", "peak", "rms_db", "decoded", "note")
    columns = {name: [getattr(clip, name) for clip in clips] for name in facts}
    columns["content"] = [bytes.fromhex(clip.content) for clip in clips]
    columns["checksum"] = [crc32(clip.values) for clip in clips]
    arrays = [pa.array(columns[name], kind) for name, kind in COLUMNS.items()]
    listed = pa.LargeListArray.from_arrays(offsets, values[: offsets[-1]])
    batch = pa.RecordBatch.from_arrays([*arrays, listed], schema=features.schema)
    metadata = {HEADER: features.header, FACTS: str(_facts(batch)).encode()}
    with open(path, "xb") as file:
        with pa.ipc.new_file(file, batch.schema.with_metadata(metadata)) as writer:
            writer.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())


def read_shard(path: Path, features: Features) -> Shard:
    """Maps a shard into memory and checks it.

    Raises:
        OSError: it can't be read.
        ValueError: it is not a whole shard of these features.
        pa.ArrowException: it is not a whole Arrow file.
    """
    state = file_state(path)
    with pa.memory_map(os.fsencode(path)) as source, pa.ipc.open_file(source) as reader:
        metadata = reader.schema.metadata or {}
        old = SETTINGS_1 in metadata and features.kind == "log-mel"
        header = _header_1(features) if old else features.header
        if metadata.get(SETTINGS_1 if old else HEADER) != header:
            raise ValueError("its feature settings are not those of its folder")
        if not reader.schema.equals(pa.schema(list(COLUMNS_1.items())) if old else features.schema):
            raise ValueError("its columns are not those of a shard")
        if reader.num_record_batches != 1:
            raise ValueError(f"it has {reader.num_record_batches} parts instead of one")
        batch = reader.get_batch(0)
    batch.validate(full=True)
    values = batch.column("log_mel" if old else "values")
    if any(column.null_count for column in batch.columns) or values.values.null_count:
        raise ValueError("it has gaps")
    if not old and str(_facts(batch)).encode() != metadata.get(FACTS):
        raise ValueError("its facts about the clips are damaged")
    offsets = values.offsets.to_numpy()
    sizes = np.diff(offsets)
    fixed = None not in features.shape
    if (sizes % features.step).any() or (fixed and (sizes != features.step).any()):
        raise ValueError("its features don't fit their shape")
    if old and not np.array_equal(sizes, batch.column("frames").to_numpy() * features.step):
        raise ValueError("its frames don't fit its log-mels")
    return Shard(
        path,
        _contents(batch.column("content")),
        offsets,
        values.values.to_numpy(),
        batch.column("checksum").to_numpy(),
        _sum_of_bits if old else crc32,
        batch,
        state,
    )


def _header_1(features: Features) -> bytes:
    """What the metadata of a shard of version 1 hold under `SETTINGS_1`."""
    return json.dumps(features.settings, sort_keys=True).encode()


def file_state(path: Path) -> tuple[int, int, int]:
    """The file's number on its disk, its size in bytes, and when it was last written to, ns."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def crc32(values: np.ndarray) -> int:
    """The CRC-32 of an array's bytes (zlib's, polynomial 0x04C11DB7).

    It always detects damage within 32 consecutive bits, two wrong bits in up to 512 MiB, and three in up to 11 KiB. It
    misses other damage, such as parts that have changed places, with probability 2^-32.
    """
    return zlib.crc32(np.ascontiguousarray(values).data)


def _sum_of_bits(values: np.ndarray) -> int:
    """The checksum of version 1."""
    return int(values.view(np.uint32).sum(dtype=np.uint64))


def _facts(batch: pa.RecordBatch) -> int:
    """The CRC-32 of all columns, of `values` only where each clip's begin."""
    code = zlib.crc32(batch.column("values").offsets.to_numpy())
    for name, kind in COLUMNS.items():
        column = batch.column(name)
        if kind == pa.string():
            code = zlib.crc32("\0".join(column.to_pylist()).encode(), code)
        else:
            width = kind.bit_width // 8
            first = column.offset * width
            code = zlib.crc32(memoryview(column.buffers()[1])[first : first + len(column) * width], code)
    return code


def _contents(column: pa.Array) -> np.ndarray:
    """A column of SHA-256 digests, as 32 bytes or in hexadecimal -> uint64 (clips, 4).

    Raises:
        ValueError: it holds something else.
    """
    if column.type == pa.string():
        digests = [bytes.fromhex(text) for text in column.to_pylist()]
        if any(len(digest) != 32 for digest in digests):
            raise ValueError("its contents are not SHA-256")
        content: Any = b"".join(digests)
    else:
        content = memoryview(column.buffers()[1])[column.offset * 32 :][: len(column) * 32] if len(column) else b""
    return np.frombuffer(content, ">u8").reshape(-1, 4)
