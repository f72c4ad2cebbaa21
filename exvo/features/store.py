"""The feature store: clips' features in memory-mapped Arrow files, looked up by the SHA-256 of the audio file."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
import warnings
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.shards import CLIP_COLUMNS, Clip, Features, Shard, read_shard, write_shard

STALE = 3600.0  # seconds after which a temporary file was left by a killed process: writing a shard takes a few
UNSEEN = 90.0  # seconds after which a file is seen on all machines: NFS looks anew after 60
RECENT = 2**16  # the index's arrays are made anew only after so many clips, or more, came into its dictionary

Place = tuple[int, int]  # of a clip: the number of its shard, and its row there


class Store(Mapping[str, np.ndarray]):
    """content -> a clip's features: a read-only view on the mapped file, so only the clips that are used are read.

    `content` is the SHA-256 of the audio file, in hexadecimal. The shards of the same features lie in one folder, whose
    name holds their kind and key. A shard is written under a temporary name and renamed: so it is whole or absent, and
    several processes may write at the same time. A shard that was cut short or damaged is left out with a warning.
    Opening a store doesn't read the features; `intact` tells whether a clip's are still as they were written.

    A shard may be deleted or replaced while it is mapped. One that is written to in place is refused when the next of
    its clips is asked for; if it is cut short between that check and the reading, the system ends the process (SIGBUS).

    Args:
        folder: where the stores lie, one for each kind and key of features.
        config: the settings of log-mels; or features of another kind.
    """

    def __init__(self, folder: str | Path, config: FeatureConfig | Features) -> None:
        self.root = Path(folder)
        self.config = config
        self.features = config if isinstance(config, Features) else Features.of_log_mel(config)
        self.folder = self.root / f"{self.features.kind}-{self.features.key}"
        self._files: set[str] = set()
        self._shards: list[Shard] = []
        self._index = _Index()
        self.refresh()

    def refresh(self) -> None:
        """Maps the shards that were written since, by this process or another."""
        try:
            names = {name for name in os.listdir(self.folder) if name.endswith(".arrow")} - self._files
        except OSError:
            return
        begun = len(self._shards)
        for name in sorted(names):
            self._files.add(name)
            try:
                self._shards.append(read_shard(self.folder / name, self.features))
            except (pa.ArrowException, ValueError, OSError) as error:
                path = self.folder / name
                warnings.warn(f"{path} is left out, delete it: {_one_line(error)}", RuntimeWarning, stacklevel=3)
        self._index.add(self._shards, begun)

    def __reduce__(self) -> tuple[type[Store], tuple[Path, FeatureConfig | Features]]:
        """How a store is pickled: as its folder and features, so that another process maps the files itself."""
        return Store, (self.root.absolute(), self.config)

    def wait_for(self, contents: Collection[str]) -> None:
        """Maps the shards that another machine has written, which a network's file system shows only after a while.

        Args:
            contents: of clips that have been written.

        Raises:
            InputError: they are not all there after `UNSEEN` seconds.
        """
        until = time.monotonic() + UNSEEN
        self.refresh()
        while missing := [content for content in contents if content not in self]:
            if time.monotonic() > until:
                raise InputError(
                    f"{len(missing)} clips that other machines have written are not in {self.folder} after {UNSEEN:g} "
                    "seconds: all machines must see the same folder."
                )
            time.sleep(1)
            self.refresh()

    def __contains__(self, content: object) -> bool:
        return isinstance(content, str) and self._index.find(content) is not None

    def __getitem__(self, content: str) -> np.ndarray:
        """A clip's features; a log-mel is (frames, bands), dB.

        Raises:
            KeyError: the store lacks the clip.
            InputError: its shard was written to while it was in use.
        """
        place = self._index.find(content)
        if place is None:
            raise KeyError(content)
        shard = self._shards[place[0]]
        if shard.changed():
            raise InputError(
                f"{shard.path} was changed while it was in use, though a shard is written once: delete it and run the "
                "same command again, which extracts its clips anew."
            )
        return self.features.shaped(shard.row(place[1]))

    def __iter__(self) -> Iterator[str]:
        return self._index.contents()

    def __len__(self) -> int:
        return len(self._index)

    def frames(self, content: str) -> int:
        """How many frames the clip's log-mel has, without reading it."""
        return len(self[content])

    def intact(self, content: str) -> bool:
        """Whether the store holds the clip as it was written. A damaged one is taken from the index, with a warning."""
        place = self._index.find(content)
        if place is None:
            return False
        shard = self._shards[place[0]]
        if shard.intact(place[1]):
            return True
        warnings.warn(f"{shard.path} is damaged in places, delete it", RuntimeWarning, stacklevel=2)
        self._index.forget(content)
        return False

    def table(self) -> pd.DataFrame:
        """The facts about all clips, indexed by content: the columns of `shards.CLIP_COLUMNS`."""
        parts = [shard.clip_columns(self.features) for shard in self._shards]
        columns = {
            name: np.concatenate([part[name] for part in parts]) if parts else np.empty(0) for name in CLIP_COLUMNS
        }
        digests = [digest.hex() for shard in self._shards for digest in _digests(shard.contents)]
        table = pd.DataFrame(columns, index=pd.Index(digests, dtype=object, name="content"))
        return table[~table.index.duplicated(keep="last")]

    def add(self, clips: Sequence[Clip], values: np.ndarray | None = None) -> None:
        """Writes clips as one shard.

        Args:
            clips: with their features.
            values: an array that begins with the features of all clips, one after the other; None: they are copied
                into one.

        Raises:
            OSError: it can't be written (a full disk); then no part of it is left.
        """
        if not clips:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = (
            self.folder / f"{self._next():020}-{uuid.uuid4().hex}.tmp"
        )  # sorted by time: of two rows the newer counts
        try:
            write_shard(temporary, self.features, clips, values)
            shard = temporary.rename(temporary.with_suffix(".arrow"))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._files.add(shard.name)
        self._shards.append(read_shard(shard, self.features))
        self._index.add(self._shards, len(self._shards) - 1)

    def sweep(self) -> None:
        """Deletes the temporary files of processes that were killed while they wrote."""
        for temporary in self.folder.glob("*.tmp"):
            with contextlib.suppress(OSError):  # another process was quicker, or the folder is read-only
                if time.time() - temporary.stat().st_mtime > STALE:
                    temporary.unlink()

    def _next(self) -> int:
        """The number of a new shard: the time, ns, or one more than the last shard's if the clock was set back."""
        last = max((name[:20] for name in os.listdir(self.folder) if name.endswith(".arrow")), default="")
        return max(time.time_ns(), int(last) + 1 if last.isdecimal() else 0)


class _Index:
    """content -> place: sorted arrays, and a dictionary of the clips that came after they were sorted.

    A million clips take 50 MB. In a dictionary alone they would take six times as much, and seconds to fill it.
    """

    def __init__(self) -> None:
        self._sorted = np.empty((0, 4), ">u8")  # contents, each once
        self._keys = np.empty(0, np.uint64).data  # their first 64 bits
        self._places = np.empty((0, 2), np.int32)
        self._recent: dict[bytes, Place] = {}
        self._forgotten: set[bytes] = set()
        self._count = 0

    def add(self, shards: Sequence[Shard], begun: int) -> None:
        """Adds the clips of the shards from number `begun` on; of two rows of the same content the newer counts."""
        clips = sum(len(shard.contents) for shard in shards[begun:])
        if clips + len(self._recent) > max(RECENT, len(self._keys) // 2):
            self._sort(shards, begun)
            return
        for number in range(begun, len(shards)):
            for row, digest in enumerate(_digests(shards[number].contents)):
                self._count += self._find(digest) is None
                self._recent[digest] = number, row
                self._forgotten.discard(digest)

    def find(self, content: str) -> Place | None:
        """The place of a clip; None where it is not there."""
        try:
            return self._find(bytes.fromhex(content))
        except ValueError:
            return None

    def forget(self, content: str) -> None:
        """Removes a clip that is there, until it is added again."""
        digest = bytes.fromhex(content)
        self._recent.pop(digest, None)
        self._forgotten.add(digest)
        self._count -= 1

    def contents(self) -> Iterator[str]:
        """The contents of all clips, in no order."""
        yield from (digest.hex() for digest in self._recent)
        for digest in _digests(self._sorted):
            if digest not in self._recent and digest not in self._forgotten:
                yield digest.hex()

    def __len__(self) -> int:
        return self._count

    def _find(self, digest: bytes) -> Place | None:
        place = self._recent.get(digest)
        return place if place or not self._keys or digest in self._forgotten else self._search(digest)

    def _search(self, digest: bytes) -> Place | None:
        """The place of a clip in the arrays; None where it is not there."""
        key = int.from_bytes(digest[:8], "big")
        row = bisect_left(self._keys, key)
        while row < len(self._keys) and self._keys[row] == key:
            if self._sorted[row].tobytes() == digest:
                shard, place = self._places[row].tolist()
                return shard, place
            row += 1
        return None

    def _sort(self, shards: Sequence[Shard], begun: int) -> None:
        """Makes the arrays anew, of all shards; those from number `begun` on were not in the index before."""
        contents = np.concatenate([shard.contents for shard in shards])  # in the machine's byte order
        sizes = [len(shard.contents) for shard in shards]
        rows = np.concatenate([np.arange(size) for size in sizes])
        places = np.stack([np.repeat(np.arange(len(sizes)), sizes), rows], axis=1)
        order = np.argsort(contents[:, 0], kind="stable")  # the newest of equal rows is the last
        same_key = contents[order[1:], 0] == contents[order[:-1], 0]
        if (contents[order[1:]][same_key] != contents[order[:-1]][same_key]).any():  # 64 bits equal by chance
            order = np.lexsort(contents.T[::-1])
        contents, places = contents[order], places[order]
        last = np.append((contents[1:] != contents[:-1]).any(axis=1), True)
        self._sorted, self._places, self._recent = contents[last].astype(">u8"), places[last].astype(np.int32), {}
        self._keys = contents[last, 0].data
        places_of_forgotten = {digest: self._search(digest) for digest in self._forgotten}
        self._forgotten = {digest for digest, place in places_of_forgotten.items() if place and place[0] < begun}
        self._count = len(self._keys) - len(self._forgotten)


def _digests(contents: np.ndarray) -> Iterator[bytes]:
    """uint64 (clips, 4) -> the 32 bytes of each clip's SHA-256."""
    content = contents.tobytes()
    return (content[at : at + 32] for at in range(0, len(content), 32))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
