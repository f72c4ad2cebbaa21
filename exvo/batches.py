"""Batches: random crops for training, groups of equal length for evaluation. Each draw has its own generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from exvo.config import CROP_FRAMES, FeatureConfig

ORDER, CROP = 0, 1  # what a generator is for: the last number of its seed


@dataclass(frozen=True)
class Clips:
    """The clips of a split, ready for batches.

    Attributes:
        files: name of each clip.
        contents: key of each clip's log-mel in `features`.
        features: content -> (frames, bands) in dB: the feature store, or a dict.
        labels: (clips, labels), see `Task.labels`.
        fill: what follows a short clip: zero (0 dB, as published), floor (-100 dB) or repeat (the clip again).
    """

    files: Sequence[str]
    contents: Sequence[str]
    features: Mapping[str, np.ndarray]
    labels: np.ndarray
    fill: str = "zero"

    def __len__(self) -> int:
        return len(self.contents)

    def frames(self) -> np.ndarray:
        """Frames of each clip, (clips,)."""
        return np.array([len(self.features[content]) for content in self.contents])


@dataclass(frozen=True)
class Batch:
    """Log-mels (batch, frames, bands) in dB, labels (batch, labels), and which clips they are (batch,)."""

    log_mel: Tensor
    labels: Tensor
    index: np.ndarray


def fill_frames(log_mel: np.ndarray, frames: int, fill: str) -> np.ndarray:
    """The first `frames` frames of a clip, filled at its end where it is shorter.

    Args:
        log_mel: (frames of the clip, bands), dB.
        frames: wanted.
        fill: zero, floor or repeat.

    Returns:
        (frames, bands), dB.
    """
    missing = frames - len(log_mel)
    if missing <= 0:
        return log_mel[:frames]
    if fill == "repeat":
        return np.resize(log_mel, (frames, log_mel.shape[1]))
    decibels = 0.0 if fill == "zero" else FeatureConfig().floor_db
    return np.pad(log_mel, ((0, missing), (0, 0)), constant_values=decibels)


def training_batches(
    clips: Clips, batch_size: int, seed: int, epoch: int, frames: int = CROP_FRAMES
) -> Iterator[Batch]:
    """All clips once, in random order, each as a random crop of `frames` frames; a shorter clip is filled at its end.

    A pure function of seed and epoch. A single clip that is left over joins the batch before it, because the CCC of
    one clip is undefined.
    """
    order = np.random.default_rng([seed, epoch, ORDER]).permutation(len(clips))
    places = np.random.default_rng([seed, epoch, CROP]).random(len(clips))
    bounds = list(range(0, len(order), batch_size))
    if len(bounds) > 1 and len(order) - bounds[-1] == 1:
        bounds.pop()
    for start, stop in zip(bounds, [*bounds[1:], len(order)], strict=True):
        index = order[start:stop]
        log_mels = [clips.features[clips.contents[clip]] for clip in index]
        batch = np.empty((len(index), frames, log_mels[0].shape[1]), np.float32)
        for row, log_mel, place in zip(batch, log_mels, places[index], strict=True):
            first = int(place * (max(len(log_mel) - frames, 0) + 1))
            row[:] = fill_frames(log_mel[first:], frames, clips.fill)
        yield Batch(torch.from_numpy(batch), torch.from_numpy(clips.labels[index]).float(), index)


def evaluation_batches(clips: Clips, batch_size: int, min_frames: int) -> Iterator[Batch]:
    """Whole clips in batches of equal length, so that nothing is padded; one under `min_frames` is filled to that."""
    lengths = np.maximum(clips.frames(), min_frames)
    order = np.argsort(lengths, kind="stable")
    edges = np.flatnonzero(np.diff(lengths[order])) + 1
    for group in np.split(order, edges):
        for start in range(0, len(group), batch_size):
            index = group[start : start + batch_size]
            log_mels = [clips.features[clips.contents[clip]] for clip in index]
            batch = np.stack([fill_frames(log_mel, lengths[index[0]], clips.fill) for log_mel in log_mels])
            yield Batch(torch.from_numpy(batch), torch.from_numpy(clips.labels[index]).float(), index)
