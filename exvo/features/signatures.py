"""How recordings of each format begin: finds a second one that was appended to a file.

The patterns are long enough that samples before it do not match them by chance.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice

from exvo.features.audio_tags import id3_size

RECORDINGS = {
    b"RIFF": "WAV",
    b"RIFX": "WAV",
    b"RF64": "WAV",
    b"riff": "W64",
    b"FORM": "AIFF",
    b"caff": "CAF",
    b".snd": "AU",
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
}
"""First bytes of a recording -> its format."""

BITRATES = {  # kbit/s of layer III; the first is 'free', where a frame's length is not known
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = (44_100, 48_000, 32_000)  # Hz of MPEG 1; half of it for MPEG 2, a quarter for 2.5
CHAIN = 4  # consecutive MP3 frames of one format that make a recording
MAX_PLACES = 100_000  # places that are examined

_HEADERS = re.compile(
    rb"fLaC[\0\x80]\0\0\x22|(?:RIFF|RIFX|RF64)....WAVE|FORM....AIF[FC]|OggS\0\x02\0{8}|caff\0\x01\0\0"
    rb"|riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb|\.snd\0\0......\0\0\0[\x01-\x1b]",
    re.DOTALL,
)
_FRAME = re.compile(rb"\xff(?=(?:[\xe3\xf3\xfb]..|[\xe2\xf2\xfa]....)\0)", re.DOTALL)
"""A frame of layer III, with a CRC or without, that needs no bits of the frame before it: a recording's first frame."""


def second_header(content: bytes | bytearray, start: int, end: int) -> tuple[str, int] | None:
    """The format of the first file header between two bytes, and the byte where it begins; None where there is none."""
    match = _HEADERS.search(content, start, end)
    return (RECORDINGS[match[0][:4]], match.start()) if match else None


def second_recording(content: bytes, start: int, end: int) -> tuple[str, int] | None:
    """The format of a recording that begins between two bytes, and the byte where it (or its tag) begins; or None.

    It begins with a file header, or is MP3: `CHAIN` frames that are not all equal. Equal ones may be samples: a tone
    whose period is a whole number of samples may repeat the bytes of a frame's header.
    """
    if header := second_header(content, start, end):
        return header
    for match in islice(_FRAME.finditer(content, start, end), MAX_PLACES):
        place, frames = match.start(), set()
        for _ in range(CHAIN):
            size = frame_size(content[place : place + 3])
            if not size or place >= end or frame_format(content, place) != frame_format(content, match.start()):
                break
            frames.add(content[place : place + size])
            place += size
        else:
            if len(frames) > 1:
                return "MP3", _before_tag(content, start, match.start())
    return None


def _before_tag(content: bytes, start: int, place: int) -> int:
    """The byte where the ID3v2 tag that ends at `place` begins; `place` where no tag ends there."""
    tag = content.rfind(b"ID3", start, place)
    return tag if tag >= 0 and tag + id3_size(content[tag : tag + 10]) == place else place


@lru_cache(maxsize=1024)
def frame_size(head: bytes) -> int:
    """The length, bytes, of the frame of layer III that begins with these three bytes; 0 where none begins so."""
    if len(head) < 3 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, bitrate, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return 0
    hertz = RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
    bits = 1000 * BITRATES[1 if version == 3 else 2][bitrate]
    return (144 if version == 3 else 72) * bits // hertz + (head[2] >> 1 & 1)


def frame_format(content: bytes, place: int) -> tuple[int, int, bool]:
    """The MPEG version and sampling rate of the frame at this byte, as coded in its header, and whether it is mono.

    All frames of a recording agree in these; stereo may alternate with joint stereo.
    """
    return content[place + 1] >> 3 & 3, content[place + 2] >> 2 & 3, content[place + 3 : place + 4] >= b"\xc0"
