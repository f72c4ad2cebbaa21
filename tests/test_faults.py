"""Disks that are full or read-only, files that go, change or are cut short, and a clock that is set back.

The full and the read-only disk are real: small file systems in memory, mounted for the test.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile
from mlflow import MlflowClient

from exvo.corpora import sample
from exvo.errors import InputError
from exvo.features import extraction
from exvo.features.audio import read_audio
from exvo.features.extraction import extract
from exvo.features.store import Store
from exvo.networks.checkpoint import load_checkpoint

from helpers.commands import ROOT, at_epoch, newest, run_here
from helpers.corpora import write_table_corpus
from helpers.disks import Disk
from helpers.features import CONFIG, count_decoding, no_temporary_files, write_clips
from helpers.stores import clip, reopened, shards
from helpers.studies import begin, memory_study

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))

SMALL = {"model": "cnn10", "corpus": "table", "epochs": "3", "batch_size": "4", "width": "0.1"}
SMALL |= {"learning_rate": "0.01", "precision": "float32"}


# Full disks


def test_extraction_into_a_full_disk_goes_on_when_there_is_space(
    disk: Callable[[int], Disk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_clips(tmp_path / "corpus", 40, seconds=1.0)  # 26 kB of log-mel each
    monkeypatch.setattr(extraction, "SHARD_FILES", 10)
    small = disk(700_000)
    with pytest.raises(InputError, match=r"No space left on device\. The \d+ clips written before are kept") as error:
        extract(tmp_path / "corpus", files, small.folder / "features", CONFIG, 2)
    kept = Store(small.folder / "features", CONFIG)
    assert 0 < len(kept) < 40
    assert f"The {len(kept)} clips" in str(error.value)
    assert all(kept.intact(content) for content in list(kept))
    assert no_temporary_files(small.folder)
    small.remount("size=8m")
    decoded = count_decoding(monkeypatch)
    store, audio = extract(tmp_path / "corpus", files, small.folder / "features", CONFIG, 1)
    assert len(decoded) == 40 - len(kept)
    whole, same = extract(tmp_path / "corpus", files, tmp_path / "whole", CONFIG)
    pd.testing.assert_frame_equal(audio, same)
    assert all(np.array_equal(store[content], whole[content]) for content in whole)


def test_the_sample_corpus_is_there_whole_or_not_at_all(disk: Callable[[int], Disk]) -> None:
    small = disk(1_000_000)
    with pytest.raises(InputError, match=r"the sample can't be written there \(.*No space left on device.*\); give"):
        sample.read(small.folder / "sample")
    assert list(small.folder.iterdir()) == []
    small.remount("size=60m")
    assert len(sample.read(small.folder / "sample").clips) == 600


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_checkpoint_that_finds_no_space_leaves_the_one_before(
    epoch: int,
    disk: Callable[[int], Disk],
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = disk(16_000_000)
    options = SMALL | {"data": str(tiny_corpus), "output": str(small.folder / "output")}
    with monkeypatch.context() as patch:
        at_epoch(epoch, lambda: small.fill(left=100_000), patch)
        patch.setattr("exvo.evaluation.scoring.score_epoch", rising())
        assert run_here("train", options, monkeypatch) == 2
    said = capsys.readouterr().err
    assert "can't be written (No space left on device); free space or choose another output folder." in said
    assert "Traceback" not in said
    assert newest().info.status in ("FAILED", "KILLED")
    assert not [path for path in small.folder.rglob("*") if path.name.endswith(".tmp")]
    best = list((small.folder / "output" / "runs").rglob("best.safetensors"))
    assert [load_checkpoint(path).notes["epoch"] for path in best] == ([] if epoch == 1 else [2])
    small.free()
    assert run_here("train", options, monkeypatch) == 0
    assert newest().info.status == "FINISHED"


def rising(by: int = 1) -> Callable[..., pd.Series]:
    """Scores that are better each time (or worse, where `by` is negative)."""
    count = itertools.count(1, by)
    return lambda *_: pd.Series({"emotion_ccc": next(count) / 100})


def test_a_tracking_store_without_space_is_said_at_the_start(
    disk: Callable[[int], Disk],
    empty_store: Path,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = disk(4_000_000)
    database = Path(shutil.copy(empty_store, small.folder))
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    options = {"corpus": "table", "data": str(tiny_corpus)}
    try:
        small.fill(left=20_000)
        assert run_here("extract", options, monkeypatch) == 2
        told = capsys.readouterr().err
        assert f"exvo: The tracking server sqlite:///{database} can't be used: database or disk is full.\n" in told
        with contextlib.closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        small.free()
        assert run_here("extract", options, monkeypatch) == 0
        assert [run.info.status for run in MlflowClient().search_runs(["0"])] == ["FINISHED"]
    finally:
        mlflow.set_tracking_uri(None)


# Read-only folders


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("entry_point", "extra"),
    [("extract", {}), ("train", {}), ("train", {"corpus": "sample"}), ("tune", {"trials": "1", "epochs": "1"})],
    ids=["extract", "train", "sample", "tune"],
)
def test_a_read_only_output_folder_is_one_sentence(
    entry_point: str,
    extra: dict[str, str],
    disk: Callable[[int], Disk],
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = disk(8_000_000)
    small.remount("ro")
    options = {"corpus": "table", "data": str(tiny_corpus), "output": str(small.folder / "output")} | extra
    if options["corpus"] == "sample":
        options["data"] = ""
    if entry_point == "tune":
        options["model"] = "cnn10"
    assert run_here(entry_point, options, monkeypatch) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("exvo: ")]
    assert "Read-only file system" in line
    assert str(small.folder) in line


@pytest.mark.usefixtures("store")
def test_a_store_of_features_may_be_read_only(
    disk: Callable[[int], Disk], tmp_path: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features on a shared disk: what killed processes left there is somebody else's to sweep."""
    files = [path.name for path in tiny_corpus.glob("*.wav")]
    small = disk(8_000_000)
    store, _ = extract(tiny_corpus, files, small.folder, CONFIG)
    stale = store.folder / "0-stale.tmp"
    stale.touch()
    os.utime(stale, (0, 0))
    small.remount("ro")
    decoded = count_decoding(monkeypatch)
    assert (extract(tiny_corpus, files, small.folder, CONFIG)[1]["problem"] == "").all()
    assert decoded == []


# Files that go, or change, while they are in use


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("gone", "found", "status"),
    [("output/features", "any", 0), ("output", "a better epoch later", 0), ("output", "the best epoch before", 2)],
    ids=["features", "output", "output with the best weights"],
)
def test_a_folder_removed_in_mid_run(
    gone: str,
    found: str,
    status: int,
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Log-mels are mapped, and folders are made anew; weights that lay in the folder alone are gone."""
    options = SMALL | {"data": str(tiny_corpus)}
    if found != "any":
        monkeypatch.setattr("exvo.evaluation.scoring.score_epoch", rising(1 if "later" in found else -1))
    at_epoch(2, lambda: shutil.rmtree(gone), monkeypatch)
    assert run_here("train", options, monkeypatch) == status
    run = newest()
    assert [point.step for point in MlflowClient().get_metric_history(run.info.run_id, "epoch/loss")] == [1, 2, 3]
    if status == 0:
        assert run.info.status == "FINISHED"
        assert "exvo.model_uri" in run.data.tags
    else:
        said = capsys.readouterr().err
        assert "best.safetensors" in said
        assert "No such file" in said
        assert "Traceback" not in said


@pytest.fixture
def filled(tmp_path: Path) -> Store:
    """A store with two shards of ten clips."""
    store = Store(tmp_path / "features", CONFIG)
    for first in (0, 10):
        store.add([clip(number, 100) for number in range(first, first + 10)])
    return store


@pytest.mark.parametrize("how", ["delete", "replace", "remove the folder"])
def test_a_mapped_shard_outlives_its_file(how: str, filled: Store) -> None:
    whole = {content: values.copy() for content, values in filled.items()}
    if how == "remove the folder":
        shutil.rmtree(filled.root)
    for path in shards(filled):
        if how == "replace":
            (filled.folder / "new").write_bytes(b"another file")
            (filled.folder / "new").rename(path)
        else:
            path.unlink()
    assert all(np.array_equal(filled[content], values) for content, values in whole.items())


def intact_clips(store: Store) -> set[int]:
    """The numbers of the clips that are as they were written."""
    return {number for number in range(20) if store.intact(clip(number).content)}


@pytest.mark.parametrize("how", ["cut short", "overwritten"])
def test_a_shard_changed_in_place_is_refused_and_extracted_anew(how: str, filled: Store) -> None:
    first, second = shards(filled)
    if how == "cut short":
        os.truncate(first, 5_000)
    else:
        with first.open("r+b") as file:
            file.seek(10_000)
            file.write(b"noise" * 100)
    with pytest.raises(InputError, match=rf"{first.name} was changed while it was in use, .* delete it and run"):
        filled[clip(3).content]
    assert filled[clip(13).content].shape == (100, CONFIG.bands)
    with pytest.warns(RuntimeWarning, match=rf"{first.name} is damaged in places, delete it"):
        assert not filled.intact(clip(3).content)
    with pytest.warns(RuntimeWarning, match=first.name):
        intact = intact_clips(reopened(filled))
    assert set(range(10, 20)) <= intact < set(range(20))
    assert second.exists()


@pytest.mark.usefixtures("store")
def test_a_shard_cut_short_in_mid_training_ends_it_with_a_sentence(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = SMALL | {"data": str(tiny_corpus)}
    with monkeypatch.context() as patch:
        at_epoch(2, lambda: os.truncate(next(Path("output/features").rglob("*.arrow")), 100), patch)
        assert run_here("train", options, monkeypatch) == 2
    assert "was changed while it was in use" in capsys.readouterr().err
    with pytest.warns(RuntimeWarning, match="is left out, delete it"):
        assert run_here("train", options, monkeypatch) == 0


@pytest.mark.usefixtures("store")
def test_audio_replaced_after_training_is_refused_by_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "corpus"
    write_table_corpus(folder, speakers=8)
    assert run_here("train", SMALL | {"data": str(folder), "epochs": "1"}, monkeypatch) == 0
    trained = newest().info.run_id
    shutil.copy(folder / "s0-0.wav", folder / "s0-1.wav")
    assert run_here("evaluate", {"run_id": trained}, monkeypatch) == 2
    assert "labels, audio or order differ" in capsys.readouterr().err


def test_audio_that_changes_between_hashing_and_decoding_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the store would keep one file's log-mel under another's hash, for good."""
    files = write_clips(tmp_path / "corpus", 3)
    true, count = read_audio, itertools.count()

    def replaced(source: str | bytes, config: object) -> object:
        number = next(count)
        if number == 1:
            soundfile.write(tmp_path / "corpus" / files[1], np.full(8_000, 0.5), 16_000)
        elif number == 2:
            (tmp_path / "corpus" / files[2]).unlink()
        return true(source, CONFIG)

    monkeypatch.setattr(extraction, "read_audio", replaced)
    store, audio = extract(tmp_path / "corpus", files, tmp_path / "features", CONFIG)
    assert audio["problem"].tolist() == ["", "changed while it was read", "missing"]
    assert len(store) == 1


# The clock


def test_the_newest_row_of_a_clip_counts_when_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, CONFIG)
    for seconds, value in ((0, 1.0), (-3600, 2.0), (-86_400, 3.0)):
        true = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda true=true, seconds=seconds: true + seconds * 10**9)
        one = clip(0, 5)
        one.values[:] = value
        store.add([one])
        monkeypatch.undo()
        assert reopened(store)[one.content][0, 0] == value


def test_a_living_trial_is_not_ended_when_the_clock_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells when a process began by the clock as it is now."""
    running = memory_study(tmp_path)
    trial = begin(running)
    booted, began = psutil.boot_time(), psutil.Process().create_time()
    for seconds in (-86_400, -3, 3, 86_400):
        with monkeypatch.context() as patch:
            patch.setattr(psutil._psplatform, "boot_time", lambda seconds=seconds: booted + seconds)
            assert psutil.Process().create_time() == pytest.approx(began + seconds)
            assert memory_study(tmp_path).end_dead_trials() == []
    trial.report(1, 0.5)


@pytest.mark.long
@pytest.mark.skipif(not FAKETIME, reason="libfaketime (Debian's package of that name) is not installed")
def test_training_goes_on_when_the_clock_is_set_back(store: str, tiny_corpus: Path, tmp_path: Path) -> None:
    """By a day, after the first epoch, for a real process."""
    clock = tmp_path / "clock"
    faked = {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    faked |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    for name, more in (("undisturbed", {}), ("set-back", faked)):
        clock.write_text("+0\n")
        words = [sys.executable, "-m", "exvo", "train"]
        options = SMALL | {"data": str(tiny_corpus), "output": str(tmp_path / name), "epochs": "8"}
        words += [word for pair in options.items() for word in (f"--{pair[0]}", pair[1])]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": store} | more
        with subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as one:
            assert one.stdout is not None
            said = []
            for line in one.stdout:
                said.append(line)
                if line.startswith("epoch   1/8"):
                    clock.write_text("-1d\n")
        assert one.returncode == 0, said
    first, second = sorted(MlflowClient().search_runs(["0"]), key=lambda run: run.info.end_time)
    assert first.info.end_time < first.info.start_time - 80_000_000  # ms: it ended before it began
    assert second.info.end_time > second.info.start_time
    for name in ("epoch/loss", "epoch/emotion_ccc", "val/emotion_ccc", "best_epoch"):
        points = [MlflowClient().get_metric_history(run.info.run_id, name) for run in (first, second)]
        steps = [sorted((point.step, point.value) for point in own) for own in points]
        assert steps[0] == steps[1]
        assert first.data.metrics[name] == second.data.metrics[name]
