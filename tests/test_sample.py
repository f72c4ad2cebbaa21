"""The synthetic corpus: determinism, writing, and the speaker effect that it is made for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import Ridge

from exvo.config import EMOTIONS
from exvo.corpora import load, sample
from exvo.corpora.base import Corpus
from exvo.errors import InputError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return load("sample", tmp_path_factory.mktemp("corpora") / "sample")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of three speakers with two clips each, for what does not depend on its size."""
    monkeypatch.setattr(sample, "SPEAKERS", {"train": 1, "val": 1, "test": 1})
    monkeypatch.setattr(sample, "CLIPS", 2)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_layout(corpus: Corpus) -> None:
    assert (corpus.name, corpus.synthetic, corpus.targets) == ("sample", True, EMOTIONS)
    clips = corpus.clips
    assert list(clips) == ["file", "split", "speaker", "country", "age", *EMOTIONS]
    assert clips.groupby("split")["speaker"].nunique().to_dict() == {"train": 32, "val": 14, "test": 14}
    assert (clips["speaker"].value_counts() == 10).all()
    assert (clips.groupby("speaker")[["split", "age", "country"]].nunique() == 1).all(axis=None)
    assert set(clips["country"]) == {"China", "South Africa", "United States", "Venezuela"}
    assert clips["age"].between(18, 65).all()
    assert "SYNTHETIC" in (corpus.folder / "README.txt").read_text()


def test_audio(corpus: Corpus) -> None:
    for file in corpus.clips["file"]:
        info = soundfile.info(corpus.folder / file)
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16000, 1, "WAV", "PCM_16")
        assert 0.5 <= info.duration <= 1.3
        wave, _ = soundfile.read(corpus.folder / file)
        assert 0.003 < np.abs(wave).max() < 0.96


def test_labels_look_like_mean_ratings(corpus: Corpus) -> None:
    labels = corpus.clips[list(EMOTIONS)].to_numpy()
    assert labels.min() >= 0.0
    assert labels.max() <= 1.0
    assert labels.max(axis=1).min() >= 0.45
    dominant = (labels > 0.4).sum(axis=1)
    assert ((dominant == 1) | (dominant == 2)).mean() > 0.95
    assert (labels.std(axis=0) > 0.15).all()


def test_written_once_and_the_same_bytes_each_time(tmp_path: Path, small: None) -> None:
    load("sample", tmp_path / "one")
    (tmp_path / "two").mkdir()
    load("sample", tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 6 + 3
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}
    load("sample", tmp_path / "one")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_another_seed_gives_other_audio(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    load("sample", tmp_path / "one")
    monkeypatch.setattr(sample, "SEED", 1)
    load("sample", tmp_path / "two")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert all(one[file] != two[file] for file in one if file.endswith(".wav"))


def test_whatever_is_not_the_whole_sample_is_refused_and_left_alone(tmp_path: Path, small: None) -> None:
    def refused(*parts: str) -> None:
        before = contents(tmp_path)
        with pytest.raises(InputError) as caught:
            load("sample", folder)
        assert all(part in str(caught.value) for part in (str(folder), *parts))
        assert contents(tmp_path) == before

    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    refused("something else")
    shutil.rmtree(folder)
    load("sample", folder)
    (folder / "wav" / "s01-01.wav").unlink()
    with (folder / "clips.csv").open("a") as stream:
        stream.write("\n")
    refused("changed or missing", "wav/s01-01.wav", "clips.csv")
    shutil.rmtree(folder)
    load("sample", folder)
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    (folder / "SHA256SUMS").write_text("\n".join(line for line in sums if "s02-01" not in line))
    refused("SHA256SUMS")
    (folder / "SHA256SUMS").write_text("something of the user's")
    refused("another version")
    folder = tmp_path / "mine" / "clips.csv"
    refused("something else")


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full(*args: object, **options: object) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sample.soundfile, "write", full)
        with pytest.raises(InputError, match="no space left"):
            load("sample", tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []
    assert len(load("sample", tmp_path / "sample").clips) == 6


def test_another_process_may_be_first(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    load("sample", tmp_path / "other")
    write_clips = sample._write_clips

    def slower(folder: Path) -> list[dict[str, object]]:
        rows = write_clips(folder)
        shutil.copytree(tmp_path / "other", tmp_path / "sample")
        return rows

    monkeypatch.setattr(sample, "_write_clips", slower)
    assert len(load("sample", tmp_path / "sample").clips) == 6
    assert contents(tmp_path / "sample") == contents(tmp_path / "other")


def test_cues_do_what_they_say() -> None:
    """Each by a plain measure of the waveform: autocorrelation pitch, level, centroid, dips, band shares."""
    voice = sample.Voice(40, "China", 160.0, 1.0, 1.0, np.zeros(9), 0.0, 0.0, -90.0)

    def wave(**cues: float) -> np.ndarray:
        vector = np.array([cues.get(name, 0.0) for name in sample.CUES])
        return np.concatenate([sample.synthesise(vector, voice, np.random.default_rng(seed)) for seed in range(5)])

    def pitch(signal: np.ndarray) -> float:
        found = []
        for start in range(0, len(signal) - 1024, 512):
            frame = signal[start : start + 1024]
            correlation = np.correlate(frame, frame, "full")[1023:]
            found.append(16000 / (30 + correlation[30:250].argmax()))
        return float(np.median(found))

    def centroid(signal: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(signal)) ** 2
        return float((power * np.fft.rfftfreq(len(signal), 1 / 16000)).sum() / power.sum())

    def decibels(signal: np.ndarray) -> float:
        return float(10 * np.log10(np.mean(signal**2)))

    def dips(signal: np.ndarray) -> float:
        level = np.sqrt(np.convolve(signal**2, np.ones(400) / 400, "same"))
        return float(np.percentile(level, 20) / np.percentile(level, 80))

    def share(signal: np.ndarray, low: float, high: float) -> float:
        power = np.abs(np.fft.rfft(signal)) ** 2
        hertz = np.fft.rfftfreq(len(signal), 1 / 16000)
        return float(power[(hertz >= low) & (hertz < high)].sum() / power.sum())

    assert pitch(wave(pitch=1.0)) / pitch(wave()) == pytest.approx(2.0**0.5, rel=0.08)
    assert decibels(wave(loudness=1.0)) - decibels(wave()) == pytest.approx(7.0, abs=0.1)
    assert centroid(wave(brightness=1.0)) > 1.2 * centroid(wave(brightness=-1.0))
    assert dips(wave(rate=1.0)) < 0.7 * dips(wave(rate=-1.0))
    assert share(wave(breath=1.0), 4000, 8000) > 2 * share(wave(), 4000, 8000)
    assert share(wave(opening=1.0), 620, 850) > 2 * share(wave(), 620, 850)  # the first formant: 500 -> 707 Hz
    assert share(wave(fronting=1.0), 1750, 2050) > 2 * share(wave(), 1750, 2050)  # the second: 1500 -> 1912 Hz


def ccc(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Mean over columns of Lin's concordance, ddof 0."""
    covariance = ((truth - truth.mean(0)) * (prediction - prediction.mean(0))).mean(0)
    return float(
        np.mean(2 * covariance / (truth.var(0) + prediction.var(0) + (truth.mean(0) - prediction.mean(0)) ** 2))
    )


def test_two_other_clips_of_a_speaker_help(corpus: Corpus) -> None:
    """Ridge regression on spectral functionals: relative to the speaker is better than plain, another speaker's worse.

    Measured once with the 64-band log-mel of systems.md (alpha 100): plain 0.43, with enrolment 0.56, wrong 0.32.
    """
    clips = corpus.clips
    edges = np.unique(np.geomspace(2, 257, 33).astype(int))
    features = np.array([functionals(corpus.folder / file, edges) for file in clips["file"]])
    labels = clips[list(EMOTIONS)].to_numpy()
    train, val = (clips["split"] == "train").to_numpy(), (clips["split"] == "val").to_numpy()
    by_speaker = features.reshape(60, 10, -1)
    others = (np.roll(by_speaker, -1, axis=1) + np.roll(by_speaker, -2, axis=1)) / 2
    relative = features - others.reshape(600, -1)
    wrong = features - np.roll(others, -1, axis=0).reshape(600, -1)

    def score(fit: np.ndarray, use: np.ndarray) -> float:
        mean, deviation = fit[train].mean(0), fit[train].std(0)
        model = Ridge(alpha=100.0).fit((fit[train] - mean) / deviation, labels[train])
        return ccc(labels[val], model.predict((use[val] - mean) / deviation))

    plain = score(features, features)
    both = np.hstack([features, relative])
    enrolled = score(both, both)
    confused = score(both, np.hstack([features, wrong]))
    assert 0.35 < plain < 0.6
    assert enrolled > plain + 0.08
    assert confused < plain - 0.05


def functionals(path: Path, edges: np.ndarray) -> np.ndarray:
    """Mean, deviation and percentiles over time of log band powers: (7 * bands,)."""
    wave, _ = soundfile.read(path)
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::160] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2
    bands = 10 * np.log10(np.add.reduceat(power, edges[:-1], axis=1) / np.diff(edges) + 1e-10)
    return np.concatenate([bands.mean(0), bands.std(0), *np.percentile(bands, [5, 25, 50, 75, 95], axis=0)])
