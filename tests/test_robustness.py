"""Worse signals: what they do to a clip by independent measures, under which keys they lie, and the entry point."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from mlflow import MlflowClient

from exvo.config import FeatureConfig
from exvo.evaluation.robustness import CLEAN, robustness_table
from exvo.features.extractors import Encoder
from exvo.features.functionals import Functionals
from exvo.features.log_mel import LogMel
from exvo.features.shards import Features
from exvo.features.signals import SIGNALS, Signal, Worse, worsen
from exvo.reports.robustness import robustness_columns, robustness_verdict
from exvo.settings import ENTRY_POINTS
from exvo.tracking import artifacts

from helpers.cards import TASK, predictions
from helpers.commands import newest, run_here
from helpers.corpora import write_table_corpus
from helpers.reports import text_of

RATE = 16_000
VOICES = [np.random.default_rng(seed).normal(0, 0.1, 3_000 + seed).astype(np.float32) for seed in range(7)]


def signal(name: str) -> Signal:
    return next(signal for signal in SIGNALS if signal.name == name)


def clip(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def decibels(values: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(values, dtype=np.float64))))


@pytest.mark.parametrize("each", SIGNALS, ids=lambda each: each.name)
@pytest.mark.parametrize("samples", [960, 1_601, 47_999])
def test_a_worse_clip_is_as_long_finite_and_the_same_each_time(each: Signal, samples: int) -> None:
    whole = clip(3)[:samples]
    worse = Worse(each, VOICES)
    changed = worse(whole)
    assert (changed.shape, changed.dtype) == (whole.shape, np.float32)
    assert np.isfinite(changed).all()
    assert not np.array_equal(changed, whole)
    np.testing.assert_array_equal(worse(whole), changed)
    assert np.isfinite(worse(np.zeros(samples, np.float32))).all()


@pytest.mark.parametrize("kind", ["noise", "babble"])
@pytest.mark.parametrize("ratio", [20, 10, 0])
def test_what_is_added_is_so_many_decibels_below_the_clip(kind: str, ratio: int) -> None:
    whole = tone(440, 2)
    added = Worse(signal(f"{kind} {ratio} dB"), VOICES)(whole) - whole
    assert decibels(whole) - decibels(added) == pytest.approx(ratio, abs=0.01)


def test_babble_is_of_the_given_voices_alone() -> None:
    whole, voices = clip(), [tone(1_000), tone(3_000)]
    added = Worse(signal("babble 0 dB"), voices)(whole) - whole
    spectrum = np.abs(np.fft.rfft(added))
    assert set(np.argsort(spectrum)[-2:].tolist()) == {1_000, 3_000}
    assert np.square(np.delete(spectrum, [1_000, 3_000])).sum() < 1e-3 * np.square(spectrum).sum()


@pytest.mark.parametrize(("name", "kept", "lost"), [("telephone band", 1_000, 100), ("8 kHz", 3_000, 5_000)])
def test_what_lies_beyond_the_band_is_lost(name: str, kept: float, lost: float) -> None:
    worse = Worse(signal(name))
    assert decibels(worse(tone(kept))) == pytest.approx(decibels(tone(kept)), abs=0.5)
    assert decibels(worse(tone(lost))) < decibels(tone(lost)) - 20


def test_opus_takes_about_16_kbit_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, write = [], soundfile.write

    def spy(file: io.BytesIO, *given: Any, **options: Any) -> None:
        write(file, *given, **options)
        sizes.append(len(file.getvalue()))

    monkeypatch.setattr(soundfile, "write", spy)
    changed = Worse(signal("Opus 16 kbit/s"))(clip(10))
    assert sizes[0] * 8 / 10_000 == pytest.approx(16, abs=4)
    assert decibels(changed) == pytest.approx(decibels(clip(10)), abs=6)


def test_clipping_cuts_off_twelve_decibels() -> None:
    whole = clip()
    changed = Worse(signal("clipping"))(whole)
    assert np.abs(changed).max() == pytest.approx(np.abs(whole).max() / 10 ** (12 / 20), rel=1e-6)
    quiet = np.abs(whole) < np.abs(changed).max()
    np.testing.assert_array_equal(changed[quiet], whole[quiet])


def test_a_room_falls_silent_in_half_a_second() -> None:
    impulse = np.zeros(RATE, np.float32)
    impulse[100] = 1.0
    changed = Worse(signal("room"))(impulse)
    energy = np.square(changed, dtype=np.float64)
    assert energy[:100].max() < 1e-12 * energy[100]
    late = [10 * np.log10(energy[start : start + 800].mean()) for start in (800, 800 + 4_000)]
    assert late[0] - late[1] == pytest.approx(60 * 0.25 / 0.5, abs=2)
    assert energy[101:].sum() == pytest.approx(0.5, abs=0.1)


def test_each_signal_has_a_key_of_its_own_and_the_features_of_the_changed_clip() -> None:
    plain, whole = LogMel(FeatureConfig()), clip()
    keys = {plain.features.key}
    for each in SIGNALS:
        worse = Worse(each, VOICES)
        extractor = worsen(plain, worse)
        assert not isinstance(extractor, Encoder)
        assert extractor.features.kind == plain.features.kind
        keys.add(extractor.features.key)
        values, expected = (np.empty(plain.shape(len(whole)), np.float32) for _ in range(2))
        extractor(whole, values)
        plain(worse(whole), expected)
        np.testing.assert_array_equal(values, expected)
    assert len(keys) == len(SIGNALS) + 1
    others = [worsen(plain, Worse(signal("babble 0 dB"), voices)).features.key for voices in (VOICES, VOICES[1:])]
    assert len(set(others)) == 2


def test_an_encoder_is_given_the_changed_clips(tmp_path: Path) -> None:
    heard: list[np.ndarray] = []

    class Deaf:
        features = Features.of_clips("states", "float16", (1, 2), {"name": "deaf"})

        def states(self, waveforms: Any) -> list[np.ndarray]:
            heard.extend(waveforms)
            return [np.zeros((1, 2), np.float16) for _ in waveforms]

        def save(self, folder: Path) -> None:
            (folder / "saved").touch()

    worse = Worse(signal("clipping"))
    encoder = worsen(Deaf(), worse)
    assert isinstance(encoder, Encoder)
    encoder.states([clip(), clip(seed=1)])
    np.testing.assert_array_equal(heard[1], worse(clip(seed=1)))
    encoder.save(tmp_path)
    assert (tmp_path / "saved").exists()
    assert encoder.features.shape == (1, 2)
    assert encoder.features.key != Deaf.features.key


def test_functionals_keep_their_set() -> None:
    pytest.importorskip("opensmile")
    extractor = worsen(Functionals("egemaps"), Worse(signal("telephone band")))
    assert extractor.features.settings["set"] == "eGeMAPSv02"
    assert extractor.features.settings["signal"] == "telephone band"


def test_the_table_says_what_each_signal_costs() -> None:
    clean, noisy = predictions(0.1), predictions(0.8)
    table = robustness_table({CLEAN: clean, "noise 0 dB": noisy, "same": clean}, TASK).set_index("signal")
    assert table.loc[CLEAN, "difference"] == table.loc["same", "difference"] == 0
    assert table.loc["noise 0 dB", "difference"] == pytest.approx(
        table.loc["noise 0 dB", "value"] - table.loc[CLEAN, "value"]
    )
    assert table.loc["noise 0 dB", "difference_hi"] < 0
    said = robustness_verdict(table.reset_index())
    low, high = (f"{table.loc[name, 'value']:.3f}" for name in ("noise 0 dB", "same"))
    assert (
        said == f"CCC is {high} on clean clips; on worse ones at worst {low} with noise 0 dB, at best {high} with same."
    )
    (names, *_) = robustness_columns(table.reset_index())
    assert names.cells == [CLEAN, "noise 0 dB", "same"]


@pytest.mark.usefixtures("store")
def test_the_entry_point(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "robustness" in ENTRY_POINTS
    options = {"corpus": "table", "data": str(tiny_corpus), "epochs": "1", "width": "0.05", "model": "cnn10-relative"}
    assert run_here("train", options, monkeypatch) == 0
    trained = newest()
    capsys.readouterr()
    assert run_here("robustness", {"run_id": "cnn10-relative", "split": "val"}, monkeypatch) == 0
    told = capsys.readouterr().out
    assert f"signal {len(SIGNALS)} of {len(SIGNALS)}: room" in told
    run = newest()
    text = MlflowClient().download_artifacts(run.info.run_id, "robustness/val.csv")
    table = pd.read_csv(text).set_index("signal")
    assert table.index.tolist() == [CLEAN, *(each.name for each in SIGNALS)]
    scores = artifacts.scores(trained, "val")
    assert scores is not None
    assert table.loc[CLEAN, "value"] == pytest.approx(scores.set_index("metric").loc["emotion_ccc", "value"], abs=1e-6)
    html = Path(MlflowClient().download_artifacts(run.info.run_id, "robustness.html")).read_text()
    assert "on clean clips; on worse ones at worst" in text_of(html)
    assert not list(Path("output").glob("worse-*"))
    assert run_here("register", {"run_id": "cnn10-relative", "gate": "none"}, monkeypatch) == 0
    card = Path(MlflowClient().download_artifacts(newest().info.run_id, "card.md")).read_text()
    assert "Worse signals, val split: CCC is " in card


@pytest.mark.usefixtures("store")
def test_of_several_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        write_table_corpus(tmp_path / name, speakers=6)
    options = {"corpus": "table", "data": f"{tmp_path / 'one'},{tmp_path / 'other'}", "epochs": "1", "width": "0.05"}
    assert run_here("train", options | {"model": "cnn10"}, monkeypatch) == 0
    assert run_here("robustness", {"run_id": "cnn10"}, monkeypatch) == 0
