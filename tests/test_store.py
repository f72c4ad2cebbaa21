"""The feature store: what is added comes back, in place, and nothing but whole shards is ever read."""

from __future__ import annotations

import dataclasses
import errno
import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from exvo.config import FeatureConfig
from exvo.store import Clip, Store

CONFIG = FeatureConfig()


def clip(number: int, frames: int = 20) -> Clip:
    log_mel = np.random.default_rng(number).normal(-40, 20, (frames, CONFIG.bands)).astype(np.float32)
    return Clip(f"{number:064x}", log_mel, frames / 100, 48_000, 1 + number % 2, 0.5, -20.0 - number)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two shards of ten clips, of 10 to 29 frames."""
    store = Store(tmp_path, CONFIG)
    for start in (0, 10):
        store.add([clip(number, 10 + number) for number in range(start, start + 10)])
    return store


def shards(store: Store) -> list[Path]:
    return sorted(store.folder.glob("*.arrow"))


def reopened(store: Store) -> Store:
    return Store(store.root, store.config)


def test_what_is_added_comes_back(store: Store) -> None:
    for opened in (store, reopened(store), pickle.loads(pickle.dumps(store))):
        assert len(opened) == 20
        assert set(opened) == {clip(number).content for number in range(20)}
        for number in range(20):
            added = clip(number, 10 + number)
            assert added.content in opened
            assert opened.frames(added.content) == 10 + number
            np.testing.assert_array_equal(opened[added.content], added.log_mel)
            assert opened.intact(added.content)
        assert clip(20).content not in opened
        assert not opened.intact(clip(20).content)
        with pytest.raises(KeyError):
            opened[clip(20).content]


def test_the_table(store: Store) -> None:
    table = reopened(store).table()
    row = table.loc[clip(7).content]
    assert table.index.is_unique
    assert dict(row) == {"frames": 17, "seconds": 0.17, "rate": 48_000, "channels": 2, "peak": 0.5, "rms_db": -27.0}
    assert len(Store(store.root / "elsewhere", CONFIG).table()) == 0


def test_an_array_is_a_read_only_view(store: Store) -> None:
    log_mel = store[clip(3).content]
    assert not log_mel.flags.owndata
    assert np.shares_memory(log_mel, store[clip(3).content])
    with pytest.raises(ValueError, match="read-only"):
        log_mel[0, 0] = 1.0


def test_other_stores_see_new_shards_when_opened(tmp_path: Path) -> None:
    first, second = Store(tmp_path, CONFIG), Store(tmp_path, CONFIG)
    first.add([clip(1)])
    second.add([clip(2)])
    first.add([])
    assert (len(first), len(second)) == (1, 1)
    assert len(Store(tmp_path, CONFIG)) == 2
    assert len(shards(first)) == 2


def test_of_two_rows_the_newer_counts(tmp_path: Path) -> None:
    store = Store(tmp_path, CONFIG)
    newer = dataclasses.replace(clip(1, 30), peak=0.25)
    store.add([clip(1, 20)])
    store.add([newer])
    for opened in (store, reopened(store)):
        np.testing.assert_array_equal(opened[newer.content], newer.log_mel)
        assert list(opened.table()["peak"]) == [0.25]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(FeatureConfig)])
def test_every_setting_has_a_store_of_its_own(store: Store, field: str) -> None:
    other = dataclasses.replace(CONFIG, **{field: getattr(CONFIG, field) * 2})
    assert len(Store(store.root, other)) == 0
    assert Store(store.root, other).folder != store.folder


def test_a_shard_of_other_settings_is_left_out(store: Store) -> None:
    other = Store(store.root, dataclasses.replace(CONFIG, hop=320))
    other.folder.mkdir()
    shards(store)[0].rename(other.folder / "moved.arrow")
    with pytest.warns(RuntimeWarning, match=r"moved\.arrow is left out, delete it: its feature settings"):
        assert len(Store(store.root, other.config)) == 0


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_shard_that_was_cut_short_is_left_out(store: Store, kept: float) -> None:
    broken, whole = shards(store)
    data = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(data[: int(len(data) * kept)])
    with pytest.warns(RuntimeWarning, match=rf"{broken.name} is left out, delete it"):
        opened = reopened(store)
    assert set(opened) == {clip(number).content for number in range(10, 20)}
    assert whole.exists()


def test_a_shard_overwritten_with_noise_is_left_out(store: Store) -> None:
    broken = shards(store)[1]
    noise = np.random.default_rng(0).bytes(broken.stat().st_size)
    broken.unlink()
    broken.write_bytes(noise)
    with pytest.warns(RuntimeWarning, match=broken.name):
        assert len(reopened(store)) == 10


def test_a_damaged_log_mel_is_forgotten(store: Store) -> None:
    path = shards(store)[0]
    values = clip(4, 14).log_mel.tobytes()
    data = bytearray(path.read_bytes())
    data[data.index(values) + 1_000] ^= 0x40
    path.unlink()
    path.write_bytes(data)
    opened = reopened(store)
    with pytest.warns(RuntimeWarning, match=rf"{path.name} is damaged in places, delete it"):
        assert not opened.intact(clip(4).content)
    assert clip(4).content not in opened
    assert all(opened.intact(content) for content in opened)
    opened.add([clip(4, 14)])
    assert reopened(store).intact(clip(4).content)


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.rename"])
def test_a_shard_that_cannot_be_written_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(failing, full)
        with pytest.raises(OSError, match="No space left"):
            store.add([clip(20)])
    assert len(list(store.folder.iterdir())) == 2
    assert clip(20).content not in store
    store.add([clip(20)])
    assert len(reopened(store)) == 21


def test_log_mels_of_the_wrong_kind_are_refused(store: Store) -> None:
    for log_mel in (np.zeros((9, 64)), np.zeros((9, 63), np.float32), np.zeros(64, np.float32)):
        with pytest.raises(ValueError, match=r"a log-mel is float32 \(frames, 64\), not "):
            store.add([dataclasses.replace(clip(1), log_mel=log_mel)])


def test_sweep_deletes_old_temporary_files_only(store: Store) -> None:
    old, new = store.folder / "old.tmp", store.folder / "new.tmp"
    for path in (old, new):
        path.write_bytes(b"half a shard")
    os.utime(old, (0, 0))
    store.sweep()
    assert new.exists()
    assert not old.exists()
    assert len(reopened(store)) == 20


def private_memory() -> int:
    """Bytes of this process that aren't pages of a mapped file, which the system can take back at any time."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_store(tmp_path: Path) -> None:
    frames, clips = 400, 1_024  # 100 MB
    log_mel = np.ones((frames, CONFIG.bands), np.float32)
    store = Store(tmp_path, CONFIG)
    for start in range(0, clips, 128):
        store.add([dataclasses.replace(clip(number), log_mel=log_mel) for number in range(start, start + 128)])
    assert sum(path.stat().st_size for path in shards(store)) > 100e6
    del store
    descriptors, before = psutil.Process().num_fds(), private_memory()
    opened = Store(tmp_path, CONFIG)
    total = sum(float(opened[content].sum()) for content in list(opened)[::32])
    assert total == 32 * log_mel.size
    assert sum(opened.frames(content) for content in opened) == frames * clips
    assert private_memory() - before < 10e6
    assert psutil.Process().num_fds() == descriptors


def test_looking_up_a_batch_takes_well_under_a_millisecond(store: Store) -> None:
    batch = [clip(number).content for number in range(20)] + [clip(number).content for number in range(12)]
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        found = [store[content] for content in batch]
        seconds.append(time.perf_counter() - start)
        assert len(found) == 32
    assert min(seconds) < 0.5e-3
