"""The feature store: what is added comes back, in place, and nothing but whole shards is ever read."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from exvo.config import FeatureConfig
from exvo.features import store as store_module
from exvo.features.shards import Clip, Features, crc32
from exvo.features.store import Store

from helpers.stores import CONFIG, clip, reopened, shards


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two shards of ten clips, of 10 to 29 frames."""
    store = Store(tmp_path, CONFIG)
    for start in (0, 10):
        store.add([clip(number, 10 + number) for number in range(start, start + 10)])
    return store


def test_what_is_added_comes_back(store: Store) -> None:
    for opened in (store, reopened(store), pickle.loads(pickle.dumps(store))):
        assert len(opened) == 20
        assert set(opened) == {clip(number).content for number in range(20)}
        for number in range(20):
            added = clip(number, 10 + number)
            assert added.content in opened
            assert opened.frames(added.content) == 10 + number
            np.testing.assert_array_equal(opened[added.content], added.values)
            assert opened.intact(added.content)
        assert clip(20).content not in opened
        assert not opened.intact(clip(20).content)
        with pytest.raises(KeyError):
            opened[clip(20).content]


def test_the_table(store: Store) -> None:
    table = reopened(store).table()
    row = table.loc[clip(7).content]
    assert table.index.is_unique
    facts = {"frames": 17, "seconds": 0.17, "rate": 48_000, "channels": 2, "peak": 0.5, "rms_db": -27.0}
    assert dict(row) == {**facts, "decoded": "00000000000003ef", "note": "note 7"}
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
        np.testing.assert_array_equal(opened[newer.content], newer.values)
        assert list(opened.table()["peak"]) == [0.25]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(FeatureConfig)])
def test_every_setting_has_a_store_of_its_own(store: Store, field: str) -> None:
    other = dataclasses.replace(CONFIG, **{field: getattr(CONFIG, field) + 1})
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
    values = clip(4, 14).values.tobytes()
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


def damaged(store: Store, before: bytes, after: bytes) -> Store:
    """The store, opened again with other bytes in its first shard."""
    path = shards(store)[0]
    data = path.read_bytes()
    assert data.count(before) == 1
    path.unlink()
    path.write_bytes(data.replace(before, after))
    return reopened(store)


def test_swapped_halves_and_bits_changed_in_pairs_are_damage(store: Store) -> None:
    """A sum of the bits misses all of these."""
    values = clip(4, 14).values.tobytes()
    half = len(values) // 2
    up, down = bytearray(values), bytearray(values)
    first, second = next(
        (one, other)
        for one in range(0, len(values), 4)
        for other in range(0, len(values), 4)
        if not values[one] & 0x10 and values[other] & 0x10
    )
    up[first] |= 0x10
    up[second] &= ~0x10
    down[40:44], down[80:84] = values[80:84], values[40:44]
    for changed in (values[half:] + values[:half], bytes(up), bytes(down)):
        before, after = (np.frombuffer(one, np.uint32).sum(dtype=np.uint64) for one in (values, changed))
        assert before == after
        opened = damaged(store, values, changed)
        with pytest.warns(RuntimeWarning, match="is damaged in places, delete it"):
            assert not opened.intact(clip(4).content)
        values = changed


def test_the_checksum_is_the_crc_32_that_everyone_has() -> None:
    assert crc32(np.frombuffer(b"123456789", np.uint8)) == 0xCBF43926


@pytest.mark.parametrize(
    ("before", "after"),
    [(np.float64(0.14), np.float64(0.15)), (np.float64(-24.0), np.float64(24.0)), (np.uint64(1_004), np.uint64(1_005))],
)
def test_a_shard_whose_facts_are_damaged_is_left_out(store: Store, before: np.generic, after: np.generic) -> None:
    with pytest.warns(RuntimeWarning, match="is left out, delete it: its facts about the clips are damaged"):
        assert len(damaged(store, before.tobytes(), after.tobytes())) == 10


def write_version_1(store: Store, clips: list[Clip]) -> Path:
    """A shard as exvo wrote it before version 2, column by column."""
    large = pa.array([one.values.reshape(-1) for one in clips], pa.large_list(pa.float32()))
    columns = {
        "content": pa.array([one.content for one in clips], pa.string()),
        "frames": pa.array([len(one.values) for one in clips], pa.int32()),
        "seconds": pa.array([one.seconds for one in clips], pa.float64()),
        "rate": pa.array([one.rate for one in clips], pa.int32()),
        "channels": pa.array([one.channels for one in clips], pa.int32()),
        "peak": pa.array([one.peak for one in clips], pa.float64()),
        "rms_db": pa.array([one.rms_db for one in clips], pa.float64()),
        "checksum": pa.array([int(one.values.view(np.uint32).sum(dtype=np.uint64)) for one in clips], pa.uint64()),
        "log_mel": large,
    }
    settings = json.dumps(dataclasses.asdict(CONFIG), sort_keys=True).encode()
    table = pa.table(columns).replace_schema_metadata({b"exvo.features": settings})
    folder = store.root / f"log-mel-{CONFIG.digest()}"
    folder.mkdir(exist_ok=True)
    path = folder / f"{len(shards(store)):020}-{'0' * 32}.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return path


def test_shards_of_version_1_are_read_beside_those_of_version_2(store: Store) -> None:
    old = write_version_1(
        store, [clip(number, 10 + number) for number in range(15, 25)]
    )  # half of them are newer there
    opened = reopened(store)
    assert len(opened) == 25
    for number in range(25):
        np.testing.assert_array_equal(opened[clip(number).content], clip(number, 10 + number).values)
        assert opened.intact(clip(number).content)
    table = opened.table()
    facts = {"frames": 34, "seconds": 0.34, "rate": 48_000, "channels": 1, "peak": 0.5, "rms_db": -44.0}
    assert dict(table.loc[clip(24).content]) == {**facts, "decoded": "", "note": ""}
    assert table.loc[clip(17).content, "note"] == "note 17"
    data = old.read_bytes().replace(clip(22, 32).values.tobytes(), clip(22, 32).values.tobytes()[:-1] + b"?")
    old.unlink()
    old.write_bytes(data)
    opened = reopened(store)
    with pytest.warns(RuntimeWarning, match=f"{old.name} is damaged in places"):
        assert not opened.intact(clip(22).content)
    assert opened.intact(clip(23).content)


def test_functionals_and_states_of_encoders(tmp_path: Path) -> None:
    """Other kinds of features lie beside log-mels, each in a folder of its own."""
    rng = np.random.default_rng(0)
    functionals = Features("functionals", "a1b2", "float32", (6373,), {"set": "ComParE_2016"})
    states = Features("states", "c3d4", "float16", (25, 2048), {"encoder": "somewhere@1"})
    frames = Features("states", "e5f6", "float16", (None, 12), {})
    for features, shape in ((functionals, (6373,)), (states, (25, 2048)), (frames, (7, 12))):
        rows = [rng.normal(size=shape).astype(features.dtype) for _ in range(5)]
        clips = [dataclasses.replace(clip(number), values=row) for number, row in enumerate(rows)]
        Store(tmp_path, features).add(clips)
        opened = pickle.loads(pickle.dumps(Store(tmp_path, features)))
        assert len(opened) == 5
        for one in clips:
            assert opened[one.content].dtype == features.dtype
            np.testing.assert_array_equal(opened[one.content], one.values)
            assert opened.intact(one.content)
        wrong = [rows[0].astype(np.float64), rows[0][..., :-1], rows[0][None]]
        for values in wrong:
            with pytest.raises(ValueError, match=f"a {features.kind} is {features.dtype} "):
                opened.add([dataclasses.replace(clip(9), values=values)])
    assert len(list(tmp_path.iterdir())) == 3
    assert list(Store(tmp_path, states).table()["frames"]) == [1] * 5
    other = dataclasses.replace(functionals, shape=(6374,))
    with pytest.warns(RuntimeWarning, match="its feature settings are not those of its folder"):
        assert len(Store(tmp_path, other)) == 0


@pytest.mark.parametrize("recent", [0, 7, 15, 2**16])
def test_the_index_in_arrays_and_in_a_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recent: int) -> None:
    """Against a plain dictionary: clips added, added again, damaged, in stores that are opened anew in between."""
    monkeypatch.setattr(store_module, "RECENT", recent)
    rng = np.random.default_rng(recent)
    store, expected = Store(tmp_path, CONFIG), {}
    for _ in range(40):
        numbers = rng.choice(60, rng.integers(1, 6), replace=False).tolist()
        clips = [clip(int(number), int(rng.integers(1, 9))) for number in numbers]
        store.add(clips)
        expected |= {one.content: one.values for one in clips}
        if rng.random() < 0.3:
            gone = str(rng.choice(sorted(expected)))
            monkeypatch.setattr("exvo.features.shards.Shard.intact", lambda *_: False)
            with pytest.warns(RuntimeWarning, match="damaged"):
                assert not store.intact(gone)
            monkeypatch.undo()
            monkeypatch.setattr(store_module, "RECENT", recent)
            del expected[gone]
            assert gone not in store
        assert len(store) == len(expected)
        assert sorted(store) == sorted(expected)
        for content, values in expected.items():
            np.testing.assert_array_equal(store[content], values)
    for odd in ("", "no digest", "ab", clip(61).content, clip(1).content.upper() + "0"):
        assert odd not in store
    opened = Store(tmp_path, CONFIG)
    assert set(expected) <= set(opened)  # what was damaged is whole
    assert all(np.array_equal(opened[content], values) for content, values in expected.items())


def test_contents_that_begin_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their first 64 bits, by which the arrays are searched, are equal."""
    monkeypatch.setattr(store_module, "RECENT", 0)
    clips = [dataclasses.replace(clip(number), content="ab" * 8 + f"{number * 7 % 10:048x}") for number in range(10)]
    store = Store(tmp_path, CONFIG)
    for first in (0, 5, 2):
        store.add(clips[first : first + 5])
    for opened in (store, Store(tmp_path, CONFIG)):
        assert len(opened) == len(set(opened)) == 10
        for one in clips:
            np.testing.assert_array_equal(opened[one.content], one.values)


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
            store.add([dataclasses.replace(clip(1), values=log_mel)])


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
        store.add([dataclasses.replace(clip(number), values=log_mel) for number in range(start, start + 128)])
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
