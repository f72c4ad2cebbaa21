"""Batches: every clip once, crops and fills as said, a pure function of seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest

from exvo.batches import Clips, evaluation_batches, fill_frames, training_batches


def make_clips(lengths: list[int], fill: str = "zero") -> Clips:
    """Clips whose frame t holds t + 1000 * clip in every band."""
    features = {
        f"c{i}": np.repeat(1000.0 * i + np.arange(n, dtype=np.float32)[:, None], 4, axis=1) - 5000
        for i, n in enumerate(lengths)
    }
    labels = np.arange(len(lengths), dtype=np.float64)[:, None]
    return Clips([f"{i}.wav" for i in range(len(lengths))], list(features), features, labels, fill)


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
        return np.concatenate([batch.log_mel.numpy() for batch in training_batches(clips, 2, seed, number, 20)])

    np.testing.assert_array_equal(epoch(0, 1), epoch(0, 1))
    assert not np.array_equal(epoch(0, 1), epoch(0, 2))
    assert not np.array_equal(epoch(0, 1), epoch(1, 1))


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
