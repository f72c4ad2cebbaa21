"""Copies of training clips on worse signals: which are heard when, where they lie, and that training takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exvo.batches.clips import Clips
from exvo.batches.epoch import training_batches
from exvo.features.signals import SIGNALS, Worse, copies

from helpers.commands import newest, run_here, weights
from helpers.corpora import write_table_corpus
from helpers.features import count_decoding

FRAMES = 40


def made(count: int, versions: int) -> Clips:
    """Clips whose log-mels hold 0, those of their versions 1, 2, ..."""

    def all_of(value: float) -> dict[str, np.ndarray]:
        return {f"c{clip}": np.full((FRAMES, 3), value, np.float32) for clip in range(count)}

    names = [f"c{clip}" for clip in range(count)]
    others = [all_of(version) for version in range(1, versions + 1)]
    return Clips(names, names, all_of(0), np.zeros((count, 2), np.float32), versions=others)


def heard(clips: Clips, epoch: int, seed: int = 0) -> dict[int, int]:
    """Which version of each clip the batches of an epoch hold."""
    of_epoch = clips.of_epoch(seed, epoch)
    found = {}
    for batch in training_batches(of_epoch, 8, seed, epoch, frames=FRAMES):
        for clip, log_mel in zip(batch.index.tolist(), batch.log_mel, strict=True):
            assert len(log_mel.unique()) == 1
            found[clip] = int(log_mel[0, 0])
    return found


def test_each_epoch_hears_each_clip_once_as_it_is_or_as_one_of_its_versions() -> None:
    clips = made(600, 2)
    first, again, second = heard(clips, 1), heard(clips, 1), heard(clips, 2)
    assert sorted(first) == list(range(600))
    assert first == again
    assert 0.55 < np.mean([first[clip] != second[clip] for clip in first]) < 0.78  # two thirds
    assert heard(clips, 1, seed=1) != first
    counts = np.bincount(list(first.values()))
    assert len(counts) == 3
    assert counts.min() > 150  # 200 each


def test_without_versions_all_is_as_it_was() -> None:
    clips = made(10, 0)
    assert clips.of_epoch(0, 1) is clips


def test_a_copy_is_one_of_the_signals_and_another_for_other_clips() -> None:
    voices = [np.random.default_rng(seed).normal(0, 0.1, 3_000).astype(np.float32) for seed in range(3)]
    one, two = (Worse(signal, voices) for signal in copies(2))
    clips = [np.random.default_rng(100 + seed).normal(0, 0.1, 8_000).astype(np.float32) for seed in range(200)]
    changes = [np.round(one(clip) - clip, 6).tobytes() for clip in clips]
    assert len(set(changes)) == len(clips)
    assert all(not np.array_equal(one(clip), two(clip)) for clip in clips[:5])
    peaks = [np.abs(one(clip)).max() / np.abs(clip).max() for clip in clips]
    assert min(peaks) == pytest.approx(10 ** (-12 / 20), abs=1e-3)  # some are clipped
    assert max(peaks) > 1.3  # some have noise beside them
    assert len(SIGNALS) == 11


@pytest.mark.usefixtures("store")
def test_training_takes_them_and_computes_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table_corpus(tmp_path / "corpus", speakers=6)
    options = {"corpus": "table", "data": str(tmp_path / "corpus"), "epochs": "2", "width": "0.05", "model": "cnn10"}
    assert run_here("train", options, monkeypatch) == 0
    plain = weights(newest())
    decoded = count_decoding(monkeypatch)
    assert run_here("train", options | {"augment": "2", "workers": "1"}, monkeypatch) == 0
    assert "copy 2 of 2 of the training clips, on worse signals" in capsys.readouterr().out
    changed = weights(newest())
    assert any(not np.array_equal(plain[name], changed[name]) for name in plain)
    assert len(list(Path("output/features").iterdir())) == 3
    first = len(decoded)
    assert run_here("train", options | {"augment": "2", "workers": "1", "resume": "false"}, monkeypatch) == 0
    again = weights(newest())
    assert all(np.array_equal(changed[name], again[name]) for name in changed)
    assert len(decoded) == first > 0  # all features are in the store
    assert newest().data.params["augment"] == "2"
