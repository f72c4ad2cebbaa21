"""Worse signals: what noise, other voices, narrow bands, coding, clipping and a room make of a clip.

A changed clip is as long as the clip, and the same whenever it is made: what is random in it depends on the clip alone.
It works in NumPy, SciPy, soxr and libsndfile, since extraction computes in forked processes, where PyTorch may hang.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import soxr
from scipy import signal

from exvo.config import FeatureConfig
from exvo.features.containers import AudioError
from exvo.features.extractors import ClipExtractor, Encoder, Extractor
from exvo.features.shards import Features

RATE = FeatureConfig.sample_rate
VOICES = 5
"""Clips of other people that speak at once in babble."""

TELEPHONE = (300.0, 3400.0)
"""Hz."""

OPUS_LEVEL = 0.96
"""libsndfile's compression level for 16 kbit/s: it divides 6 to 256 kbit/s evenly, from 1 to 0."""

HEADROOM = 12.0
"""dB by which the loudest sample of a clip exceeds what clipping leaves."""

REVERBERATION = 0.5
"""Seconds in which the room's sound falls by 60 dB."""

Change = Callable[[np.ndarray, np.random.Generator, Sequence[np.ndarray]], np.ndarray]
"""Clip (samples,), what is random, clips of other people -> clip (samples,)."""


@dataclass(frozen=True)
class Signal:
    """A way in which a signal is worse.

    Attributes:
        name: in tables.
        change: makes a clip worse.
        voices: whether it takes clips of other people.
    """

    name: str
    change: Change
    voices: bool = False


def _level(clip: np.ndarray) -> float:
    """The root mean square."""
    return float(np.sqrt(np.mean(np.square(clip, dtype=np.float64))))


def _beside(clip: np.ndarray, other: np.ndarray, decibels: float) -> np.ndarray:
    """A clip with another sound, which is so many dB below it on average."""
    level = _level(other)
    return clip + other * (_level(clip) / level * 10 ** (-decibels / 20) if level else 0.0)


def _noise(clip: np.ndarray, random: np.random.Generator, _: Sequence[np.ndarray], decibels: float) -> np.ndarray:
    return _beside(clip, random.standard_normal(len(clip)), decibels)


def _babble(clip: np.ndarray, random: np.random.Generator, voices: Sequence[np.ndarray], decibels: float) -> np.ndarray:
    """Voices of the same level, each repeated from a random moment on."""
    together = np.zeros(len(clip))
    for place in random.choice(len(voices), min(VOICES, len(voices)), replace=False):
        voice = voices[place]
        moment = int(random.integers(len(voice)))
        together += np.resize(np.roll(voice, -moment), len(clip)) / (_level(voice) or 1.0)
    return _beside(clip, together, decibels)


def _telephone(clip: np.ndarray, *_: object) -> np.ndarray:
    filtered: np.ndarray = signal.sosfilt(signal.butter(4, TELEPHONE, "bandpass", fs=RATE, output="sos"), clip)
    return filtered


def _at_8_khz(clip: np.ndarray, *_: object) -> np.ndarray:
    return _as_long(soxr.resample(soxr.resample(clip, RATE, 8_000), 8_000, RATE), clip)


def _opus(clip: np.ndarray, *_: object) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(file, clip, RATE, format="OGG", subtype="OPUS", compression_level=OPUS_LEVEL)
    file.seek(0)
    decoded: np.ndarray = soundfile.read(file, dtype="float32")[0]
    return _as_long(decoded, clip)


def _clipped(clip: np.ndarray, *_: object) -> np.ndarray:
    limit = np.abs(clip).max() * 10 ** (-HEADROOM / 20)
    cut: np.ndarray = np.clip(clip, -limit, limit)
    return cut


def _room(clip: np.ndarray, random: np.random.Generator, *_: object) -> np.ndarray:
    """Direct sound, and noise of the same energy that decays exponentially, as a room's late echoes do."""
    times = np.arange(int(REVERBERATION * RATE)) / RATE
    echoes = random.standard_normal(len(times)) * 10 ** (-3 * times / REVERBERATION)
    echoes /= np.sqrt(np.square(echoes).sum())
    echoes[0] += 1.0
    heard: np.ndarray = signal.fftconvolve(clip, echoes)[: len(clip)] / np.sqrt(2)
    return heard


def _as_long(changed: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """Cut, or continued by silence, to the length of the clip."""
    return np.pad(changed[: len(clip)], (0, max(0, len(clip) - len(changed))))


SIGNALS = (
    *(Signal(f"noise {decibels} dB", partial(_noise, decibels=decibels)) for decibels in (20, 10, 0)),
    *(Signal(f"babble {decibels} dB", partial(_babble, decibels=decibels), voices=True) for decibels in (20, 10, 0)),
    Signal("telephone band", _telephone),
    Signal("8 kHz", _at_8_khz),
    Signal("Opus 16 kbit/s", _opus),
    Signal("clipping", _clipped),
    Signal("room", _room),
)
"""White noise and babble so many dB below the clip; `TELEPHONE`; resampled to 8 kHz and back; coded; cut off `HEADROOM`
below the loudest sample; in a room of `REVERBERATION`."""


def _any(clip: np.ndarray, random: np.random.Generator, voices: Sequence[np.ndarray]) -> np.ndarray:
    return SIGNALS[random.integers(len(SIGNALS))].change(clip, random, voices)


def copies(number: int) -> list[Signal]:
    """So many signals that are each one of `SIGNALS`, drawn for each clip: the copies of `augment`."""
    return [Signal(f"copy {place}", _any, voices=True) for place in range(1, number + 1)]


@dataclass(frozen=True, eq=False)
class Worse:
    """Makes clips worse.

    Attributes:
        signal: how.
        voices: clips of other people, float32 (samples,) each; for babble at least one.
    """

    signal: Signal
    voices: Sequence[np.ndarray] = ()

    def __call__(self, clip: np.ndarray) -> np.ndarray:
        """A clip, float32 (samples,) at 16 kHz, as this signal has it: float32 (samples,)."""
        random = np.random.default_rng([zlib.crc32(self.signal.name.encode()), zlib.crc32(clip.tobytes())])
        return self.signal.change(clip, random, self.voices).astype(np.float32)

    def features(self, features: Features) -> Features:
        """What features of clean clips are of these, under a key of their own."""
        voices = hashlib.sha256(b"".join(voice.tobytes() for voice in self.voices)).hexdigest()
        settings = features.settings | {"signal": self.signal.name, "voices": voices if self.signal.voices else ""}
        key = hashlib.sha256(json.dumps([features.key, settings], sort_keys=True).encode()).hexdigest()[:12]
        return replace(features, key=key, settings=settings)


class WorseClips:
    """A `ClipExtractor` of clips that are made worse before."""

    def __init__(self, extractor: ClipExtractor, worse: Worse) -> None:
        self.config, self.features = extractor.config, worse.features(extractor.features)
        self._extractor, self._worse = extractor, worse

    @property
    def most(self) -> int:
        """See `ClipExtractor`."""
        return self._extractor.most

    def shape(self, samples: int) -> tuple[int, int]:
        """See `ClipExtractor`."""
        return self._extractor.shape(samples)

    def __call__(self, waveform: np.ndarray, values: np.ndarray) -> None:
        """See `ClipExtractor`."""
        self._extractor(self._worse(waveform), values)


class WorseStates:
    """An `Encoder` of clips that are made worse before."""

    def __init__(self, encoder: Encoder, worse: Worse) -> None:
        self.features = worse.features(encoder.features)
        self._encoder, self._worse = encoder, worse

    def states(self, waveforms: Sequence[np.ndarray]) -> Sequence[np.ndarray | AudioError]:
        """See `Encoder`."""
        return self._encoder.states([self._worse(waveform) for waveform in waveforms])

    def save(self, folder: Path) -> None:
        """See `Encoder`."""
        self._encoder.save(folder)


def worsen(extractor: Extractor, worse: Worse) -> Extractor:
    """What computes the same features of worse clips."""
    return WorseStates(extractor, worse) if isinstance(extractor, Encoder) else WorseClips(extractor, worse)
