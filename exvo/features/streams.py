"""Where an MP3 or a FLAC ends: neither says how many bytes it has, and libsndfile stops where it expects the end.

Each function refuses a file of which libsndfile would decode, or has decoded, a part and taken it for the whole.
"""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

from exvo.features.audio_tags import id3_size, past_tags
from exvo.features.containers import (
    FEW,
    MAX_PARTS,
    UNKNOWN_LENGTH,
    AudioError,
    read_all,
    refuse_trailing,
    two_recordings,
)
from exvo.features.signatures import frame_format, frame_size, second_header

JUNK = 2**16  # bytes before the first frame that a decoder looks through
MAX_CRC_BYTES = 2**24  # over which CRCs are computed, at most, to find a FLAC's last frame


class Frames(NamedTuple):
    """The consecutive frames of an MP3; there may be tags between them."""

    places: list[int]  # byte where each frame begins
    end: int  # byte where the last frame ends
    promised: int  # frames that the header in the first frame counts; 0 where there is no such header
    samples: int  # samples of each frame


def check_mp3(file: io.FileIO | io.BytesIO) -> None:
    """Refuses an MP3 that has more frames than its header counts, or that something else follows.

    Without a header that counts them, all frames are one recording, also those after tags, unless their format changes.

    Raises:
        AudioError: says where the second recording, or what else follows, begins.
    """
    file.seek(0)
    head = file.read(10)
    file.seek(tag := id3_size(head))
    if not (tag or head[:2] >= b"\xff\xe0") or file.read(4) == b"fLaC":
        return
    content = read_all(file)
    if frames := mp3_frames(content, 0, len(content)):
        refuse_trailing(file, frames.end, len(content))


def check_mp3_length(file: io.FileIO | io.BytesIO, promised: int, decoded: int, allowed: int) -> None:
    """Refuses an MP3 that libsndfile has not decoded as a whole.

    A header in the first frame may give the length. Without it, libsndfile guesses the length from that frame's
    bitrate. A guess that is too long does no harm; one that is too short ends the decoding too early.

    Args:
        file: the MP3, at the place where libsndfile stopped reading.
        promised: samples that libsndfile expected.
        decoded: samples that it decoded.
        allowed: samples that may be missing.

    Raises:
        AudioError: it is cut short, or of unknown length.
    """
    following = file.read(2)
    file.seek(0)
    file.seek(id3_size(file.read(10)))
    first = file.read(256)
    if any(name in first for name in (b"Xing", b"Info", b"VBRI")):
        if decoded < promised:
            raise AudioError("truncated")
    elif len(following) == 2 and following[0] == 0xFF and following[1] >= 0xE0:
        raise AudioError(UNKNOWN_LENGTH)
    if not _promised(first[:64]):
        content = read_all(file)
        _check_decoded(mp3_frames(content, 0, len(content)), decoded, allowed)


def check_mp3_in_wav(file: io.FileIO | io.BytesIO, decoded: int, allowed: int) -> None:
    """Refuses the MP3 in a WAV of which `allowed` samples or more were not decoded.

    Args:
        file: the WAV.
        decoded: samples that libsndfile decoded.
        allowed: samples that may be missing.

    Raises:
        AudioError: its frames hold more samples than that, or a second recording follows.
    """
    content, place = read_all(file), 12
    while place + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, place)
        place += 8
        if name == b"data":
            frames = mp3_frames(content, place, min(place + length, len(content)))
            _check_decoded(frames, decoded, allowed)
            return
        place += length + length % 2


def _check_decoded(frames: Frames | None, decoded: int, allowed: int) -> None:
    """Refuses frames, not counted by a header, of which `allowed` samples or more were not decoded."""
    if frames and not frames.promised and len(frames.places) * frames.samples - decoded >= allowed:
        raise AudioError(UNKNOWN_LENGTH)


def mp3_frames(content: bytes, first: int, end: int) -> Frames | None:
    """The frames of layer III between two bytes; None where there are none, or their lengths are not known.

    Args:
        content: of the file.
        first: byte at which to begin.
        end: byte before which to end.

    Raises:
        AudioError: there are more frames than the header in the first one counts, or their format changes.
    """
    first += id3_size(content[first : first + 10])
    place = content.find(b"\xff", first, first + JUNK)
    while place >= 0 and not _two_frames(content, place):
        place = content.find(b"\xff", place + 1, first + JUNK)
    if place < 0:
        return None
    promised = _promised(content[place : place + 64])
    samples = 1152 if content[place + 1] >> 3 & 3 == 3 else 576
    places: list[int] = []
    while place < end and len(places) < MAX_PARTS:
        if size := frame_size(content[place : place + 3]):
            places.append(place)
            if frame_format(content, place) != frame_format(content, places[1 if promised and places[1:] else 0]):
                raise AudioError(two_recordings("MP3", place))
            place += size
            continue
        after = place + past_tags(content[place:end])[0]
        if after == place or not frame_size(content[after : after + 3]):
            break
        place = after
    if promised and len(places) > promised + 2:  # the header's own frame, which some count too
        raise AudioError(two_recordings("MP3", places[promised + 1]))
    return Frames(places, min(place, end), promised, samples)


def _two_frames(content: bytes, place: int) -> bool:
    """Whether a frame begins at this byte and another one directly after it."""
    following = place + frame_size(content[place : place + 3])
    return following > place and frame_size(content[following : following + 3]) > 0


def _promised(frame: bytes) -> int:
    """The number of frames that a header (Xing, Info or VBRI) in the first frame gives; 0 where it has none."""
    for name in (b"Xing", b"Info"):
        at = frame.find(name)
        if 0 <= at <= len(frame) - 12 and frame[at + 7] & 1:
            return int.from_bytes(frame[at + 8 : at + 12], "big")
    at = frame.find(b"VBRI")
    return int.from_bytes(frame[at + 14 : at + 18], "big") if at >= 0 else 0


def check_flac(file: io.FileIO | io.BytesIO) -> None:
    """Refuses a FLAC that doesn't end with a frame, tags or zeros; libsndfile decodes what its header counts, no more.

    Raises:
        AudioError: something else follows its last frame.
    """
    content = read_all(file)
    place = id3_size(content[:10]) + 4
    if content[place - 4 : place] != b"fLaC":
        return
    last = False
    while not last and place < len(content):  # blocks of metadata
        last = content[place] >= 0x80
        place += 4 + int.from_bytes(content[place + 1 : place + 4], "big")
    if second := second_header(content, place, len(content)):
        raise AudioError(two_recordings(*second))
    if _ends_with_frame(content, place, len(content)):
        return
    end = place + past_tags(content[place:])[1]
    tag = content.rfind(b"ID3", place, end)
    if tag >= 0 and tag + id3_size(content[tag : tag + 10]) >= end:
        end = tag
    if not any(_ends_with_frame(content, place, end - few) for few in range(FEW)):
        raise AudioError("after its last frame bytes are neither tags nor padding: something was appended")


def _ends_with_frame(content: bytes, first: int, end: int) -> bool:
    """Whether a frame, which may be followed by zeros, ends at byte `end`: one is searched whose CRC-16 holds.

    Args:
        content: of a FLAC.
        first: byte where its first frame begins, with whose head all frames share some bits.
        end: byte where a frame should end.
    """
    sync, shared = content[first : first + 2], (0, 0, 0x0F, 0x0E)
    place, spent = end, 0
    while spent < MAX_CRC_BYTES:
        place = content.rfind(sync, first, place + 1)
        if place < 0:
            return False
        head = zip(content[place : place + 4], content[first : first + 4], shared, strict=True)
        if place + 4 <= end and all((byte ^ first_byte) & bits == 0 for byte, first_byte, bits in head):
            spent += end - place
            if crc16_holds(content[place:end]):
                return True
    return False


def crc16_holds(frame: bytes) -> bool:
    """Whether a frame of FLAC, which ends with the CRC-16 of its other bytes, is undamaged.

    It is, if its bits as a polynomial over GF(2) are divisible by x^16 + x^15 + x^2 + 1 = (x + 1)(x^15 + x + 1). By the
    first factor: if the number of ones is even. By the second: x^(15 s) = x^s + 1 modulo that factor for each power of
    two s, so the bits above the lowest 15 s are added to the lower ones, shifted by s and by 0, until 15 bits are left.
    """
    number = int.from_bytes(frame, "big")
    if number.bit_count() % 2:
        return False
    step = 1
    while 15 * step < number.bit_length():
        step *= 2
    while step:
        while number.bit_length() > 15 * step:
            high = number >> 15 * step
            number ^= high << 15 * step ^ high << step ^ high
        step //= 2
    return number == 0
