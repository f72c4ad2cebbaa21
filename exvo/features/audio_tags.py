"""Tags of audio files, which hold no samples: ID3, APE and Lyrics3, before or after a recording of any format."""

from __future__ import annotations

import re
import struct
from itertools import islice

TAGS = (
    b"LIST",
    b"id3 ",
    b"ID3 ",
    b"bext",
    b"iXML",
    b"_PMX",
    b"cue ",
    b"smpl",
    b"JUNK",
    b"PAD ",
    b"FLLR",
    b"ANNO",
    b"COMT",
)
"""Chunks after the samples that hold none."""

MOST = 100_000  # places that are looked at
_ZEROS = re.compile(rb"\0*")
_CHUNK = re.compile(b"|".join(TAGS))
_LAST = re.compile(  # an ID3v1 tag without control characters, whose year is digits; how the others end
    rb"TAG[^\x01-\x1f]{90}[0-9 \0]{4}[^\x01-\x1f]{28}...\Z|APETAGEX.{24}\Z|LYRICS(?:200|END)\Z", re.DOTALL
)


def past_tags(rest: bytes) -> tuple[int, int]:
    """The part of what follows a recording, from and to, that is neither tags nor zeros."""
    first, end = 0, len(rest)
    for _ in range(16):  # tags whose last bytes say what they are, and how long
        last = rest[max(0, end - 227) : end]
        if last[-128:].startswith(b"TAG"):  # ID3v1
            end -= min(128, len(last))
        elif last.startswith(b"TAG+"):
            end -= len(last)
        elif last[-32:].startswith(b"APETAGEX") and len(last) >= 32:
            length, flags = struct.unpack_from("<I4xI", last, len(last) - 20)
            end = max(0, end - length - 32 * (flags >> 31))
        elif last.endswith(b"LYRICS200") and last[-15:-9].isdigit():
            end = max(0, end - 15 - int(last[-15:-9]))
        elif last.endswith(b"LYRICSEND"):
            end = max(0, rest.rfind(b"LYRICSBEGIN", 0, end))
        else:
            break
    for _ in range(16):  # zeros, and tags whose first bytes do
        zeros = _ZEROS.match(rest, first, end)
        first = zeros.end() if zeros else end
        if size := id3_size(rest[first : first + 10]):
            first += size
        elif rest.startswith(b"TAG", first):
            first += 128
        elif rest.startswith(b"APETAGEX", first) and end - first >= 32:
            first += 32 + struct.unpack_from("<I", rest, first + 12)[0]
        else:
            break
    return min(first, end), end


def id3_size(head: bytes) -> int:
    """Bytes of an ID3v2 tag that begins with these ten; 0 where it is none."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    footer = 10 if head[5] & 0x10 else 0
    return 10 + footer + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def trailing_tags(content: bytes | bytearray, start: int, head: str, counted: bool) -> int:
    """Where tags at the end begin, after samples of unknown length; the end where there are none.

    Samples may look like the beginning of a tag. So chunks must fill the bytes to the end exactly, and an ID3v1 tag
    must hold text and a year.

    Args:
        content: of the file.
        start: where its samples begin.
        head: of a chunk: its name and length, as `struct` has it.
        counted: whether a chunk's length holds its head too.
    """
    end = len(content)
    if _LAST.search(content, max(start, end - 128), end):
        end = start + past_tags(bytes(content[start:]))[1]
    wide = struct.calcsize(head)
    for match in islice(_CHUNK.finditer(content, start, end), MOST):
        place = match.start()
        for _ in range(16):  # chunks in a row
            if place + wide > end:
                break
            name, length = struct.unpack_from(head, content, place)
            if name not in TAGS:
                break
            place += max(length, wide) if counted else wide + length
            if length % 2 and place < end:
                place += 1
        if place == end:
            return match.start()
    return end
