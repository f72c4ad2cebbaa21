"""Batches: every clip once, crops, fills and enrolment as said, a pure function of seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exvo.batches.clips import Batch, Clips, evaluation_batches, fill_frames
from exvo.batches.epoch import training_batches
from exvo.enrolment import Draw


def make_clips(lengths: list[int], fill: str = "zero", speakers: str = "") -> Clips:
    """Clips whose frame t holds t + 1000 * clip in every band."""
    features = {
        f"c{i}": np.repeat(1000.0 * i + np.arange(n, dtype=np.float32)[:, None], 4, axis=1) - 5000
        for i, n in enumerate(lengths)
    }
    labels = np.arange(len(lengths), dtype=np.float64)[:, None]
    return Clips([f"{i}.wav" for i in range(len(lengths))], list(features), features, labels, fill, list(speakers))


def test_an_epoch_has_every_clip_once() -> None:
    clips = make_clips([30, 10, 20, 25, 40, 12, 60])
    batches = list(training_batches(clips, 3, seed=0, epoch=1, frames=20))
    assert [len(batch.index) for batch in batches] == [3, 4]  # a lone seventh clip joins the batch before it
    assert sorted(np.concatenate([batch.index for batch in batches])) == list(range(7))
    for batch in batches:
        assert batch.log_mel.shape == (len(batch.index), 20, 4)
        np.testing.assert_array_equal(batch.labels[:, 0], batch.index)


def test_crops_are_runs_of_frames_at_random_places() -> None:
    clips = make_clips([100])
    firsts = set()
    for epoch in range(300):
        (batch,) = training_batches(clips, 2, seed=0, epoch=epoch, frames=20)
        crop = batch.log_mel[0, :, 0].numpy() + 5000
        np.testing.assert_array_equal(np.diff(crop), 1)
        firsts.add(int(crop[0]))
    assert min(firsts) == 0
    assert max(firsts) == 80  # the last crop ends with the clip
    assert len(firsts) > 70


@pytest.mark.parametrize(("fill", "value"), [("zero", 0.0), ("floor", -100.0)])
def test_a_short_clip_is_filled_at_its_end(fill: str, value: float) -> None:
    (batch,) = training_batches(make_clips([10], fill), 2, seed=0, epoch=1, frames=25)
    np.testing.assert_array_equal(batch.log_mel[0, :10, 0], np.arange(10) - 5000)
    np.testing.assert_array_equal(batch.log_mel[0, 10:], value)


def test_a_short_clip_is_repeated() -> None:
    log_mel = np.arange(6, dtype=np.float32).reshape(3, 2)
    filled = fill_frames(log_mel, 7, "repeat")
    np.testing.assert_array_equal(filled, np.concatenate([log_mel, log_mel, log_mel[:1]]))


def test_the_same_seed_and_epoch_give_equal_batches_and_others_differ() -> None:
    clips = make_clips([50, 60, 70, 80, 90])

    def epoch(seed: int, number: int) -> np.ndarray:
        return np.concatenate([batch.log_mel.numpy() for batch in training_batches(clips, 2, seed, number, frames=20)])

    np.testing.assert_array_equal(epoch(0, 1), epoch(0, 1))
    assert not np.array_equal(epoch(0, 1), epoch(0, 2))
    assert not np.array_equal(epoch(0, 1), epoch(1, 1))


def clip_of(log_mel: torch.Tensor) -> np.ndarray:
    """Which clip of `make_clips` each crop (..., frames, bands) is of, and that it is a run of its frames."""
    values = log_mel[..., 0].numpy() + 5000
    np.testing.assert_array_equal(np.diff(values, axis=-1), 1)
    return (values[..., 0] // 1000).astype(int)


@pytest.mark.parametrize("itself", [True, False])
def test_enrolment_clips_come_with_their_log_mels_labels_and_speakers(itself: bool) -> None:
    clips = make_clips([30, 40, 50, 60, 70, 80, 90], speakers="qpqpqpp")
    firsts = set()
    for epoch in range(40):
        batches = list(training_batches(clips, 3, 0, epoch, Draw(3, itself, shared=False), frames=20))
        assert sorted(np.concatenate([batch.index for batch in batches])) == list(range(7))
        for batch in batches:
            assert batch.enrolment is not None
            assert batch.enrolment.shape == (len(batch.index), 3, 20, 4)
            assert batch.enrolment_index.shape == (len(batch.index), 3)
            np.testing.assert_array_equal(clip_of(batch.log_mel), batch.index)
            np.testing.assert_array_equal(clip_of(batch.enrolment), batch.enrolment_index)
            np.testing.assert_array_equal(batch.enrolment_labels[..., 0], batch.enrolment_index)
            np.testing.assert_array_equal(batch.speakers, ["pq".index("qpqpqpp"[clip]) for clip in batch.index])
            for clip, own in zip(batch.index, batch.enrolment_index, strict=True):
                assert {"qpqpqpp"[other] for other in own} == {"qpqpqpp"[clip]}
                assert itself or clip not in own
            assert batch.enrols is None
            firsts |= set((batch.enrolment[batch.enrolment_index == 6][:, 0, 0] + 5000 - 6000).int().tolist())
    assert min(firsts) < 5 < 65 < max(firsts)  # enrolment clips are cropped at random places too


def test_clips_that_enrol_each_other_share_a_batch() -> None:
    speakers = "a" * 9 + "b" * 4 + "c" * 2 + "d" * 7
    clips = make_clips([30] * 22, speakers=speakers)
    batches = list(training_batches(clips, 9, 0, 1, Draw(2, itself=False, shared=True), frames=20))
    assert sorted(np.concatenate([batch.index for batch in batches])) == list(range(22))
    groups: list[np.ndarray] = []
    per_batch = []
    for batch in batches:
        assert batch.enrolment is None
        assert batch.enrols is not None
        assert batch.enrols.dtype == torch.float32
        others = batch.enrols.numpy()
        alike = others + np.eye(len(others))  # all clips of a group enrol each other, and none itself
        firsts = [number for number, row in enumerate(alike) if row.argmax() == number]
        groups += [batch.index[alike[first] == 1] for first in firsts]
        per_batch.append(len(firsts))
        np.testing.assert_array_equal(alike @ alike, alike.sum(axis=1)[:, None] * alike)
        np.testing.assert_array_equal(clip_of(batch.log_mel), batch.index)
    assert all(len({speakers[clip] for clip in group}) == 1 for group in groups)
    assert sorted(map(len, groups)) == [2, 3, 3, 3, 3, 4, 4]  # nine in threes, four, two, seven as three and four
    assert per_batch == [3, 3, 1]  # three groups of three are nine clips


@pytest.mark.parametrize("draw", [Draw(2, True, False), Draw(2, False, False), Draw(2, False, True)], ids=str)
def test_draws_are_a_function_of_seed_and_epoch(draw: Draw) -> None:
    clips = make_clips([50, 60, 70, 80, 90, 55, 65], speakers="aababba")

    def epoch(seed: int, number: int) -> list[Batch]:
        return list(training_batches(clips, 3, seed, number, draw, frames=20))

    def same(one: list[Batch], other: list[Batch], name: str) -> bool:
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(one, other, strict=True)]
        return all((a is None and b is None) or np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)

    names = ["index", "log_mel", "labels", "speakers"]
    names += ["enrols"] if draw.shared else ["enrolment_index", "enrolment", "enrolment_labels"]
    first = epoch(0, 1)
    np.random.random(3)  # noqa: NPY002 - the state of the global generator must not matter
    assert all(same(first, epoch(0, 1), name) for name in names)
    for other in (epoch(1, 1), epoch(0, 2)):
        assert not same(first, other, "index")
        assert draw.shared or not same(first, other, "enrolment_index")


def test_enrolment_leaves_order_and_crops_as_they_are() -> None:
    clips = make_clips([50, 60, 70, 80], speakers="aabb")
    plain = list(training_batches(clips, 2, 0, 1, frames=20))
    enrolled = list(training_batches(clips, 2, 0, 1, Draw(5, True, False), frames=20))
    for one, other in zip(plain, enrolled, strict=True):
        np.testing.assert_array_equal(one.log_mel, other.log_mel)
        assert one.enrolment_index is one.enrolment is one.enrols is None


def test_some_of_the_clips() -> None:
    clips = make_clips([10, 20, 30], "floor", "xyz").take(np.array([2, 0]))
    assert (clips.files, clips.contents, clips.speakers) == (["2.wav", "0.wav"], ["c2", "c0"], ["z", "x"])
    assert (clips.labels.tolist(), clips.frames().tolist(), clips.fill) == ([[2.0], [0.0]], [30, 10], "floor")
    assert len(make_clips([10, 20]).take(np.array([1])).speakers) == 0


def test_evaluation_batches_hold_whole_clips_of_equal_length() -> None:
    clips = make_clips([30, 10, 30, 8, 30, 45], "floor")
    batches = list(evaluation_batches(clips, 2, min_frames=16))
    assert [(batch.index.tolist(), batch.log_mel.shape[1]) for batch in batches] == [
        ([1, 3], 16),
        ([0, 2], 30),
        ([4], 30),
        ([5], 45),
    ]
    np.testing.assert_array_equal(batches[0].log_mel[1, :, 0].numpy(), [*(np.arange(8) - 2000), *[-100] * 8])
    np.testing.assert_array_equal(batches[3].log_mel[0, :, 0].numpy(), np.arange(45))
    stepped = evaluation_batches(clips, 3, min_frames=16, step=8)  # 45 = 5 x 8 + 5
    assert [(batch.index.tolist(), batch.log_mel.shape[1]) for batch in stepped] == [
        ([1, 3], 16),
        ([0, 2, 4], 24),
        ([5], 40),
    ]
