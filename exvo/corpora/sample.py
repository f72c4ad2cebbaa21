"""A synthetic corpus of vocal bursts, so that everything runs without a licence or a download.

No human voice, rating or person is in it. The model below makes all of it from one seed; what a system scores on it
says nothing about people. It resembles HUME-VB in form: ten emotion intensities, age, country, speakers that
are in one split each.

Labels. Each clip has a dominant emotion (0.45-1). In 60% of clips there is a second one (0.25-0.7), which is more often
one that sounds like the first. The other emotions are small; those that sound like one of the two are larger, as they
are in mean ratings.

Cues. `EXPRESSION` says how each emotion moves nine cues (pitch, sweep, loudness, rate, roughness, breath,
brightness, opening, fronting) from neutral. It follows the literature on vocal expression loosely (Juslin & Laukka,
Psychological Bulletin 129, 2003); the sizes are made up. A clip's cues are

    gain of the speaker * (intensities @ EXPRESSION - its mean) + style of the speaker + a little noise

Speakers differ in gain and, strongly, in style: one person's sad cry is as loud and high as another's amused laugh.
So a clip alone is ambiguous; two other clips of the speaker, without labels, tell where the speaker's neutral is.
Age lowers pitch and adds roughness and breath. Each country has a small arbitrary offset of style and of the
recording channel, drawn from the seed, that says nothing about the country's people.

Voice. Source and filter: glottal pulses with jitter, shimmer and subharmonics along a pitch contour, a low-pass for
the spectral tilt (brightness), noise for breath, seven formants (moved by the length of the vocal tract, the opening of
the mouth and the fronting of the tongue), repeated envelope pulses as in laughs and sobs (rate), a level, and the
recording's channel: gain, tilt and noise floor.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from exvo.config import EMOTIONS
from exvo.corpora import table
from exvo.corpora.base import Corpus
from exvo.corpora.selection import EVERYTHING, Selection
from exvo.errors import InputError
from exvo.progress import followed
from exvo.text import listing

RATE = 16_000  # Hz, of the files; part of the corpus, whatever the sampling rate of the features
SEED = 0
SPEAKERS = {"train": 32, "val": 14, "test": 14}
CLIPS = 10  # a speaker
COUNTRIES = ("China", "South Africa", "United States", "Venezuela")
CUES = ("pitch", "sweep", "loudness", "rate", "roughness", "breath", "brightness", "opening", "fronting")

EXPRESSION = np.array(
    [
        #  pitch sweep loud  rate rough breath bright open front
        [-0.4, -0.5, -0.4, -1.0, -0.6, +0.9, -0.7, +1.0, -0.9],  # Awe
        [+0.7, +0.7, +0.6, +0.5, -0.4, -0.4, +0.7, +0.2, +0.6],  # Excitement
        [+0.2, -0.4, +0.3, +1.3, -0.3, +0.5, +0.2, +0.3, -0.2],  # Amusement
        [-0.6, +0.1, -0.7, +0.3, +0.3, -0.5, -0.2, -1.0, +0.3],  # Awkwardness
        [+0.8, +0.1, -0.3, +0.6, +0.5, +0.8, +0.3, -0.6, +1.0],  # Fear
        [+0.9, -0.3, +0.9, -0.6, +1.0, -0.2, +0.6, +0.6, -0.1],  # Horror
        [+0.3, -0.7, +0.5, -0.1, +0.9, +0.2, -0.5, -0.5, -0.6],  # Distress
        [+0.1, +0.5, +1.0, -0.7, -0.3, -0.9, +0.5, +0.7, +0.3],  # Triumph
        [-0.7, -0.6, -0.8, -0.3, -0.1, +0.3, -1.0, -0.3, +0.2],  # Sadness
        [+0.7, +1.2, -0.1, -0.8, -0.7, +0.3, +0.1, +0.3, -0.8],  # Surprise
    ]
)
"""How a full intensity of each emotion moves each cue: (emotions, cues)."""
CENTRED = EXPRESSION - EXPRESSION.mean(axis=0)
_NORMS = np.linalg.norm(CENTRED, axis=1)
ALIKE = np.clip(CENTRED @ CENTRED.T / np.outer(_NORMS, _NORMS), 0.0, 1.0) * (1.0 - np.eye(len(EMOTIONS)))
"""How much two emotions sound alike, 0-1: the cosine of their cues, 0 on the diagonal: (emotions, emotions)."""

CLIPS_FILE = "clips.csv"
README_FILE = "README.txt"
SUMS_FILE = "SHA256SUMS"
README = f"""SYNTHETIC vocal bursts of the package exvo, version 1, seed {SEED}.

Made by a computer model (exvo/corpora/sample.py): no human voice, rating or person is in them. They are for trying
the software out; scores on them say nothing about people. {CLIPS_FILE} is in the layout of a `table` corpus.
"""
"""Raise the version with any change of the model: a folder written by another version is then refused."""


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker."""

    age: int  # years
    country: str
    pitch: float  # neutral fundamental frequency, Hz
    tract: float  # factor of the formants relative to a vocal tract of 17 cm
    gain: float  # how strongly emotions move the cues
    style: np.ndarray  # offset of each cue: (cues,)
    level: float  # microphone gain, dB
    channel: float  # coefficient of the channel's first-order tilt
    noise: float  # noise floor, dB re full scale


def draw_voices(generator: np.random.Generator) -> list[Voice]:
    """The speakers, in order; each with an age of 18-65 years and one of the countries."""
    country_style = generator.normal(0.0, 0.25, (len(COUNTRIES), len(CUES)))
    country_channel = generator.permutation(np.linspace(-0.6, 0.6, len(COUNTRIES)))
    older = np.array([-0.6, 0.0, -0.1, -0.2, 0.5, 0.5, -0.5, 0.0, 0.0])  # by cue, for 20 years
    voices = []
    for _ in range(sum(SPEAKERS.values())):
        age = int(generator.integers(18, 66))
        country = int(generator.integers(len(COUNTRIES)))
        octaves = generator.normal(0.0, 0.25)
        voices.append(
            Voice(
                age=age,
                country=COUNTRIES[country],
                pitch=170.0 * 2.0**octaves,
                tract=2.0 ** (-0.2 * octaves + generator.normal(0.0, 0.06)),
                gain=2.0 ** generator.normal(0.0, 0.25),
                style=generator.normal(0.0, 0.5, len(CUES)) + country_style[country] + older * (age - 40) / 20,
                level=generator.normal(0.0, 4.0),
                channel=country_channel[country] + generator.normal(0.0, 0.1),
                noise=generator.uniform(-75.0, -60.0),
            )
        )
    return voices


def draw_intensities(generator: np.random.Generator) -> np.ndarray:
    """The labels of a clip, (emotions,), each 0-1."""
    first = int(generator.integers(len(EMOTIONS)))
    weights = 0.1 + ALIKE[first]
    weights[first] = 0.0
    second = int(generator.choice(len(EMOTIONS), p=weights / weights.sum()))
    intensities = generator.beta(1.0, 12.0, len(EMOTIONS))
    strengths = {first: generator.uniform(0.45, 1.0)}
    if generator.random() < 0.6:
        strengths[second] = generator.uniform(0.25, 0.7)
    for emotion, strength in strengths.items():
        spill = strength * ALIKE[emotion] * generator.uniform(0.5, 0.8, len(EMOTIONS))
        intensities = np.maximum(intensities, spill)
    for emotion, strength in strengths.items():
        intensities[emotion] = max(strength, intensities[emotion])
    return intensities.round(4)


def draw_cues(intensities: np.ndarray, voice: Voice, generator: np.random.Generator) -> np.ndarray:
    """The cues of a clip, (cues,), in the units of `EXPRESSION`."""
    cues: np.ndarray = voice.gain * (intensities @ CENTRED) + voice.style + generator.normal(0.0, 0.05, len(CUES))
    return cues


def synthesise(cues: np.ndarray, voice: Voice, generator: np.random.Generator) -> np.ndarray:
    """The waveform of a clip, (samples,), of 0.5-1.3 s at 16 kHz, within -1 to 1."""
    from scipy import signal  # half a second, which only this needs

    pitch, sweep, loudness, rate, roughness, breath, brightness, opening, fronting = cues
    seconds = np.clip(0.9 * 2.0 ** (-0.15 * rate + generator.normal(0.0, 0.2)), 0.5, 1.3)
    time = np.arange(int(seconds * RATE)) / RATE
    progress = time / seconds
    pulses = np.clip(3.0 * 2.0 ** (0.7 * rate), 1.0, 10.0)  # a second
    phase = pulses * time % 1.0
    depth = 0.5 + 0.48 * np.tanh(1.2 * rate)  # sustained when slow, staccato when fast
    envelope = 1.0 - depth * np.cos(np.pi * phase**0.7) ** 2
    fade = np.minimum(1.0, progress / 0.08) * np.minimum(1.0, (1.0 - progress) / 0.25)
    contour = 0.5 * pitch + 0.7 * sweep * (progress - 0.5) - 0.15 * phase
    fundamental = np.clip(voice.pitch * 2.0**contour, 60.0, 900.0)
    voiced = _glottal_pulses(fundamental, 2.0**roughness, generator)
    voiced = signal.lfilter([1.0], [1.0, -np.exp(-2 * np.pi * 500.0 * 2.0 ** (1.2 * brightness) / RATE)], voiced)
    noise = signal.lfilter([1.0, -0.7], [1.0], generator.normal(size=len(time)))
    noise *= 10.0 ** ((-14.0 + 9.0 * breath) / 20.0)
    source = voiced / _rms(voiced) * envelope + noise * (0.3 + 0.7 * envelope)  # breath goes on between pulses
    wave: np.ndarray = signal.sosfilt(_formants(voice.tract, opening, fronting), source * fade)
    wave = signal.lfilter([1.0, -0.95], [1.0], wave)  # radiation at the lips
    wave = signal.lfilter([1.0, -voice.channel], [1.0], wave)
    wave *= 10.0 ** ((-32.0 + 7.0 * loudness + voice.level) / 20.0) / _rms(wave)
    wave += 10.0 ** (voice.noise / 20.0) * generator.normal(size=len(time))
    wave *= min(1.0, 0.95 / float(np.abs(wave).max()))
    return wave


def _glottal_pulses(fundamental: np.ndarray, roughness: float, generator: np.random.Generator) -> np.ndarray:
    """Impulses once a cycle of the fundamental (samples,) in Hz, with jitter, shimmer and a subharmonic: (samples,)."""
    cycles = np.cumsum(fundamental) / RATE
    count = int(cycles[-1])
    periods = np.arange(1, count) + np.clip(generator.normal(0.0, 0.01 * roughness**2, count - 1), -0.4, 0.4)
    position = np.interp(periods, cycles, np.arange(len(cycles)))
    height = 1.0 + np.clip(0.08 * roughness, 0.0, 0.4) * generator.normal(size=count - 1)
    height[::2] *= 1.0 - np.clip(0.1 * roughness, 0.0, 0.8)
    whole = position.astype(int)
    source = np.zeros(len(fundamental) + 1)
    np.add.at(source, whole, height * (1.0 - position + whole))
    np.add.at(source, whole + 1, height * (position - whole))
    pulses: np.ndarray = source[:-1] - source.mean()
    return pulses


def _formants(tract: float, opening: float, fronting: float) -> np.ndarray:
    """Seven resonances as second-order sections with unit gain at 0 Hz (Klatt, JASA 67, 1980): (7, 6)."""
    centre = (500.0 + 1000.0 * np.arange(7)) * tract  # Hz, of a uniform tube of 17 cm
    centre[:2] *= 2.0 ** np.array([0.5 * opening, 0.35 * fronting])
    radius = np.exp(-np.pi * (80.0 + 30.0 * np.arange(7)) / RATE)  # bandwidths in Hz
    a1, a2 = -2.0 * radius * np.cos(2.0 * np.pi * centre / RATE), radius**2
    ones = np.ones(7)
    sections: np.ndarray = np.stack([1.0 + a1 + a2, 0.0 * ones, 0.0 * ones, ones, a1, a2], axis=1)
    return sections


def _rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(wave**2)))


def read(folder: Path, selection: Selection = EVERYTHING) -> Corpus:
    """Reads the sample corpus, which is written first where `folder` is missing or empty. Nothing is overwritten.

    Raises:
        InputError: it can't be written, or the folder holds anything but the whole and unchanged sample.
    """
    target = folder.resolve()
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        try:
            _write(target)
        except OSError as error:
            raise InputError(f"{folder}: the sample can't be written there ({error}); give another folder.") from error
    _require_unchanged(folder)
    return dataclasses.replace(table.read(folder, selection), name="sample", synthetic=True)


def _write(folder: Path) -> None:
    """Writes all files beside the folder, then renames: the folder is there whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / folder.name
        (fresh / "wav").mkdir(parents=True)
        rows = _write_clips(fresh)
        pd.DataFrame(rows).to_csv(fresh / CLIPS_FILE, index=False, lineterminator="\n")
        (fresh / README_FILE).write_text(README, encoding="utf-8")
        files = sorted(path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file())
        sums = "".join(f"{_sha256(fresh / file)}  {file}\n" for file in files)
        (fresh / SUMS_FILE).write_text(sums, encoding="utf-8")
        try:
            fresh.rename(folder)
        except OSError:  # another process was first: `_require_unchanged` says whether what it wrote is the sample
            if not (folder / SUMS_FILE).is_file():
                raise


def _write_clips(folder: Path) -> list[dict[str, object]]:
    """Writes the audio of all clips and returns their rows for `clips.csv`."""
    generator = np.random.default_rng(SEED)
    splits = [split for split, count in SPEAKERS.items() for _ in range(count)]
    voices = draw_voices(generator)
    rows: list[dict[str, object]] = []
    for number, (split, voice) in enumerate(zip(followed(splits, "synthesising", "voice"), voices, strict=True), 1):
        for clip in range(1, CLIPS + 1):
            file = f"wav/s{number:02}-{clip:02}.wav"
            intensities = draw_intensities(generator)
            wave = synthesise(draw_cues(intensities, voice, generator), voice, generator)
            audio = io.BytesIO()  # so that Python writes the file: libsndfile's error doesn't say that the disk is full
            soundfile.write(audio, wave, RATE, subtype="PCM_16", format="WAV")
            (folder / file).write_bytes(audio.getvalue())
            row = {"file": file, "split": split, "speaker": f"s{number:02}", "age": voice.age, "country": voice.country}
            rows.append(row | dict(zip(EMOTIONS, intensities.tolist(), strict=True)))
    return rows


def _require_unchanged(folder: Path) -> None:
    """Refuses a folder that does not hold the sample as this version of exvo writes it.

    Raises:
        InputError: says what it holds.
    """
    sums = folder / SUMS_FILE
    if not sums.is_file():
        raise InputError(f"{folder} holds something else than the sample corpus; give a folder that is not there yet.")
    lines = [line.partition("  ") for line in sums.read_text(encoding="utf-8", errors="replace").splitlines()]
    expected = {file: digest for digest, _, file in lines}
    if expected.get(README_FILE) != hashlib.sha256(README.encode()).hexdigest():
        raise InputError(f"{folder} holds the sample of another version of exvo; remove it, it is then written again.")
    changed = [file for file, digest in expected.items() if _sha256(folder / file) != digest]
    if len(expected) != sum(SPEAKERS.values()) * CLIPS + 2:  # the clips, their table and the README
        changed.append(SUMS_FILE)
    if changed:
        raise InputError(
            f"{folder} holds a sample corpus with files changed or missing: {listing(changed)}; "
            "remove the folder, it is then written again."
        )


def _sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal; empty where there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
