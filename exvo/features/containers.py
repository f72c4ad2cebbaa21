"""Opens audio files and refuses those of which libsndfile would decode a part and take it for the whole.

A file that is cut short, or in which something follows the first recording, is refused with the reason. What may follow
the samples: chunks of the same file, tags (ID3, APE, Lyrics3), zeros, and fewer than `FEW` bytes. A file that was
written into a pipe has a placeholder for its length: its samples go on to the end of the file, or to tags there.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from exvo.errors import InputError
from exvo.features.audio_tags import TAGS, past_tags, trailing_tags
from exvo.features.signatures import RECORDINGS, second_recording
from exvo.text import LONGEST_NAME, printable

MAX_PARTS = 100_000  # chunks of a WAV or pages of an Ogg: 60 s of Opus in the shortest packets take a few thousand
LARGEST = 2**28  # bytes of an MP3, a FLAC or a streamed WAV, which are looked through as a whole
FEW = 8  # bytes after the samples that hold no recording
PLACEHOLDERS = (
    (0, 0),
    (0x7EFFF000, 0x7F001000),  # SoX, to AIFF
    (0x7FFF0000, 0x80001000),  # SoX, arecord, LAME, opusdec, espeak; less a frame or a header
    (0xFFFF0000, 0xFFFFFFFF),  # FFmpeg, mpg123
    (2**62, 2**64 - 1),  # lengths of 64 bits
)
"""Ranges (first, last) of the data lengths that programs write into a pipe, where they can't know the length."""

UNKNOWN_LENGTH = "of unknown length (its header holds none): convert it to WAV"


class AudioError(InputError):
    """Audio that can't be used. `problem` is a short phrase, such as 'missing', 'not audio (...)', 'truncated'."""

    def __init__(self, problem: str, name: str = "the audio") -> None:
        super().__init__(problem, name)
        self.problem = problem
        self.name = name

    def __str__(self) -> str:
        name = printable(self.name, LONGEST_NAME)
        return f"{name} can't be used: {self.problem}. Repair or replace it, or leave it out."


def os_problem(error: OSError) -> str:
    """A short phrase for a file that the operating system doesn't give."""
    phrases = {FileNotFoundError: "missing", NotADirectoryError: "missing", IsADirectoryError: "a folder"}
    return phrases.get(type(error), f"not readable ({error.strerror or error})")


def open_regular(path: str | Path) -> io.FileIO:
    """Opens a file for reading, unbuffered.

    Raises:
        OSError: it can't be opened, or is not a regular file (a pipe would block).
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(0, "not a regular file")
    return io.FileIO(path)


class _Bytes(io.BytesIO):
    """Bytes in which a seek to before the beginning is ignored: libsndfile tries one in damaged files."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """The new position; the old one where there is no such position."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def open_audio(source: str | Path | bytes) -> io.FileIO | io.BytesIO:
    """A file to read from: opened by its path, or in memory from its bytes.

    Raises:
        OSError: it can't be opened, or is not a regular file.
    """
    return _Bytes(source) if isinstance(source, bytes) else open_regular(source)


def require_one_recording(file: io.FileIO | io.BytesIO) -> io.FileIO | io.BytesIO:
    """Refuses an empty file, one that is cut short, and one that goes on after its first recording.

    Returns:
        What to decode: the file at its beginning; or where its length was a placeholder, a copy in memory with the
        true length.

    Raises:
        AudioError: says which of the three it is.
    """
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise AudioError("empty file")
    file.seek(0)
    head = file.read(12)
    if layout := _layout(head):
        file = _check_chunks(file, size, layout)
    elif head[:4] == b"OggS":
        file = _check_ogg(file, size)
    elif head[:4] == b".snd":
        _check_au(file, size)
    file.seek(0)
    return file


def read_all(file: io.FileIO | io.BytesIO) -> bytes:
    """All bytes of a file.

    Raises:
        AudioError: they are more than `LARGEST`.
    """
    if file.seek(0, io.SEEK_END) > LARGEST:
        raise AudioError(f"larger than {LARGEST // 2**20} MiB")
    file.seek(0)
    return file.read()


def read_plain(content: bytes) -> tuple[np.ndarray, int] | None:
    """The samples, int16 (samples, channels), and the rate in Hz of a WAV of 16-bit PCM, whole and in order.

    Reading them directly takes a fifth of the time that libsndfile takes. Any other file gives None, and libsndfile
    decodes or refuses it.
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
            is_plain = tag == 1 and bits == 16 and 1 <= channels <= 2 and frame == 2 * channels and 0 < rate < 2**31
            if not is_plain or length == 0 or length % frame or start + length != len(content):
                return None
            return np.frombuffer(content, "<i2", offset=start).reshape(-1, channels), rate
        elif name != b"LIST":  # ffmpeg's name and version
            return None
        start += length + length % 2
    return None


class _Layout(NamedTuple):
    """How a format that consists of chunks lays them out."""

    head: str  # format of a chunk's head (its name and length) for `struct`
    first: int  # byte where the first chunk begins
    align: int  # chunks begin at multiples of so many bytes after `first`
    counted: bool  # whether a chunk's length counts its head too
    samples: bytes  # name of the chunk with the samples


def _layout(head: bytes) -> _Layout | None:
    """The layout of a file that begins with these bytes; None where it has no chunks."""
    if head[8:12] == b"WAVE" and head[:4] in (b"RIFF", b"RF64", b"RIFX"):
        return _Layout(">4sI" if head[:4] == b"RIFX" else "<4sI", 12, 2, False, b"data")
    if head[8:12] in (b"AIFF", b"AIFC") and head[:4] == b"FORM":
        return _Layout(">4sI", 12, 2, False, b"SSND")
    if head[:8] == b"caff\0\1\0\0":
        return _Layout(">4sQ", 8, 1, False, b"data")
    if head == b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb":  # Wave64
        return _Layout("<4s12xQ", 40, 8, True, b"data")
    return None


def _check_chunks(file: io.FileIO | io.BytesIO, size: int, layout: _Layout) -> io.FileIO | io.BytesIO:
    """Refuses samples that end after the file's end, and what follows them unless it belongs to the file."""
    place, head_bytes = layout.first, struct.calcsize(layout.head)
    after = 0  # where the samples end; 0 before they are reached
    long, length_at = 0, 0  # of an RF64: the length of the samples in 64 bits, and where it stands
    for _ in _parts():
        file.seek(min(place, size))
        if len(head := file.read(head_bytes)) < head_bytes:
            break
        name, length = struct.unpack(layout.head, head)
        start = place + head_bytes
        end = max(start, (place if layout.counted else start) + length)
        if name == layout.samples and not after:
            if length == 0xFFFFFFFF and long:
                length, end = long, start + long
            else:
                length_at = 0
            if any(low <= length <= high for low, high in PLACEHOLDERS) and end != size:
                return _streamed(file, size, layout, start, length_at)
            if end > size:
                raise AudioError("truncated")
            after = end
        elif after and name == layout.samples:
            raise AudioError(f"its samples are in several parts (the second at byte {place:,}): convert it to WAV")
        elif after and not _belongs(name, end, size):
            break
        elif name == b"ds64":
            length_at = start + 8
            file.seek(length_at)
            long = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0] or 2**64 - 1
        place = end
        if filling := -(end - layout.first) % layout.align:
            file.seek(min(end, size))
            place += filling if file.read(1) in (b"\0", b"") else 0  # some programs don't align chunks
    if not after:
        return file
    refuse_trailing(file, place, size)
    tags_read_as_samples = layout.counted and after < size  # by libsndfile
    return _Bytes(read_all(file)[:after]) if tags_read_as_samples else file


def _belongs(name: bytes, end: int, size: int) -> bool:
    """Whether a chunk after the samples is part of the file. Tags may be cut short, since the samples are whole."""
    return name not in RECORDINGS and name.isascii() and name.decode().isprintable() and (end <= size or name in TAGS)


def _streamed(
    file: io.FileIO | io.BytesIO, size: int, layout: _Layout, start: int, length_at: int
) -> io.FileIO | io.BytesIO:
    """A copy of a file in memory, with the samples' true length in place of a placeholder.

    The samples go on to the end of the file, or to tags there.

    Args:
        file: an audio file that has a placeholder for the length of its samples.
        size: bytes of the file.
        layout: how its chunks are laid out.
        start: byte where the samples begin.
        length_at: byte where an RF64 has the length in 64 bits; else 0.

    Raises:
        AudioError: a second recording begins within the samples, or the file is too large.
    """
    content = bytearray(read_all(file))
    head_bytes = struct.calcsize(layout.head)
    name, length = struct.unpack_from(layout.head, content, start) if size - start >= head_bytes else (b"", 0)
    if size == start or (name and _belongs(name, start + head_bytes + length, size)):
        return file  # it has no samples
    end = trailing_tags(content, start, layout.head, layout.counted)
    if second := second_recording(bytes(content[:end]), start, end):
        raise AudioError(two_recordings(*second))
    if end < size:
        del content[end:]
    if length_at:
        struct.pack_into("<Q", content, length_at, end - start)
    else:
        samples = content[start - head_bytes : start - head_bytes + 4]
        length = end - start + (head_bytes if layout.counted else 0)
        kept = content[start - head_bytes + 4 : start - struct.calcsize(layout.head[0] + layout.head[-1])]
        content[start - head_bytes : start] = samples + kept + struct.pack(layout.head[0] + layout.head[-1], length)
    return _Bytes(bytes(content))


def _check_ogg(file: io.FileIO | io.BytesIO, size: int) -> io.FileIO | io.BytesIO:
    """Walks over the pages (RFC 3533): the last must be whole, and no stream may begin after the first one's pages.

    Returns:
        The file; where something harmless follows the pages, the pages alone: libsndfile would look for the last page
        in what follows.

    Raises:
        AudioError: a page is cut short, a second stream begins, or something else follows.
    """
    place, begun = 0, False  # begun: whether pages were seen that don't begin a stream
    for _ in _parts():
        file.seek(place)
        head = file.read(27)
        if len(head) < 27 and head and b"OggS".startswith(head[:4]):
            raise AudioError("truncated")
        if head[:4] != b"OggS":
            break
        begins = bool(head[5] & 2)
        if begins and begun:
            raise AudioError(two_recordings("Ogg", place))
        begun = not begins
        segments = file.read(head[26])
        place += 27 + head[26] + sum(segments)
    if place > size:
        raise AudioError("truncated")
    refuse_trailing(file, place, size)
    return _Bytes(read_all(file)[:place]) if place < size else file


def _check_au(file: io.FileIO | io.BytesIO, size: int) -> None:
    """Refuses an AU file that is shorter than its header says, or that goes on after its samples.

    A length of all ones means that the samples go on to the end.
    """
    file.seek(4)
    start, length = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
    if length and length != 0xFFFFFFFF:
        if start + length > size:
            raise AudioError("truncated")
        refuse_trailing(file, start + length, size)


def refuse_trailing(file: io.FileIO | io.BytesIO, place: int, size: int) -> None:
    """Refuses what follows a recording, unless it is tags, zeros or fewer than `FEW` bytes.

    Args:
        file: the audio file.
        place: byte where the recording ends.
        size: bytes of the file.

    Raises:
        AudioError: says where the trailing bytes begin, and what they are where that is known.
    """
    if size - place < FEW:
        return
    file.seek(place)
    trailing = file.read(LARGEST)
    first, end = past_tags(trailing)
    if end - first < FEW:
        return
    for name, kind in RECORDINGS.items():
        if trailing.startswith(name, first):
            raise AudioError(two_recordings(kind, place + first))
    raise AudioError(
        f"after its samples, at byte {place + first:,}, {end - first:,} bytes are neither tags nor padding: "
        "damaged, or something was appended"
    )


def two_recordings(kind: str, place: int) -> str:
    """The problem of a file that holds two recordings, the second of which has this format and begins at this byte."""
    return f"two recordings joined end to end (the second, {kind}, begins at byte {place:,}): split them"


def _parts() -> Iterator[int]:
    """Numbers for the chunks or pages of a file.

    Raises:
        AudioError: there are more than `MAX_PARTS`.
    """
    yield from range(MAX_PARTS)
    raise AudioError(f"it has more than {MAX_PARTS:,} parts")
