"""What hostile input is made of: audio, damaged bytes, odd values, odd cells of a table."""

from __future__ import annotations

import base64
import io
import struct
from functools import cache
from random import Random
from typing import Any

import numpy as np
import soundfile

KINDS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "ULAW"),
    ("WAV", "IMA_ADPCM"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("CAF", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
]

SIZES = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
HUGE = (*SIZES, 10 * 2**30, 2**36 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)

NUMBERS = (0, -1, 1, 0.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), 10**9, 10**30, 2**63, True, None)

CELLS = (
    "",
    " ",
    "nan",
    "-inf",
    "1e400",
    "1e39",
    "0x10",
    "1_0",
    "٣",
    "½",
    "0,5",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1+1)*cmd",
    '=HYPERLINK("http://127.0.0.1")',
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b.wav",
    "..",
    ".",
    "~/x.wav",
    "C:\\x.wav",
    "C:/x.wav",
    "\\\\host\\share",
    "wav/" + "x" * 300 + ".wav",
    "out.wav",
    "loop.wav",
    "folder",
    "pipe",
    "link/1.wav",
    "a\0b",
    "a\x1b[2Jb",
    "two\nlines",
    "\u202egnp.wav",
    "\ufeff",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7}}",
    "${x}",
    "$(touch x)",
    "`touch x`",
    "; rm -rf x",
    "%s%n",
    "'",
    '"',
    '""',
    "x" * 5_000,
    "x" * 200_000,
    "é" * 999,
    "𝔘",
    "Jose\u0301",
    "Jos\u00e9",
    "\uff21nna",
    "e\u0301.wav",
    "a" + "\u0315\u0300" * 400,
    "1,234",
    "1.234,5",
    "1,5;2",
    "\u212a.wav",
    "in.m4a",
)


@cache
def audio() -> tuple[bytes, ...]:
    """A short tone in each format that libsndfile writes and people use; it draws the serial numbers of Ogg itself."""
    files = []
    for kind, subtype in KINDS:
        for rate, channels in ((16_000, 1), (48_000, 2)):
            file, time = io.BytesIO(), np.arange(int(0.08 * rate)) / rate
            samples = np.repeat(0.3 * np.sin(2 * np.pi * 300 * time)[:, None], channels, axis=1)
            soundfile.write(file, samples, rate, format=kind, subtype=subtype)
            files.append(file.getvalue())
    return tuple(files)


def text(content: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(content).decode()


def integer(random: Random) -> bytes:
    """A number as headers hold them: one to eight bytes, either end first."""
    size, sign = random.choice([("B", 1), ("H", 2), ("I", 4), ("Q", 8)])
    return struct.pack(random.choice("<>") + size, random.choice(HUGE) % 256**sign)


def damage(random: Random, content: bytes, most: int = 4) -> bytes:
    """Content with bytes changed, lost, doubled, put in, or numbers in place of others; mostly near its beginning."""
    changed = bytearray(content)
    for _ in range(random.randint(1, most)):
        end = random.choice([12, 48, 48, 200, max(1, len(changed))])
        place = random.randrange(max(1, min(end, len(changed))))
        way = random.randrange(8)
        if way < 2 and changed:
            changed[place] = random.choice([0, 1, 127, 128, 255, random.randrange(256)])
        elif way < 5:
            number = integer(random)
            changed[place : place + len(number)] = number
        elif way == 5:
            del changed[random.choice([place, random.randrange(max(1, len(changed)))]) :]
        elif way == 6:
            changed[place:place] = random.randbytes(random.randint(1, 8))
        else:
            changed[place:place] = changed[place : place + random.randint(1, 64)] * random.randint(1, 3)
    return bytes(changed)


def value(random: Random, depth: int) -> Any:
    """Any JSON value, no deeper than `depth`."""
    if depth and random.random() < 0.4:
        size = random.randint(0, 4)
        if random.random() < 0.5:
            return [value(random, depth - 1) for _ in range(size)]
        keys = ["audio", "profile", "data", "columns", "é", "width"]
        return {random.choice(keys): value(random, depth - 1) for _ in range(size)}
    return random.choice([*NUMBERS, "", "audio", "\ud800", "\0", "é" * 99, "=" * 8, "enrol", "cnn14", "zero", "1"])
