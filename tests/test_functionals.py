"""openSMILE's functionals, against those that openSMILE itself gives for files."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.audio import read_audio
from exvo.features.containers import AudioError
from exvo.features.extraction import extract
from exvo.features.functionals import (
    MIN_SAMPLES,
    SETS,
    Functionals,
    FunctionalsProcess,
    features_of_set,
    set_of,
)

from helpers.features import write_clips

opensmile = pytest.importorskip("opensmile")


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def compute(functionals: Functionals, waveform: np.ndarray) -> np.ndarray:
    values = np.full(functionals.shape(len(waveform)), np.nan, np.float32)
    functionals(waveform, values)
    return values


@pytest.mark.parametrize("name", SETS)
def test_real_clips_have_the_numbers_that_opensmile_gives_for_files(
    name: str, emogator_mini: Path, tmp_path: Path
) -> None:
    """The files are 16-bit WAV of the waveforms; so the functionals of the waveforms before are all but the same."""
    functionals, (own_name, numbers) = Functionals(name), SETS[name]
    theirs = opensmile.Smile(getattr(opensmile.FeatureSet, own_name), opensmile.FeatureLevel.Functionals)
    assert len(theirs.feature_names) == numbers
    for file in sorted((emogator_mini / "data" / "mp3").iterdir())[::700]:
        soundfile.write(tmp_path / "clip.wav", read_audio(file, FeatureConfig()).waveform, 16_000, "PCM_16")
        waveform, _ = soundfile.read(tmp_path / "clip.wav", dtype="float32")
        expected = theirs.process_file(tmp_path / "clip.wav").to_numpy()
        np.testing.assert_array_equal(compute(functionals, waveform), expected)
        assert functionals.features.fits(expected)


@pytest.mark.parametrize("name", SETS)
def test_a_gasp_is_repeated_until_opensmile_has_a_frame(name: str) -> None:
    functionals, short = Functionals(name), noise(257)
    expected = compute(functionals, np.tile(short, 4)[:MIN_SAMPLES])
    np.testing.assert_array_equal(compute(functionals, short), expected)
    assert np.isfinite(compute(functionals, noise(MIN_SAMPLES - 1))).all()
    with pytest.warns(UserWarning, match="too short"):
        assert np.isnan(functionals._smile(noise(MIN_SAMPLES - 1), 16_000)).all()  # which is why
    assert np.isfinite(functionals._smile(noise(MIN_SAMPLES), 16_000)).all()


def test_samples_of_full_scale_and_beyond_do_not_change_their_sign() -> None:
    functionals, time = Functionals("egemaps"), np.arange(16_000) / 16_000
    tone = np.sin(2 * np.pi * 220 * time).astype(np.float32)
    largest = np.float32(1 - 2.0**-15)
    expected = compute(functionals, np.minimum(tone, largest))
    np.testing.assert_array_equal(compute(functionals, tone), expected)
    loud = np.clip(1.5 * tone, -1, largest)
    np.testing.assert_array_equal(compute(functionals, 1.5 * tone), compute(functionals, loud))


def test_numbers_that_are_not_finite_never_reach_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_clips(tmp_path / "clips", 3)
    functionals = Functionals("egemaps")
    compute(functionals, noise(2_000))
    whole, calls = functionals._smile, []

    def broken(waveform: np.ndarray, rate: int) -> np.ndarray:
        calls.append(len(waveform))
        return np.full(88, np.nan) if len(calls) == 2 else np.asarray(whole(waveform, rate))

    monkeypatch.setattr(functionals, "_smile", broken)
    store, audio = extract(tmp_path / "clips", files, tmp_path / "store", functionals, workers=1)
    assert audio["problem"].tolist() == ["", "openSMILE gives numbers for it that are not finite", ""]
    assert len(store) == 2
    assert all(np.isfinite(store[content]).all() for content in store)


def test_extraction_in_processes_gives_the_same_and_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, functionals = write_clips(tmp_path / "clips", 40), Functionals("egemaps")
    store, audio = extract(tmp_path / "clips", files, tmp_path / "store", functionals, workers=2)
    assert (audio["problem"] == "").all()
    assert audio["frames"].eq(1).all()
    assert audio["seconds"].iloc[3] == pytest.approx((3_200 + 21) / 16_000)
    for file, content in zip(files[::13], audio["content"][::13], strict=True):
        waveform = read_audio(tmp_path / "clips" / file, FeatureConfig()).waveform
        np.testing.assert_array_equal(store[content], compute(functionals, waveform))
    monkeypatch.setattr(Functionals, "__call__", None)
    again = extract(tmp_path / "clips", files, tmp_path / "store", Functionals("egemaps"), workers=1)[1]
    assert again.equals(audio)


def test_a_process_of_its_own_gives_the_same_to_several_threads_and_is_replaced_when_killed() -> None:
    functionals, process = Functionals("egemaps"), FunctionalsProcess("egemaps")
    clips = [noise(3_000 + 100 * number, number) for number in range(6)]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(process, clips))
    for clip, answer in zip(clips, answers, strict=True):
        np.testing.assert_array_equal(answer, compute(functionals, clip))
    assert process._process is not None
    first = process._process.pid
    os.kill(first, signal.SIGKILL)
    np.testing.assert_array_equal(process(clips[0]), answers[0])
    assert process._process.pid != first
    process.close()


def test_a_problem_of_a_clip_comes_back_from_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import numpy, opensmile\nopensmile.Smile.__call__ = lambda self, clip, rate: numpy.full(88, numpy.inf)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = FunctionalsProcess("egemaps")
    with pytest.raises(AudioError, match="not finite"):
        process(noise(2_000))
    process.close()


def test_opensmile_that_is_not_there_or_another_one_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    present = metadata.version("opensmile")
    model = features_of_set("egemaps", present)
    assert set_of(model) == "egemaps"
    assert features_of_set("compare2016", present).key != model.key != features_of_set("egemaps", "2.5.1").key
    with pytest.raises(InputError, match=rf"eGeMAPSv02 of openSMILE 1\.0.* and {present} is installed: pip install"):
        set_of(features_of_set("egemaps", "1.0"))

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("exvo.features.functionals.version", absent)
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(InputError, match=r'needs opensmile, which .*pip install "exvo\[opensmile\]"'):
        Functionals("egemaps")
