"""The feature store: log-mels in memory-mapped Arrow files, one row a clip, found by the audio's content."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from exvo.config import FeatureConfig, InputError

SETTINGS = b"exvo.features"  # the key of the feature settings in a shard's metadata
COLUMNS = {
    "content": pa.string(),
    "frames": pa.int32(),
    "seconds": pa.float64(),
    "rate": pa.int32(),
    "channels": pa.int32(),
    "peak": pa.float64(),
    "rms_db": pa.float64(),
    "checksum": pa.uint64(),  # of the log-mel
    "log_mel": pa.large_list(pa.float32()),
}
STALE = 3600.0  # seconds after which a temporary file is what a killed process left: writing a shard takes a few


@dataclass(frozen=True, eq=False)
class Clip:
    """One row: a clip's log-mel and what is known of its audio."""

    content: str  # SHA-256 of the file's bytes, hexadecimal
    log_mel: np.ndarray  # float32 (frames, bands), dB
    seconds: float  # of the source
    rate: int  # of the source, Hz
    channels: int  # of the source
    peak: float  # largest magnitude of the mono waveform; full scale is 1
    rms_db: float  # level of the mono waveform, dB to full scale

    @property
    def frames(self) -> int:
        """Frames of the log-mel."""
        return len(self.log_mel)

    @property
    def checksum(self) -> int:
        """Of the log-mel."""
        return _checksum(self.log_mel)


@dataclass(frozen=True, eq=False)
class _Shard:
    """Views on one mapped file."""

    path: Path
    batch: pa.RecordBatch
    offsets: np.ndarray  # int64 (clips + 1,)
    values: np.ndarray  # float32, the clips' log-mels one after the other
    state: tuple[int, int, int]  # of the file when it was mapped, see `_state`

    def changed(self) -> bool:
        """Whether the mapped file was written to or cut short since: reading past its end would end this process.

        A file that was deleted or replaced is not: the mapping keeps it.
        """
        try:
            now = _state(self.path)
        except OSError:
            return False
        return now[0] == self.state[0] and now != self.state


class Store(Mapping[str, np.ndarray]):
    """content -> log-mel, a read-only view (frames, bands) on the mapped file: reading a clip costs its own bytes.

    The shards of one `FeatureConfig` lie in one folder, whose name holds the settings' digest. A shard is written
    under a temporary name and renamed, so it is whole or absent, and several processes may write at the same time.
    A shard that was cut short or damaged since is left out with a warning. Opening doesn't read the log-mels; `intact`
    tells whether one is still what was written. A shard may be deleted or replaced while it is mapped; one that is
    written to in place is refused at the next clip that is asked for (in the microseconds before, the system would end
    the process with SIGBUS).
    """

    def __init__(self, folder: str | Path, config: FeatureConfig) -> None:
        self.root = Path(folder)
        self.config = config
        self.folder = self.root / f"log-mel-{config.digest()}"
        self._shards: list[_Shard] = []
        self._index: dict[str, tuple[int, int]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Map what was written since, by other processes too."""
        known = {shard.path for shard in self._shards}
        for path in sorted(set(self.folder.glob("*.arrow")) - known):
            try:
                self._load(path)
            except (pa.ArrowException, ValueError, OSError) as error:
                warnings.warn(f"{path} is left out, delete it: {_one_line(error)}", RuntimeWarning, stacklevel=3)

    def __reduce__(self) -> tuple[type[Store], tuple[Path, FeatureConfig]]:
        """Another process maps the files itself."""
        return Store, (self.root, self.config)

    def __contains__(self, content: object) -> bool:
        return content in self._index

    def __getitem__(self, content: str) -> np.ndarray:
        """A clip's log-mel, (frames, bands), dB.

        Raises:
            KeyError: the store lacks the clip.
            InputError: its shard was written to while it was in use.
        """
        number, row = self._index[content]
        shard = self._shards[number]
        if shard.changed():
            raise InputError(
                f"{shard.path} was changed while it was in use, though a shard is written once: delete it and run the "
                "same command again, which extracts its clips anew."
            )
        return shard.values[shard.offsets[row] : shard.offsets[row + 1]].reshape(-1, self.config.bands)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def frames(self, content: str) -> int:
        """How many frames the clip's log-mel has, without reading it."""
        return len(self[content])

    def intact(self, content: str) -> bool:
        """Whether the store holds the clip as it was written. A damaged one it forgets, with a warning."""
        place = self._index.get(content)
        if place is None:
            return False
        shard, row = self._shards[place[0]], place[1]
        if not shard.changed():
            values = shard.values[shard.offsets[row] : shard.offsets[row + 1]]
            if _checksum(values) == shard.batch.column("checksum")[row].as_py():
                return True
        warnings.warn(f"{shard.path} is damaged in places, delete it", RuntimeWarning, stacklevel=2)
        self._index.pop(content, None)
        return False

    def table(self) -> pd.DataFrame:
        """All that is known of the clips but their log-mels, one row a content: frames, seconds, rate, ..."""
        names = [name for name in COLUMNS if name not in ("checksum", "log_mel")]
        schema = pa.schema([(name, COLUMNS[name]) for name in names])
        batches = [shard.batch.select(names).replace_schema_metadata(None) for shard in self._shards]
        table: pd.DataFrame = pa.Table.from_batches(batches, schema).to_pandas()
        return table.drop_duplicates("content", keep="last").set_index("content")

    def add(self, clips: Sequence[Clip], values: np.ndarray | None = None) -> None:
        """Write the clips as one shard.

        Args:
            clips: with their log-mels.
            values: float32, begins with all their log-mels in turn, where they lie so; else they are copied together.

        Raises:
            OSError: it can't be written (a full disk); then nothing is left of it.
        """
        if not clips:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        batch = self._batch(clips, values)
        temporary = self.folder / f"{self._next():020}-{uuid.uuid4().hex}.tmp"  # sorted: of two rows the newer counts
        try:
            with open(temporary, "xb") as file:
                with pa.ipc.new_file(file, batch.schema) as writer:
                    writer.write_batch(batch)
                file.flush()
                os.fsync(file.fileno())
            shard = temporary.rename(temporary.with_suffix(".arrow"))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._load(shard)

    def sweep(self) -> None:
        """Delete the temporary files of processes that were killed amid writing."""
        for temporary in self.folder.glob("*.tmp"):
            with contextlib.suppress(OSError):  # another process was quicker, or the folder is read-only
                if time.time() - temporary.stat().st_mtime > STALE:
                    temporary.unlink()

    def _next(self) -> int:
        """The number of a new shard: the time, ns, or one more than the last shard's if the clock was set back."""
        last = max((path.name[:20] for path in self.folder.glob("*.arrow")), default="")
        return max(time.time_ns(), int(last) + 1 if last.isdecimal() else 0)

    def _settings(self) -> bytes:
        return json.dumps(asdict(self.config), sort_keys=True).encode()

    def _batch(self, clips: Sequence[Clip], values: np.ndarray | None) -> pa.RecordBatch:
        for clip in clips:
            if clip.log_mel.dtype != np.float32 or clip.log_mel.shape[1:] != (self.config.bands,):
                found = f"{clip.log_mel.dtype} {clip.log_mel.shape}"
                raise ValueError(f"a log-mel is float32 (frames, {self.config.bands}), not {found}")
        offsets = np.cumsum([0] + [clip.log_mel.size for clip in clips])
        if values is None:
            values = np.concatenate([clip.log_mel.reshape(-1) for clip in clips])
        columns = {name: [getattr(clip, name) for clip in clips] for name in COLUMNS if name != "log_mel"}
        log_mel = pa.LargeListArray.from_arrays(offsets, values[: offsets[-1]])
        schema = pa.schema(list(COLUMNS.items()), {SETTINGS: self._settings()})
        return pa.RecordBatch.from_pydict(columns | {"log_mel": log_mel}, schema)

    def _load(self, path: Path) -> None:
        """Map a shard and index its clips; the mapping outlives the file's descriptor."""
        state = _state(path)
        with pa.memory_map(os.fsencode(path)) as source, pa.ipc.open_file(source) as reader:
            if (reader.schema.metadata or {}).get(SETTINGS) != self._settings():
                raise ValueError("its feature settings are not those of its folder")
            if not reader.schema.equals(pa.schema(list(COLUMNS.items()))):
                raise ValueError("its columns are not those of a shard")
            if reader.num_record_batches != 1:
                raise ValueError(f"it has {reader.num_record_batches} parts instead of one")
            batch = reader.get_batch(0)
        batch.validate(full=True)
        if any(column.null_count for column in batch.columns) or batch.column("log_mel").values.null_count:
            raise ValueError("it has gaps")
        log_mels = batch.column("log_mel")
        shard = _Shard(path, batch, log_mels.offsets.to_numpy(), log_mels.values.to_numpy(), state)
        if not np.array_equal(np.diff(shard.offsets), batch.column("frames").to_numpy() * self.config.bands):
            raise ValueError("its frames don't fit its log-mels")
        self._shards.append(shard)
        for row, content in enumerate(batch.column("content").to_pylist()):
            self._index[content] = (len(self._shards) - 1, row)


def _state(path: Path) -> tuple[int, int, int]:
    """The file's number on its disk, its size in bytes, and when it was last written to, ns."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _checksum(log_mel: np.ndarray) -> int:
    """The sum of the values' bits: at memory speed, and any damage to a few bytes changes it."""
    return int(log_mel.reshape(-1).view(np.uint32).sum(dtype=np.uint64))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
