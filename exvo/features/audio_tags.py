"""Tags of audio files (ID3, APE, Lyrics3, chunks of WAV), which hold no samples and may follow a recording."""

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
"""Names of the chunks that may follow the samples and hold none."""

MAX_PLACES = 100_000  # places that are examined
_ZEROS = re.compile(rb"\0*")
_CHUNK = re.compile(b"|".join(TAGS))
_LAST_TAG = re.compile(  # ID3v1, whose text has no control characters and whose year is digits; the ends of the others
    rb"TAG[^\x01-\x1f]{90}[0-9 \0]{4}[^\x01-\x1f]{28}...\Z|APETAGEX.{24}\Z|LYRICS(?:200|END)\Z", re.DOTALL
)


def past_tags(trailing: bytes) -> tuple[int, int]:
    """The range (first, end) of the bytes after a recording that are neither tags nor zeros; empty where all are."""
    first, end = 0, len(trailing)
    for _ in range(16):  # from the end: tags that end with their name and length
        last = trailing[max(0, end - 227) : end]
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
            end = max(0, trailing.rfind(b"LYRICSBEGIN", 0, end))
        else:
            break
    for _ in range(16):  # from the beginning: zeros, and tags that begin with their name and length
        zeros = _ZEROS.match(trailing, first, end)
        first = zeros.end() if zeros else end
        if size := id3_size(trailing[first : first + 10]):
            first += size
        elif trailing.startswith(b"TAG", first):
            first += 128
        elif trailing.startswith(b"APETAGEX", first) and end - first >= 32:
            first += 32 + struct.unpack_from("<I", trailing, first + 12)[0]
        else:
            break
    return min(first, end), end


def id3_size(head: bytes) -> int:
    """The length, bytes, of the ID3v2 tag that begins with these ten bytes; 0 where none begins so."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    footer = 10 if head[5] & 0x10 else 0
    return 10 + footer + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def trailing_tags(content: bytes | bytearray, start: int, head: str, counted: bool) -> int:
    """The byte where the tags that follow samples of unknown length begin; the end of the file where there are none.

    Samples may look like the beginning of a tag. So chunks must reach to the end of the file exactly, and an ID3v1 tag
    must hold text and a year.

    Args:
        content: of the file.
        start: byte where its samples begin.
        head: format of a chunk's head (its name and length) for `struct`.
        counted: whether a chunk's length counts its head too.
    """
    end = len(content)
    if _LAST_TAG.search(content, max(start, end - 128), end):
        end = start + past_tags(bytes(content[start:]))[1]
    head_bytes = struct.calcsize(head)
    for match in islice(_CHUNK.finditer(content, start, end), MAX_PLACES):
        place = match.start()
        for _ in range(16):  # chunks in a row
            if place + head_bytes > end:
                break
            name, length = struct.unpack_from(head, content, place)
            if name not in TAGS:
                break
            place += max(length, head_bytes) if counted else head_bytes + length
            if length % 2 and place < end:
                place += 1
        if place == end:
            return match.start()
    return end
