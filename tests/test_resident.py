"""Clips on a device: the same batches bit for bit, and the same training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from exvo.batches import resident
from exvo.batches.clips import Batch, Clips
from exvo.batches.epoch import training_batches
from exvo.batches.resident import ResidentClips, make_resident
from exvo.enrolment import Draw
from exvo.errors import TrainingError
from exvo.training import loop
from exvo.training.loop import Validation, fit, train_epoch
from exvo.training.optimizers import make_optimizer

from helpers.networks import TASK, config, make_network

DRAWS = [
    None,
    Draw(2, True, False),
    Draw(3, False, False),
    Draw(2, False, True),
    Draw(2, False, True, 4),
    Draw(2, False, True, 3, 2),
]
every_draw = pytest.mark.parametrize("draw", DRAWS, ids=str)


def make_clips(fill: str = "repeat") -> Clips:
    """Noise of three speakers: clips shorter than a crop and longer, one of a single frame, two of the same content."""
    rng = np.random.default_rng(0)
    lengths = [60, 3, 20, 7, 45, 1, 33, 19, 21, 50, 12, 28]
    features = {f"c{i}": rng.normal(-40, 15, (n, 64)).astype(np.float32) for i, n in enumerate(lengths)}
    contents = [*list(features)[::-1], "c4"]
    files = [f"clip{i}.wav" for i in range(13)]
    return Clips(files, contents, features, rng.random((13, 2)), fill, list("bacabcabcabca"))


def assert_equal(one: Batch, other: Batch) -> None:
    for name, value in vars(one).items():
        found = vars(other)[name]
        assert type(found) is type(value), name
        if isinstance(value, tuple):
            assert found == value, name
        elif value is not None:
            assert found.dtype == value.dtype, name
            assert np.array_equal(np.asarray(found), np.asarray(value)), name


@every_draw
@pytest.mark.parametrize("fill", ["zero", "floor", "repeat"])
@pytest.mark.parametrize("uploaded", [30, 2**20])
def test_batches_are_those_of_the_store_bit_for_bit(
    draw: Draw | None, fill: str, uploaded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "UPLOAD_FRAMES", uploaded)
    clips = make_clips(fill)
    on_device = ResidentClips(clips, "cpu")
    assert len(on_device.log_mels) == sum(map(len, clips.features.values()))  # what two clips share is there once
    for epoch in (1, 2):
        expected = list(training_batches(clips, 4, 7, epoch, draw, frames=20))
        found = list(on_device.batches(4, 7, epoch, draw, frames=20))
        for one, other in zip(expected, found, strict=True):
            assert_equal(one, other)


def test_without_speakers() -> None:
    clips = make_clips()
    clips = Clips(clips.files, clips.contents, clips.features, clips.labels)
    for one, other in zip(training_batches(clips, 5, 0, 1), ResidentClips(clips, "cpu").batches(5, 0, 1), strict=True):
        assert_equal(one, other)


def epoch_of(source: Clips | ResidentClips, draw: Draw | None) -> tuple[float, dict[str, Tensor]]:
    shared = draw is not None and draw.shared
    fusion = "none" if draw is None else "relative" if shared else "attention"
    enrolment = "none" if draw is None else "shared" if shared else "cnn10"
    network = make_network(enrolment=enrolment, fusion=fusion)
    settings = config(draw=draw)
    loss = train_epoch(network, TASK, make_optimizer(network, settings), source, settings, 1)
    return loss, network.state_dict()


@every_draw
def test_training_is_the_same_bit_for_bit_however_seldom_the_losses_are_looked_at(
    draw: Draw | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = make_clips()
    loss, weights = epoch_of(clips, draw)
    for every in (1, 2, 50):
        monkeypatch.setitem(loop.CHECK_EVERY, "cpu", every)
        found = epoch_of(ResidentClips(clips, "cpu"), draw)
        assert found[0] == loss
        assert all(torch.equal(found[1][name], tensor) for name, tensor in weights.items())


def test_fit_trains_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def make(clips: Clips, device: str) -> ResidentClips:
        seen.append(device)
        return ResidentClips(clips, device)

    clips, weights = make_clips(), []
    for change in (False, True):
        if change:
            monkeypatch.setattr(loop, "make_resident", make)
            monkeypatch.setattr(loop, "training_batches", None)
        network = make_network()
        fit(network, TASK, clips, config(), lambda _: Validation(0.0), lambda *_: None, lambda _: None)
        weights.append(network.state_dict())
    assert seen == ["cpu"]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("every", [1, 2, 50])
def test_a_loss_that_is_not_finite_names_the_first_such_batch(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All later batches are not finite either, because the weights aren't any more."""
    clips = make_clips()
    first = list(training_batches(clips, 4, 0, 1))[1]
    clips.features[clips.contents[first.index[0]]][:] = math.nan  # type: ignore[index]
    monkeypatch.setitem(loop.CHECK_EVERY, "cpu", every)
    names = ", ".join(clips.files[clip] for clip in first.index)
    expected = f"The loss is nan in epoch 1 on the batch of {names}. Look at these clips"
    assert clips.contents[first.index[0]] != "c4"  # which is another clip's content too
    with pytest.raises(TrainingError, match=expected):
        epoch_of(ResidentClips(clips, "cpu"), None)


def test_where_the_gpu_has_too_little_memory_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clips, told, made = make_clips(), [], []
    needed = 4 * 64 * sum(map(len, clips.features.values()))
    monkeypatch.setattr(resident, "ResidentClips", lambda clips, device: made.append(device) or "made")
    monkeypatch.setattr(resident, "free_memory", lambda device: 2 * needed)
    assert make_resident(clips, "cuda", told.append) == "made"
    monkeypatch.setattr(resident, "free_memory", lambda device: 2 * needed - 1)
    assert make_resident(clips, "cuda", told.append) is None
    assert make_resident(clips, "cpu", told.append) is None
    assert made == ["cuda"]
    assert len(told) == 1
    assert "they stay in the feature store" in told[0]
