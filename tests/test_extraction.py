"""Extraction into the store: complete, once, on all cores, and stopped at any point without loss."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile
import torch
from threadpoolctl import threadpool_info

from exvo.errors import InputError
from exvo.features import extraction
from exvo.features.audio import read_audio
from exvo.features.extraction import extract, require_readable
from exvo.features.log_mel import log_mel
from exvo.features.store import Store

from helpers.features import CONFIG, count_decoding, no_temporary_files, write_clips

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path / "corpus", write_clips(tmp_path / "corpus", 60)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_clip_in_order(corpus: tuple[Path, list[str]], tmp_path: Path, workers: int) -> None:
    folder, files = corpus
    shuffled = files[::-1]
    threads = threadpool_info()
    store, audio = extract(folder, shuffled, tmp_path / "store", CONFIG, workers)
    assert threadpool_info() == threads
    assert list(audio["file"]) == shuffled
    assert (audio["problem"] == "").all()
    assert len(store) == 60
    for row in audio.to_dict("records"):
        source = read_audio(folder / row["file"], CONFIG)
        expected = log_mel(torch.from_numpy(source.waveform), CONFIG).numpy()
        np.testing.assert_allclose(store[row["content"]], expected, rtol=0, atol=1e-4)
        assert (row["rate"], row["channels"], row["frames"]) == (16_000, 1, len(expected))
        assert row["seconds"] == len(source.waveform) / 16_000
        assert row["peak"] == pytest.approx(np.abs(source.waveform).max())
        rms = np.sqrt(np.mean(source.waveform.astype(np.float64) ** 2))
        assert row["rms_db"] == pytest.approx(20 * np.log10(rms), abs=1e-4)
    pd.testing.assert_frame_equal(require_readable(audio, skip_unreadable=False), audio)
    assert no_temporary_files(tmp_path)


def test_levels_of_a_faint_clip_and_of_one_that_is_resampled(tmp_path: Path) -> None:
    tone = np.sin(np.arange(24_000) / 9)
    soundfile.write(tmp_path / "faint.wav", 1e-25 * tone, 16_000, "FLOAT")  # whose squares float32 can't hold
    soundfile.write(tmp_path / "fast.wav", np.sign(tone), 48_000, "FLOAT")  # resampled, it overshoots
    _, audio = extract(tmp_path, ["faint.wav", "fast.wav"], tmp_path / "store", CONFIG)
    assert audio["peak"][0] == pytest.approx(1e-25)
    assert audio["rms_db"][0] == pytest.approx(-500 - 10 * np.log10(2), abs=0.01)
    assert audio["peak"][1] == np.abs(read_audio(tmp_path / "fast.wav", CONFIG).waveform).max() > 1.05


def test_copies_and_what_is_lost_are_known_from_the_store_too(tmp_path: Path) -> None:
    samples = (np.random.default_rng(0).normal(0, 0.1, (9_000, 2)) * 2**15).astype(np.int16)
    samples[:, 1] = -0.98 * samples[:, 0]
    for name, kind in (("one.wav", "WAV"), ("two.flac", "FLAC"), ("three.aiff", "AIFF")):
        soundfile.write(tmp_path / name, samples, 22_050, "PCM_16", format=kind)
    soundfile.write(tmp_path / "four.wav", samples[:, 0], 22_050, "PCM_16")
    names = ["one.wav", "two.flac", "three.aiff", "four.wav"]
    for _ in range(2):
        _, audio = extract(tmp_path, names, tmp_path / "store", CONFIG)
        assert audio["content"].nunique() == 4
        assert list(audio["decoded"]) == [f"{read_audio(tmp_path / name, CONFIG).decoded:016x}" for name in names]
        assert audio["decoded"].nunique() == 2
        assert list(audio["note"]) == ["mixing its 2 channels to one lost 40 dB"] * 3 + [""]


def test_bad_files_are_all_listed_and_stop_nothing(corpus: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, files = corpus
    whole = (folder / files[0]).read_bytes()
    (folder / "text.wav").write_text("not a sound")
    (folder / "empty.wav").touch()
    (folder / "cut.wav").write_bytes(whole[:3_000])
    (folder / "sub").mkdir()
    soundfile.write(folder / "silent.wav", np.zeros(8_000), 16_000)
    expected = {
        "text.wav": "not audio (Format not recognised)",
        "empty.wav": "empty file",
        "cut.wav": "truncated",
        "sub": "a folder",
        "silent.wav": "silent: all samples are zero",
        "gone.wav": "missing",
    }
    store, audio = extract(folder, [*expected, *files], tmp_path / "store", CONFIG)
    problems = audio.set_index("file")["problem"]
    assert dict(problems[list(expected)]) == expected
    assert (problems[files] == "").all()
    assert len(store) == 60
    bad = audio[audio["problem"] != ""]
    assert (bad[["rate", "channels", "frames"]] == 0).all(axis=None)
    assert bad[["seconds", "peak", "rms_db"]].isna().all(axis=None)
    assert list(bad.loc[bad["content"] == "", "file"]) == ["sub", "gone.wav"]
    assert audio["frames"].dtype == np.int64
    with pytest.raises(InputError, match=r"^6 of 66 audio files can't be used: .*skip_unreadable=true") as caught:
        require_readable(audio, skip_unreadable=False)
    for file, problem in expected.items():
        assert f"\n  {file}: {problem}" in str(caught.value)
    assert list(require_readable(audio, skip_unreadable=True)["file"]) == files
    with pytest.raises(InputError, match="6 of 6 audio files can't be used: repair them\\."):
        require_readable(bad, skip_unreadable=True)


def test_no_files(tmp_path: Path) -> None:
    store, audio = extract(tmp_path, [], tmp_path / "store", CONFIG)
    assert len(store) == len(audio) == 0
    assert list(audio.columns)[:2] == ["file", "content"]
    assert len(require_readable(audio, skip_unreadable=False)) == 0


def test_equal_audio_is_stored_once(corpus: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, files = corpus
    (folder / "again.wav").write_bytes((folder / files[0]).read_bytes())
    store, audio = extract(folder, [*files, "again.wav", files[0]], tmp_path / "store", CONFIG)
    assert len(store) == 60
    assert len(store.table()) == 60
    assert audio["content"].iloc[-2] == audio["content"].iloc[-1] == audio["content"].iloc[0]
    assert audio["seconds"].notna().all()


def test_files_too_long_to_be_read_at_once(
    corpus: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files = corpus
    expected, first = extract(folder, files, tmp_path / "whole", CONFIG, workers=1)
    monkeypatch.setattr(extraction, "MAX_READ_ONCE", 7_000)  # half of them are longer
    monkeypatch.setattr(extraction, "HASH_BLOCK", 1_000)
    decoded = count_decoding(monkeypatch)
    store, second = extract(folder, files, tmp_path / "store", CONFIG, workers=1)
    assert {type(source) for source in decoded} == {str, bytes}
    pd.testing.assert_frame_equal(first, second)
    for content in store:
        np.testing.assert_array_equal(store[content], expected[content])


def test_shards_of_long_clips_hold_fewer(
    corpus: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "SHARD_NUMBERS", 20_000)  # numbers: 16 clips of at least 21 frames and 64 bands
    store, audio = extract(*corpus, tmp_path / "store", CONFIG, workers=1)
    assert len(list(store.folder.iterdir())) == 4
    assert len(store) == len(require_readable(audio, skip_unreadable=False)) == 60


def test_a_second_run_decodes_nothing(
    corpus: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files = corpus
    _, first = extract(folder, files, tmp_path / "store", CONFIG, workers=1)
    decoded = count_decoding(monkeypatch)
    store, second = extract(folder, files, tmp_path / "store", CONFIG, workers=1)
    assert decoded == []
    assert len(store) == 60
    pd.testing.assert_frame_equal(first, second)


def test_only_changed_audio_is_extracted_again(
    corpus: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files = corpus
    _, first = extract(folder, files, tmp_path / "store", CONFIG, workers=1)
    soundfile.write(folder / files[5], np.sin(np.arange(9_000) / 9), 16_000)
    (folder / files[6]).rename(folder / "renamed.wav")
    decoded = count_decoding(monkeypatch)
    _, second = extract(folder, [*files[:6], "renamed.wav", *files[7:]], tmp_path / "store", CONFIG, workers=1)
    assert decoded == [(folder / files[5]).read_bytes()]
    assert list(np.flatnonzero(first["content"] != second["content"])) == [5]
    assert second["seconds"][5] == 9_000 / 16_000


def test_other_settings_are_extracted_apart(corpus: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, files = corpus
    coarse = dataclasses.replace(CONFIG, hop=320)
    fine, _ = extract(folder, files, tmp_path / "store", CONFIG)
    store, audio = extract(folder, files, tmp_path / "store", coarse)
    content = audio["content"][0]
    assert store.folder != fine.folder
    assert len(store[content]) < len(fine[content])


def test_damaged_clips_are_extracted_again(
    corpus: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files = corpus
    monkeypatch.setattr(extraction, "SHARD_FILES", 10)
    store, first = extract(folder, files, tmp_path / "store", CONFIG)
    shards = sorted(store.folder.iterdir())
    assert len(shards) > 1
    data = shards[0].read_bytes()
    shards[0].unlink()
    shards[0].write_bytes(data[: len(data) // 2])
    with pytest.warns(RuntimeWarning, match=shards[0].name):
        store, second = extract(folder, files, tmp_path / "store", CONFIG)
    assert len(store) == 60
    pd.testing.assert_frame_equal(first, second)


def test_an_interrupted_run_keeps_what_is_done(
    corpus: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files = corpus
    monkeypatch.setattr(extraction, "SHARD_FILES", 25)

    def interrupt(number: int) -> None:
        if number == 40:
            raise KeyboardInterrupt

    decoded = count_decoding(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(folder, files, tmp_path / "store", CONFIG, workers=1)
    kept = len(Store(tmp_path / "store", CONFIG))
    assert kept == 39
    decoded.clear()
    store, audio = extract(folder, files, tmp_path / "store", CONFIG, workers=1)
    assert len(decoded) == 60 - kept
    assert len(store) == len(require_readable(audio, skip_unreadable=False)) == 60


def test_a_full_disk(corpus: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, files = corpus
    monkeypatch.setattr(extraction, "SHARD_FILES", 10)
    written = []

    def fsync(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(
            InputError, match=r"No space left on device\. The \d+ clips written before are kept"
        ) as error:
            extract(folder, files, tmp_path / "store", CONFIG, workers=1)
    kept = len(Store(tmp_path / "store", CONFIG))
    assert kept > 0
    assert f"The {kept} clips written before are kept: free some space" in str(error.value)
    assert no_temporary_files(tmp_path)
    assert len(extract(folder, files, tmp_path / "store", CONFIG, workers=1)[0]) == 60


def test_a_store_that_cannot_be_made(corpus: tuple[Path, list[str]], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"can't be written to .*file"):
        extract(*corpus, tmp_path / "file", CONFIG)
    with pytest.raises(InputError, match=r"workers must be 0 .* found -1"):
        extract(*corpus, tmp_path / "store", CONFIG, workers=-1)


SLOW = """
import sys, time
from pathlib import Path
from exvo.features import extraction
from exvo.config import FeatureConfig

read_audio = extraction.read_audio
def slow(path, config):
    time.sleep(float(sys.argv[3]))
    return read_audio(path, config)
extraction.read_audio = slow
extraction.SHARD_FILES = 10
folder = Path(sys.argv[1])
files = sorted(path.name for path in folder.iterdir())
store, audio = extraction.extract(folder, files, sys.argv[2], FeatureConfig(), int(sys.argv[4]))
print(len(store), (audio["problem"] == "").sum())
"""


def start(folder: Path, store_folder: Path, seconds_a_clip: float, workers: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(folder), str(store_folder), str(seconds_a_clip), str(workers)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def wait_for_a_shard(store_folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not list(store_folder.rglob("*.arrow")) and time.monotonic() < deadline:
        time.sleep(0.02)


def test_a_killed_run_keeps_its_shards(
    corpus: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files = corpus
    process = start(folder, tmp_path / "store", 0.1)
    wait_for_a_shard(tmp_path / "store")
    process.kill()
    process.communicate()
    kept = len(Store(tmp_path / "store", CONFIG))
    assert 0 < kept < 60
    decoded = count_decoding(monkeypatch)
    store, audio = extract(folder, files, tmp_path / "store", CONFIG, workers=1)
    assert len(decoded) == 60 - kept
    assert len(store) == len(require_readable(audio, skip_unreadable=False)) == 60


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_run(corpus: tuple[Path, list[str]], tmp_path: Path, number: signal.Signals) -> None:
    folder, files = corpus
    process = start(folder, tmp_path / "store", 0.1, workers=2)
    wait_for_a_shard(tmp_path / "store")
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(number) if number == signal.SIGKILL else os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert no_temporary_files(tmp_path)
    store, audio = extract(folder, files, tmp_path / "store", CONFIG)
    assert len(store) == len(require_readable(audio, skip_unreadable=False)) == 60


def test_a_worker_that_dies_is_told(
    corpus: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files = corpus
    count_decoding(monkeypatch, lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == 20 else None)
    with pytest.raises(InputError, match=r"A process that decodes audio has died .*run again to go on"):
        extract(folder, files, tmp_path / "store", CONFIG, workers=2)


def test_what_a_worker_raises_is_raised_here(
    corpus: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> None:
        if number == 20:
            raise ZeroDivisionError("in a worker")

    count_decoding(monkeypatch, fail)
    children = set(psutil.Process().children())
    with pytest.raises(ZeroDivisionError, match="in a worker"):
        extract(*corpus, tmp_path / "store", CONFIG, workers=2)
    assert set(psutil.Process().children()) == children
    assert len(Store(tmp_path / "store", CONFIG)) >= 19


def test_odd_windows_and_clips_longer_than_a_block(tmp_path: Path) -> None:
    other = dataclasses.replace(CONFIG, window=401, hop=100, bands=40)
    names = write_clips(tmp_path / "corpus", 2, seconds=4.0)
    store, audio = extract(tmp_path / "corpus", names, tmp_path / "store", other, workers=1)
    for file, content in zip(audio["file"], audio["content"], strict=True):
        waveform = torch.from_numpy(read_audio(tmp_path / "corpus" / file, other).waveform)
        np.testing.assert_allclose(store[content], log_mel(waveform, other).numpy(), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_two_processes_at_once(corpus: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, files = corpus
    process = start(folder, tmp_path / "store", 0.05)
    wait_for_a_shard(tmp_path / "store")
    monkeypatch.setattr(extraction, "SHARD_FILES", 10)
    decoded = count_decoding(monkeypatch, lambda number: time.sleep(0.02))
    store, audio = extract(folder, files[::-1], tmp_path / "store", CONFIG, workers=1)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert output.split() == ["60", "60"]
    assert errors == ""  # no progress bar without a terminal
    assert decoded
    assert len(store) == len(require_readable(audio, skip_unreadable=False)) == 60
    assert no_temporary_files(tmp_path)
    decoded.clear()
    store, audio = extract(folder, files, tmp_path / "store", CONFIG, workers=1)
    assert decoded == []
    assert len(store) == len(store.table()) == 60


def test_real_clips(emogator_mini: Path, tmp_path: Path) -> None:
    folder = emogator_mini / "data" / "mp3"
    files = sorted(path.name for path in folder.iterdir())[:200]
    store, audio = extract(folder, files, tmp_path / "store", CONFIG)
    assert (audio["problem"] == "").all()
    assert (audio["rate"] == 48_000).all()
    assert audio["seconds"].between(0.7, 2.0).all()
    assert list(audio["frames"]) == [store.frames(content) for content in audio["content"]]
    assert all(np.isfinite(store[content]).all() for content in audio["content"])
