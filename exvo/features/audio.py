"""Audio file -> mono waveform at 16 kHz."""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.containers import (
    UNKNOWN_LENGTH,
    AudioError,
    open_audio,
    os_problem,
    read_plain,
    require_one_recording,
)
from exvo.features.streams import check_flac, check_mp3, check_mp3_in_wav, check_mp3_length

BLOCK = 2**20  # samples decoded at a time, over all channels: a header's promise is never allocated
MAX_RATE = 1_000_000  # Hz; FLAC ends at 655,350, and soxr takes seconds to resample from billions
SCALE = np.float32(2.0**-15)  # of 16-bit samples
LOST = 0.1  # s at the end of an MP3 in a WAV that libsndfile may promise and not decode
CANCELLED = 12.0  # dB that mixing to mono may lose; of N channels of which one is not silent it takes 10 log10(N)
LOUDEST = 100.0  # full scale is 1; MP3 overshoots it a little, integers taken for floats by far


@dataclass(frozen=True, eq=False)
class Audio:
    """A decoded file: float32 `waveform` (samples,) at `FeatureConfig.sample_rate`; the rest describes the source."""

    waveform: np.ndarray
    peak: float  # largest magnitude of the waveform; full scale is 1
    rate: int  # Hz
    channels: int
    seconds: float
    decoded: int  # `fingerprint` of the source's samples, mixed to mono but not resampled
    note: str  # what of the source is not in the waveform, though it can be used; '' as a rule


def read_audio(source: str | Path | bytes, config: FeatureConfig) -> Audio:
    """Decode WAV, FLAC, Ogg Vorbis, Opus, MP3 or AIFF, a path or the file's bytes; mix to mono and resample.

    Raises:
        AudioError: names the file; `problem` says what is wrong with it.
    """
    name = "the audio" if isinstance(source, bytes) else str(source)
    try:
        plain = read_plain(source) if isinstance(source, bytes) else None
        if plain:
            samples, rate = plain
            floats, channels = np.multiply(samples, SCALE, dtype=np.float32), samples.shape[1]
            mono, note = _mix(floats), ""
            energies = _energies(floats, mono)
        else:
            with open_audio(source) as opened:
                file = require_one_recording(opened)
                check_mp3(file)
                file.seek(0)
                mono, rate, channels, energies, note = _decode(file, config)
        note = note or _lost(mono, channels, energies)
        prepared = _prepare(mono, rate, config)
        decoded = fingerprint(plain[0][:, 0] if plain and channels == 1 else mono, rate)
        return Audio(*prepared, rate, channels, len(mono) / rate, decoded, note)
    except AudioError as error:
        raise AudioError(error.problem, name) from None
    except soundfile.LibsndfileError as error:  # opened, then broke off
        raise AudioError(f"truncated or damaged ({_reason(error)})", name) from None
    except OSError as error:
        raise AudioError(os_problem(error), name) from None
    except InputError as error:  # a rate of zero
        raise AudioError(f"not audio ({str(error).partition(':')[0]})", name) from None


def promised(content: bytes) -> tuple[int, int, int]:
    """Frames, channels and rate (Hz) by the header of a file's bytes, without decoding; zeros for what is no audio."""
    try:
        if plain := read_plain(content):
            return len(plain[0]), plain[0].shape[1], plain[1]
        with open_audio(content) as file, soundfile.SoundFile(require_one_recording(file)) as sound:
            return sound.frames, sound.channels, sound.samplerate
    except (OSError, ValueError, soundfile.LibsndfileError):
        return 0, 0, 0


def prepare(waveform: np.ndarray, rate: float, config: FeatureConfig) -> np.ndarray:
    """Mix a waveform in memory to mono and resample it (soxr, HQ) to `config.sample_rate`.

    Args:
        waveform: (samples,) or (samples, channels), floats with full scale at 1.
        rate: Hz.

    Returns:
        float32 (samples,).

    Raises:
        AudioError: wrong shape or type, too short or long, silent, or not finite.
        InputError: the rate isn't a positive number.

    >>> prepare(np.sin(np.arange(48_000) / 9), 48_000, FeatureConfig()).shape
    (16000,)
    """
    return _prepare(waveform, rate, config)[0]


def _prepare(waveform: np.ndarray, rate: float, config: FeatureConfig) -> tuple[np.ndarray, float]:
    """`prepare`, and the peak of what it returns."""
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"The sampling rate must be a positive number of Hz, found {rate}: give the waveform's own.")
    if rate > MAX_RATE:
        raise AudioError(f"its sampling rate is {rate:,} Hz, more than {MAX_RATE:,}")
    waveform = np.asarray(waveform)
    if waveform.dtype.kind != "f":
        raise AudioError(f"holds {waveform.dtype} numbers: give floats from -1 to 1")
    if waveform.size == 0:
        raise AudioError("no samples")
    if waveform.ndim not in (1, 2) or (waveform.ndim == 2 and waveform.shape[0] < waveform.shape[1]):
        raise AudioError(f"its shape is {waveform.shape}: give (samples,) or (samples, channels)")
    if len(waveform) > config.max_seconds * rate:
        raise AudioError(f"longer than {config.max_seconds:g} s")
    mono = (waveform if waveform.ndim == 1 else _mix(waveform)).astype(np.float32, copy=False)
    if waveform.ndim == 2:
        _lost(mono, waveform.shape[1], _energies(waveform, mono))
    peak = _peak(mono)
    resampled = mono if rate == config.sample_rate else soxr.resample(mono, rate, config.sample_rate, quality="HQ")
    if len(resampled) < config.min_samples:
        raise AudioError(f"shorter than {config.min_samples / config.sample_rate:.3f} s")
    return resampled, peak if resampled is mono else _peak(resampled)


def _decode(file: io.FileIO | io.BytesIO, config: FeatureConfig) -> tuple[np.ndarray, int, int, np.ndarray, str]:
    """(mono float32 (samples,), rate in Hz, channels, `_energies`, note), decoded in blocks of bounded size."""
    try:  # a descriptor lets libsndfile read without the interpreter's lock
        sound = soundfile.SoundFile(file if isinstance(file, io.BytesIO) else file.fileno(), closefd=False)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"not audio ({_reason(error)})") from None
    with sound:
        promised, rate, channels = sound.frames, sound.samplerate, sound.channels
        if promised > config.max_seconds * rate:
            longer = f"longer than {config.max_seconds:g} s"
            raise AudioError(UNKNOWN_LENGTH if promised >= 2**62 else longer)
        blocks, energies = [], np.zeros(3)
        wanted = max(1, min(BLOCK // channels, promised + 1))
        while len(block := sound.read(wanted, dtype="float32", always_2d=True)):
            blocks.append(_mix(block))
            energies += _energies(block, blocks[-1])
            if len(block) < wanted:
                break
        note = _require_all_decoded(file, sound, sum(map(len, blocks)))
        if not blocks:
            raise AudioError("no samples")
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), rate, channels, energies, note


def _require_all_decoded(file: io.FileIO | io.BytesIO, sound: soundfile.SoundFile, decoded: int) -> str:
    """Refuse a file of which libsndfile has not decoded all; a note where next to nothing is missing."""
    missing = (sound.frames - decoded) / sound.samplerate
    if sound.format == "MP3":
        check_mp3_length(file, sound.frames, decoded, int(LOST * sound.samplerate))
    elif sound.subtype.startswith("MPEG") and missing < LOST:
        check_mp3_in_wav(file, decoded, int(LOST * sound.samplerate))
        return f"its last {missing:.3f} s could not be decoded" if missing > 0 else ""
    elif missing > 0:
        raise AudioError("truncated")
    elif sound.format == "FLAC":
        check_flac(file)
    return ""


def _mix(samples: np.ndarray) -> np.ndarray:
    """(samples, channels) -> (samples,): the mean over channels."""
    channels = samples.shape[1]
    return samples[:, 0] if channels == 1 else samples @ np.full(channels, 1 / channels, samples.dtype)


def _energies(samples: np.ndarray, mono: np.ndarray) -> np.ndarray:
    """(samples, channels), `mono` (samples,) -> (3,): sums of squares, zeros of one channel, which isn't mixed.

    Of the samples, the mean over channels; the same without each channel's mean (its DC offset); of `mono` without its.
    """
    channels = samples.shape[1]
    if channels == 1:
        return np.zeros(3)
    with np.errstate(over="ignore", invalid="ignore"):
        energy, left = _squares(samples), _about_mean(mono[:, None], _squares(mono))
        return np.array([energy / channels, _about_mean(samples, energy) / channels, left])


def _about_mean(samples: np.ndarray, energy: float) -> float:
    """(samples, channels), their `_squares` -> the sum of the squares without each channel's mean."""
    count = len(samples)
    means = (np.ones(count, samples.dtype) @ samples).astype(np.float64) / count
    offset = count * float(means @ means)
    if offset < energy / 2:
        return energy - offset
    return _squares(samples - samples.mean(axis=0, dtype=np.float64).astype(samples.dtype))  # with all digits


def _squares(samples: np.ndarray) -> float:
    """The sum of the squares."""
    flat = samples.reshape(-1)
    energy = float(np.dot(flat, flat))
    return energy if energy >= 1e-20 else float(np.square(flat, dtype=np.float64).sum())  # too faint for float32


def _lost(mono: np.ndarray, channels: int, energies: np.ndarray) -> str:
    """A note where mixing to `mono` (samples,) has lost much of the `_energies`: its channels cancel each other.

    Raises:
        AudioError: nothing is left, or no more than a constant.
    """
    energy, before, left = energies.tolist()
    if channels == 1 or not 0.0 < energy < math.inf:
        return ""
    if not mono.any() or left == 0.0 < before:
        raise AudioError(f"its {channels} channels cancel each other: mixed to one, nothing is left")
    lost = 10.0 * math.log10(before / left) if before and left else 0.0
    return f"mixing its {channels} channels to one lost {lost:.0f} dB" if lost > CANCELLED else ""


def fingerprint(mono: np.ndarray, rate: int) -> int:
    """64 bits that are equal for equal samples, 1 or more: of a recording, whatever file it lies in.

    Samples that are whole numbers of 16 bits count as such, whether they come as int16 or as floats. It is the CRC-32
    of the first half and of the second, each with length and rate. Two recordings of which both halves differ agree by
    a chance of 2^-64, and of which one half differs of 2^-32; never if that half differs in 32 bits in a row or less.
    Who wants two recordings to agree can make such.

    Args:
        mono: (samples,), int16 or float32 with full scale at 1; finite.
        rate: Hz.
    """
    samples = mono if mono.dtype == np.int16 else _as_int16(mono)
    start = zlib.crc32(struct.pack("<QI?", len(samples), rate, samples.dtype == np.int16))
    content, half = np.ascontiguousarray(samples).data, len(samples) // 2
    return zlib.crc32(content[:half], start) << 32 | zlib.crc32(content[half:], start) or 1


def _as_int16(mono: np.ndarray) -> np.ndarray:
    """float32 samples as int16 where all are such numbers, else as they are."""
    for part in (mono[:256], mono):  # of what comes from MP3, few samples tell
        scaled = part * np.float32(2**15)
        with np.errstate(invalid="ignore"):
            numbers = scaled.astype(np.int16)
        if not np.array_equal(numbers, scaled):
            return mono
    return numbers


def _peak(waveform: np.ndarray) -> float:
    """The largest magnitude of the samples, which must be finite and not silent."""
    peak = float(np.maximum(waveform.max(), -waveform.min()))
    if not math.isfinite(peak):
        raise AudioError("holds NaN or infinity")
    if peak == 0.0:
        raise AudioError("silent: all samples are zero")
    if peak > LOUDEST:
        raise AudioError(f"samples up to {peak:.6g}, where full scale is 1")
    return peak


def _reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).removeprefix("Error : ").rstrip(".")
