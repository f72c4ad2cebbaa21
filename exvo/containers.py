"""Audio files before they are decoded: opened, and refused where they are cut short, which libsndfile doesn't see."""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from exvo.config import InputError
from exvo.text import LONGEST_NAME, shown

MAX_PARTS = 100_000  # chunks of a WAV or pages of an Ogg: 60 s of Opus in the shortest packets take a few thousand
UNKNOWN_SIZE = 0xFFFFFFFF  # what an encoder writes to a WAV header when it streams
UNKNOWN_LENGTH = "of unknown length (its header holds none): convert it to WAV"


class AudioError(InputError):
    """Audio that can't be used. `problem` is a short phrase, such as 'missing', 'not audio (...)', 'truncated'."""

    def __init__(self, problem: str, name: str = "the audio") -> None:
        super().__init__(problem, name)
        self.problem = problem
        self.name = name

    def __str__(self) -> str:
        return f"{shown(self.name, LONGEST_NAME)} can't be used: {self.problem}. Repair or replace it, or leave it out."


def os_problem(error: OSError) -> str:
    """A short phrase for a file that the operating system doesn't give."""
    phrases = {FileNotFoundError: "missing", NotADirectoryError: "missing", IsADirectoryError: "a folder"}
    return phrases.get(type(error), f"not readable ({error.strerror or error})")


def open_regular(path: str | Path) -> io.FileIO:
    """Open a file for reading, unbuffered; OSError for whatever isn't a regular file (a pipe would block)."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(0, "not a regular file")
    return io.FileIO(path)


class _Bytes(io.BytesIO):
    """Bytes in which libsndfile may look for a place before their beginning, as in a file: it is not given one."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """The new place, or the old one."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def open_audio(source: str | Path | bytes) -> io.FileIO | io.BytesIO:
    """A path, which must be a regular file, or the file's bytes, to read; OSError as above."""
    return _Bytes(source) if isinstance(source, bytes) else open_regular(source)


def check_size(file: io.FileIO | io.BytesIO) -> None:
    """Refuse an empty file, and a WAV or Ogg that is cut short: there libsndfile gives what is left as the whole."""
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise AudioError("empty file")
    file.seek(0)
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE" and _wav_end(file) > size:
        raise AudioError("truncated")
    if head[:4] == b"OggS" and _ogg_end(file) > size:
        raise AudioError("truncated")
    file.seek(0)


def read_plain(content: bytes) -> tuple[np.ndarray, int] | None:
    """The samples, int16 (samples, channels), and the rate in Hz of a WAV of 16-bit PCM, whole and in order.

    They lie there as they are, and read this way cost a fifth of what libsndfile takes. Any other file gives None, and
    is for libsndfile to decode or to refuse.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return None
    start, layout = 12, b""
    while len(content) - start >= 8:
        name, length = struct.unpack_from("<4sI", content, start)
        start += 8
        if name == b"fmt " and length == 16 and not layout:
            layout = content[start : start + 16]
        elif name == b"data" and layout:
            tag, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", layout)
            usual = tag == 1 and bits == 16 and 1 <= channels <= 2 and frame == 2 * channels and 0 < rate < 2**31
            if not usual or length == 0 or length % frame or start + length != len(content):
                return None
            return np.frombuffer(content, "<i2", offset=start).reshape(-1, channels), rate
        elif name != b"LIST":  # what ffmpeg writes of itself
            return None
        start += length + length % 2
    return None


def _wav_end(file: io.FileIO | io.BytesIO) -> int:
    """Where the data chunk ends by its header, in bytes; 0 where the header doesn't say."""
    long = 0
    for _ in _parts():
        if len(head := file.read(8)) < 8:
            break
        name, length = struct.unpack("<4sI", head)
        start = file.tell()
        if name == b"data":
            length = long if length == UNKNOWN_SIZE else length
            return start + length if length else 0
        if name == b"ds64":  # RF64: sizes of 64 bits
            long = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        file.seek(start + length + length % 2)
    return 0


def _ogg_end(file: io.FileIO | io.BytesIO) -> int:
    """Where the last page ends by its header, in bytes (RFC 3533)."""
    end = 0
    for _ in _parts():
        file.seek(end)
        head = file.read(27)
        if not head or not b"OggS".startswith(head[:4]):
            break
        if len(head) < 27:
            return end + 27
        segments = file.read(head[26])
        end += 27 + head[26] + sum(segments)
    return end


def _parts() -> Iterator[int]:
    """Counts chunks or pages. Raises AudioError at more than `MAX_PARTS`."""
    yield from range(MAX_PARTS)
    raise AudioError(f"it has more than {MAX_PARTS:,} parts")


def check_mp3(file: io.FileIO | io.BytesIO, promised: int, decoded: int) -> None:
    """An MP3 may have its length in its first frame; without, libsndfile guesses it from that frame's bitrate.

    A guess that is too long does no harm. One that is too short ends the decoding amid the frames.
    """
    following = file.read(2)
    file.seek(0)
    head = file.read(10)
    tag = 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    file.seek(tag if head[:3] == b"ID3" else 0)
    first = file.read(256)
    if any(name in first for name in (b"Xing", b"Info", b"VBRI")):
        if decoded < promised:
            raise AudioError("truncated")
    elif len(following) == 2 and following[0] == 0xFF and following[1] >= 0xE0:
        raise AudioError(UNKNOWN_LENGTH)
