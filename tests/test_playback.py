"""Clips to hear in a report: small MP3 files of what networks hear, and none of a corpus that forbids it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from exvo.config import FeatureConfig
from exvo.experiments.evaluate import sounds
from exvo.features.audio import read_audio
from exvo.features.containers import AudioError
from exvo.features.playback import playable

from helpers.reports import FEWSHOT, table


def write(path: Path, seconds: float, rate: int = 44_100) -> np.ndarray:
    """A tone that rises, in two channels."""
    time = np.arange(round(seconds * rate)) / rate
    tone = 0.4 * np.sin(2 * np.pi * (300 + 100 * time) * time)
    soundfile.write(path, np.stack([tone, tone], axis=1), rate)
    return tone


@pytest.mark.parametrize("seconds", [0.4, 3.0, 12.0])
def test_it_is_what_was_heard_and_at_most_ten_seconds(seconds: float, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", seconds)
    content = playable(tmp_path, "a.wav")
    heard = read_audio(tmp_path / "a.wav", FeatureConfig()).waveform[:160_000]
    played = read_audio(content, FeatureConfig())
    assert (played.rate, played.channels) == (16_000, 1)
    assert abs(played.seconds - min(seconds, 10)) < 0.15
    assert 1_000 < len(content) <= 41_000
    length = min(len(heard), len(played.waveform))
    pieces = [np.abs(np.fft.rfft(signal[:length])) for signal in (heard, played.waveform)]
    assert np.corrcoef(*pieces)[0, 1] > 0.95


def test_a_file_that_is_no_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError):
        playable(tmp_path, "a.wav")


def test_a_corpus_whose_licence_forbids_it_gives_none(tmp_path: Path) -> None:
    predictions = table(12)
    for file in predictions["file"][:11]:  # the last has gone
        write(tmp_path / file, 0.3)
    corpus = SimpleNamespace(name="emogator", folder=tmp_path)
    ready: Any = SimpleNamespace(corpus=corpus)
    found = sounds(predictions, FEWSHOT, ready)
    assert set(found) <= set(predictions["file"][:11])
    assert len(found) >= 7
    for name in ("hume-vb", "table"):
        corpus.name = name
        assert sounds(predictions, FEWSHOT, ready) == {}
