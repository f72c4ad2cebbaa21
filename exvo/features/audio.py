"""Audio file -> mono waveform at the sampling rate of the features (16 kHz)."""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.conditions import is_clipped
from exvo.features.containers import (
    UNKNOWN_LENGTH,
    AudioError,
    open_audio,
    os_problem,
    read_plain,
    require_one_recording,
)
from exvo.features.streams import check_flac, check_mp3, check_mp3_in_wav, check_mp3_length

BLOCK = 2**20  # samples, over all channels, decoded at a time: a header may promise more than fits into memory
MAX_RATE = 1_000_000  # Hz; FLAC ends at 655,350, and soxr takes seconds to resample from billions
FULL_SCALE = np.float32(2.0**-15)  # of 16-bit samples: what they are multiplied by
MAX_UNDECODED = 0.1  # s at the end of an MP3 that libsndfile may leave undecoded
MAX_MIXING_LOSS = 12.0  # dB; if only one of N channels is not silent, mixing to mono loses 10 log10(N)
MAX_PEAK = 100.0  # full scale is 1; MP3 exceeds it a little, integers taken for floats by far


@dataclass(frozen=True, eq=False)
class Audio:
    """A decoded file: its waveform, ready for features, and what is known of the source, the file itself."""

    waveform: np.ndarray  # float32 (samples,) at `FeatureConfig.sample_rate`
    peak: float  # largest magnitude of the waveform; full scale is 1
    rate: int  # of the source, Hz
    channels: int  # of the source
    seconds: float  # of the source
    clipped: bool  # whether the source is, see `is_clipped`
    decoded: int  # `fingerprint` of the source's samples, mixed to mono but not resampled
    note: str  # what of the source is not in the waveform, though it can be used; '' as a rule


class AudioHeader(NamedTuple):
    """What the header of an audio file says of its length; zeros for what is no audio."""

    frames: int  # samples of each channel
    channels: int
    rate: int  # Hz


@dataclass(frozen=True)
class _Energies:
    """Sums of squares, from which the loss by mixing to mono is computed; zeros for one channel, which isn't mixed."""

    channels: float = 0.0  # of the samples: the mean over channels
    channels_ac: float = 0.0  # the same, each channel without its mean (its DC offset)
    mono_ac: float = 0.0  # of the mix without its mean

    def __add__(self, other: _Energies) -> _Energies:
        return _Energies(
            self.channels + other.channels, self.channels_ac + other.channels_ac, self.mono_ac + other.mono_ac
        )


class _Decoded(NamedTuple):
    """The samples of a file, mixed to mono but not resampled."""

    mono: np.ndarray  # float32 (samples,)
    rate: int  # Hz
    channels: int
    energies: _Energies
    note: str  # what of the file could not be decoded; '' as a rule


def read_audio(source: str | Path | bytes, config: FeatureConfig) -> Audio:
    """Decodes WAV, FLAC, Ogg Vorbis, Opus, MP3 or AIFF, mixes it to mono and resamples it.

    Args:
        source: a path, or the file's bytes.
        config: feature settings, of which the sampling rate and the limits of length are used.

    Raises:
        AudioError: names the file; `problem` says what is wrong with it.
    """
    name = "the audio" if isinstance(source, bytes) else str(source)
    try:
        plain = read_plain(source) if isinstance(source, bytes) else None
        if plain:
            source_samples, rate = plain
            floats, channels = np.multiply(source_samples, FULL_SCALE, dtype=np.float32), source_samples.shape[1]
            mono, note = _mix(floats), ""
            energies = _energies(floats, mono)
        else:
            with open_audio(source) as opened:
                file = require_one_recording(opened)
                check_mp3(file)
                file.seek(0)
                mono, rate, channels, energies, note = _decode(file, config)
        note = note or _mixing_loss(mono, channels, energies)
        waveform, peak = _prepare(mono, rate, config)
        decoded = fingerprint(plain[0][:, 0] if plain and channels == 1 else mono, rate)
        return Audio(waveform, peak, rate, channels, len(mono) / rate, is_clipped(mono), decoded, note)
    except AudioError as error:
        raise AudioError(error.problem, name) from None
    except soundfile.LibsndfileError as error:  # opened, then broke off
        raise AudioError(f"truncated or damaged ({_reason(error)})", name) from None
    except OSError as error:
        raise AudioError(os_problem(error), name) from None
    except InputError as error:  # a rate of zero
        raise AudioError(f"not audio ({str(error).partition(':')[0]})", name) from None


def audio_header(content: bytes) -> AudioHeader:
    """The header of a file's bytes, which are not decoded."""
    try:
        if plain := read_plain(content):
            return AudioHeader(len(plain[0]), plain[0].shape[1], plain[1])
        with open_audio(content) as file, soundfile.SoundFile(require_one_recording(file)) as sound:
            return AudioHeader(sound.frames, sound.channels, sound.samplerate)
    except (OSError, ValueError, soundfile.LibsndfileError):
        return AudioHeader(0, 0, 0)


def prepare(waveform: np.ndarray, rate: float, config: FeatureConfig) -> np.ndarray:
    """Mixes a waveform in memory to mono and resamples it (soxr, HQ) to `config.sample_rate`.

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
        _mixing_loss(mono, waveform.shape[1], _energies(waveform, mono))
    peak = _peak(mono)
    resampled = mono if rate == config.sample_rate else soxr.resample(mono, rate, config.sample_rate, quality="HQ")
    if len(resampled) < config.min_samples:
        raise AudioError(f"shorter than {config.min_samples / config.sample_rate:.3f} s")
    return resampled, peak if resampled is mono else _peak(resampled)


def _decode(file: io.FileIO | io.BytesIO, config: FeatureConfig) -> _Decoded:
    """Decodes a file in blocks of bounded size.

    Raises:
        AudioError: it is no audio, too long, or not decoded as a whole.
    """
    try:  # a descriptor lets libsndfile read without the interpreter's lock
        sound = soundfile.SoundFile(file if isinstance(file, io.BytesIO) else file.fileno(), closefd=False)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"not audio ({_reason(error)})") from None
    with sound:
        promised, rate, channels = sound.frames, sound.samplerate, sound.channels
        if promised > config.max_seconds * rate:
            longer = f"longer than {config.max_seconds:g} s"
            raise AudioError(UNKNOWN_LENGTH if promised >= 2**62 else longer)
        blocks, energies = [], _Energies()
        block_frames = max(1, min(BLOCK // channels, promised + 1))
        while len(block := sound.read(block_frames, dtype="float32", always_2d=True)):
            blocks.append(_mix(block))
            energies += _energies(block, blocks[-1])
            if len(block) < block_frames:
                break
        note = _require_all_decoded(file, sound, sum(map(len, blocks)))
        if not blocks:
            raise AudioError("no samples")
        mono = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return _Decoded(mono, rate, channels, energies, note)


def _require_all_decoded(file: io.FileIO | io.BytesIO, sound: soundfile.SoundFile, decoded: int) -> str:
    """Refuses a file of which libsndfile has not decoded all.

    Returns:
        A note where less than `MAX_UNDECODED` is missing; '' where nothing is.

    Raises:
        AudioError: it is cut short, or goes on after what was decoded.
    """
    missing = (sound.frames - decoded) / sound.samplerate
    if sound.format == "MP3":
        check_mp3_length(file, sound.frames, decoded, int(MAX_UNDECODED * sound.samplerate))
    elif sound.subtype.startswith("MPEG") and missing < MAX_UNDECODED:
        check_mp3_in_wav(file, decoded, int(MAX_UNDECODED * sound.samplerate))
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


def _energies(samples: np.ndarray, mono: np.ndarray) -> _Energies:
    """The energies of samples, (samples, channels), and of their mix, (samples,)."""
    channels = samples.shape[1]
    if channels == 1:
        return _Energies()
    with np.errstate(over="ignore", invalid="ignore"):
        energy, mono_ac = _squares(samples), _without_offset(mono[:, None], _squares(mono))
        return _Energies(energy / channels, _without_offset(samples, energy) / channels, mono_ac)


def _without_offset(samples: np.ndarray, energy: float) -> float:
    """The sum of the squares of samples, (samples, channels), each channel without its mean (its DC offset).

    Args:
        samples: (samples, channels).
        energy: the sum of their squares with the mean.
    """
    count = len(samples)
    means = (np.ones(count, samples.dtype) @ samples).astype(np.float64) / count
    offset = count * float(means @ means)
    if offset < energy / 2:
        return energy - offset
    return _squares(
        samples - samples.mean(axis=0, dtype=np.float64).astype(samples.dtype)
    )  # the difference would lose digits


def _squares(samples: np.ndarray) -> float:
    """The sum of the squares of samples of any shape."""
    flat = samples.reshape(-1)
    energy = float(np.dot(flat, flat))
    return (
        energy if energy >= 1e-20 else float(np.square(flat, dtype=np.float64).sum())
    )  # squares too small for float32


def _mixing_loss(mono: np.ndarray, channels: int, energies: _Energies) -> str:
    """A note where mixing to mono lost more than `MAX_MIXING_LOSS`, because the channels cancel each other; else ''.

    Args:
        mono: the mix, (samples,).
        channels: of which it is the mean.
        energies: before and after.

    Raises:
        AudioError: nothing is left, or no more than a constant.
    """
    before, after = energies.channels_ac, energies.mono_ac
    if channels == 1 or not 0.0 < energies.channels < math.inf:
        return ""
    if not mono.any() or after == 0.0 < before:
        raise AudioError(f"its {channels} channels cancel each other: mixed to one, nothing is left")
    lost = 10.0 * math.log10(before / after) if before and after else 0.0
    return f"mixing its {channels} channels to one lost {lost:.0f} dB" if lost > MAX_MIXING_LOSS else ""


def fingerprint(mono: np.ndarray, rate: int) -> int:
    """A number of 64 bits, never 0, that is equal for recordings of equal samples, whatever the format of their files.

    It consists of the CRC-32 of the first half and that of the second half, each with length and rate. Samples that
    are whole numbers of 16 bits give the same number as int16 and as floats. Two different recordings get the same
    number by chance with probability 2^-64 where both halves differ, and 2^-32 where one does; never where that half
    differs within 32 bits in a row. It is no protection against somebody who makes two such recordings on purpose.

    Args:
        mono: (samples,), int16 or float32 with full scale at 1; finite.
        rate: Hz.
    """
    samples = mono if mono.dtype == np.int16 else _as_int16(mono)
    start = zlib.crc32(struct.pack("<QI?", len(samples), rate, samples.dtype == np.int16))
    content, half = np.ascontiguousarray(samples).data, len(samples) // 2
    return zlib.crc32(content[:half], start) << 32 | zlib.crc32(content[half:], start) or 1


def _as_int16(mono: np.ndarray) -> np.ndarray:
    """float32 samples as int16 where all of them are whole numbers of 16 bits, else as they are."""
    for part in (mono[:256], mono):  # the first samples of a decoded MP3 are enough to tell that they are not
        scaled = part * np.float32(2**15)
        with np.errstate(invalid="ignore"):
            numbers = scaled.astype(np.int16)
        if not np.array_equal(numbers, scaled):
            return mono
    return numbers


def _peak(waveform: np.ndarray) -> float:
    """The largest magnitude of the samples.

    Raises:
        AudioError: they are not finite, silent, or far beyond full scale.
    """
    peak = float(np.maximum(waveform.max(), -waveform.min()))
    if not math.isfinite(peak):
        raise AudioError("holds NaN or infinity")
    if peak == 0.0:
        raise AudioError("silent: all samples are zero")
    if peak > MAX_PEAK:
        raise AudioError(f"samples up to {peak:.6g}, where full scale is 1")
    return peak


def _reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).removeprefix("Error : ").rstrip(".")
