"""Extraction by an encoder: many clips at a time in the main process, decoded in others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from exvo.config import FeatureConfig
from exvo.features import encoding
from exvo.features.audio import read_audio
from exvo.features.containers import AudioError
from exvo.features.extraction import extract
from exvo.features.shards import Features
from exvo.features.store import Store

from helpers.features import count_decoding, write_clips

FEATURES = Features.of_clips("states", "float16", (2, 3), {"of": "a test"})


class Loudness:
    """Gives each clip its mean square in every number."""

    features = FEATURES

    def __init__(self) -> None:
        self.batches: list[list[int]] = []  # samples of each clip
        self.fail_at = 0

    def states(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray | AudioError]:
        self.batches.append([len(waveform) for waveform in waveforms])
        if self.fail_at == len(self.batches):
            raise KeyboardInterrupt
        return [state(waveform) for waveform in waveforms]

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def state(waveform: np.ndarray) -> np.ndarray:
    return np.full((2, 3), np.square(waveform).mean(), np.float16)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("encoding")
    names = write_clips(folder, 50)
    (folder / "049.wav").write_bytes((folder / "003.wav").read_bytes())  # the same content again
    (folder / "048.wav").write_bytes(b"no audio")
    return folder, names


@pytest.mark.parametrize("workers", [1, 2])
def test_every_clip_is_encoded_once_in_bounded_batches(
    workers: int, clips: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "BATCH_SAMPLES", 40_000)
    encoder = Loudness()
    store, audio = extract(*clips, tmp_path, encoder, workers)
    assert audio["file"].tolist() == clips[1]
    assert audio["problem"].ne("").tolist() == [name == "048.wav" for name in clips[1]]
    assert sum(map(len, encoder.batches)) == len(store) == 48
    largest = max(map(sum, encoder.batches))
    assert 40_000 <= largest < 40_000 + 16 * 3_600  # a task comes in at a time
    for name, content in zip(clips[1], audio["content"], strict=True):
        if name != "048.wav":
            expected = state(read_audio(clips[0] / name, FeatureConfig()).waveform)
            np.testing.assert_array_equal(store[content], expected)
            assert store[content].dtype == np.float16
    again = Loudness()
    assert extract(*clips, tmp_path, again, workers)[1].equals(audio)
    assert again.batches == []


def test_facts_about_the_audio_are_those_of_the_log_mel(clips: tuple[Path, list[str]], tmp_path: Path) -> None:
    facts = ["file", "content", "seconds", "rate", "channels", "peak", "rms_db", "decoded", "note", "problem"]
    encoded, log_mels = (extract(*clips, tmp_path, each)[1] for each in (Loudness(), FeatureConfig()))
    assert encoded[facts].equals(log_mels[facts])


def test_an_interrupted_extraction_goes_on_from_the_last_shard(
    clips: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "BATCH_SAMPLES", 40_000)
    encoder = Loudness()
    encoder.fail_at = 2
    with pytest.raises(KeyboardInterrupt):
        extract(*clips, tmp_path, encoder, workers=1)
    kept = len(Store(tmp_path, FEATURES))
    assert kept == len(encoder.batches[0])
    decoded = count_decoding(monkeypatch)
    store, _ = extract(*clips, tmp_path, Loudness(), workers=1)
    assert len(store) == 48
    assert len(decoded) == 50 - kept - 1  # the copy of a clip that was kept is not decoded, the broken one is


def test_states_that_are_none_or_not_finite_are_problems_of_their_clips(
    clips: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hostile(Loudness):
        def states(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray | AudioError]:
            states = super().states(waveforms)
            states[0] = AudioError("longer than the 30.0 s that whisper takes")
            states[1] = np.full((2, 3), np.inf, np.float16)
            return states

    store, audio = extract(clips[0], clips[1][:5], tmp_path, Hostile(), workers=1)
    wrong = ["longer than the 30.0 s that whisper takes", "its states hold numbers that are not finite"]
    assert audio["problem"].tolist() == [*wrong, "", "", ""]
    assert len(store) == 3
    assert all(np.isfinite(store[content]).all() for content in store)
