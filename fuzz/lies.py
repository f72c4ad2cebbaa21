"""Audio of 100 bytes whose header promises 10 GB or more, in each format that has room for such a number."""

from __future__ import annotations

import io
import struct

import numpy as np
import soundfile

PROMISED = 10 * 10**9


def lies() -> dict[str, bytes]:
    """Kind of file -> its bytes."""
    wav = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    quick = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1_000, 900_000, 1_800_000_000, 2_000, 16)
    ds64 = b"WAVEds64" + struct.pack("<IQQQI", 28, PROMISED, PROMISED, PROMISED // 2, 0)
    samples = bytes(range(1, 101))
    files = {
        "wav": b"RIFF" + struct.pack("<I", 2**32 - 2) + wav + b"data" + struct.pack("<I", 2**32 - 44) + samples,
        "wav of 1,000 channels": b"RIFF" + struct.pack("<I", 2**32 - 2) + quick + b"data\xf0\xff\xff\xff" + samples,
        "wav without length": b"RIFF\xff\xff\xff\xff" + wav + b"data\xff\xff\xff\xff" + samples,
        "rf64": b"RF64\xff\xff\xff\xff" + ds64 + wav[4:] + b"data\xff\xff\xff\xff" + samples,
        "au": b".snd" + struct.pack(">IIIII", 24, 2**32 - 2, 3, 16_000, 1) + samples,
    }
    caf = b"caff\0\1\0\0desc" + struct.pack(">Qd4sIIIII", 32, 16_000.0, b"lpcm", 0, 2, 1, 1, 16)
    files["caf"] = caf + b"data" + struct.pack(">QI", PROMISED, 0) + samples
    common = b"COMM" + struct.pack(">IHIH", 18, 1, 2**32 - 2, 16) + b"\x40\x0c\xfa\0\0\0\0\0\0\0"
    aiff = common + b"SSND" + struct.pack(">III", 2**32 - 2, 0, 0) + samples
    files["aiff"] = b"FORM" + struct.pack(">I", 2**32 - 2) + b"AIFF" + aiff
    w64 = written("W64")
    place = w64.index(b"data\xf3\xac\xd3\x11") + 16
    files["w64"] = w64[:place] + struct.pack("<Q", PROMISED) + w64[place + 8 :]
    flac = bytearray(written("FLAC"))
    flac[21:26] = bytes([flac[21] | 15]) + b"\xff" * 4  # 2**36 - 1 samples
    files["flac"] = bytes(flac)
    flac[18:21] = struct.pack(">I", (655_350 << 4 | flac[20] & 15) << 0)[1:]
    files["flac of 655,350 Hz"] = bytes(flac)
    return files


def written(kind: str) -> bytes:
    """Fifty samples in a format."""
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(np.arange(50)), 16_000, format=kind, subtype="PCM_16")
    return file.getvalue()
