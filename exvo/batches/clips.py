"""The clips of a split with features and labels, and batches of whole clips for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exvo.config import FeatureConfig

VERSION = 4
"""What a random generator is for: the last number of its seed, beside those of `exvo.batches.epoch`."""


class Chosen(Mapping[str, np.ndarray]):
    """content -> features, each from a mapping of its own.

    Args:
        sources: content -> the mapping that holds it.
    """

    def __init__(self, sources: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        self._sources = sources

    def __getitem__(self, content: str) -> np.ndarray:
        return self._sources[content][content]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


@dataclass(frozen=True)
class Clips:
    """The clips of a split, ready for batches.

    Attributes:
        files: name of each clip.
        contents: key of each clip's log-mel in `features`.
        features: content -> (frames, bands) in dB: the feature store, or a dict.
        labels: (clips, labels), see `Task.labels`.
        fill: how a short clip is filled: zero (0 dB, as published), floor (-100 dB) or repeat (the clip again).
        speakers: speaker of each clip, '' where unknown; needed for enrolment alone.
        versions: content -> the log-mel of a copy of the clip on a worse signal, as long as the clip's; a mapping for
            each copy. Training takes the clip or one of them, see `of_epoch`.
        balanced: the first labels of a clip that are exclusive categories, each of which training draws as often; 0:
            all clips are drawn once.
    """

    files: Sequence[str]
    contents: Sequence[str]
    features: Mapping[str, np.ndarray]
    labels: np.ndarray
    fill: str = "zero"
    speakers: Sequence[str] = ()
    balanced: int = 0
    versions: Sequence[Mapping[str, np.ndarray]] = ()

    def __len__(self) -> int:
        return len(self.contents)

    def take(self, index: np.ndarray) -> Clips:
        """The clips at these indices, (clips,)."""
        files, contents = ([names[clip] for clip in index] for names in (self.files, self.contents))
        speakers = [self.speakers[clip] for clip in index] if self.speakers else ()
        return replace(self, files=files, contents=contents, labels=self.labels[index], speakers=speakers)

    def of_epoch(self, seed: int, epoch: int) -> Clips:
        """The clips as an epoch hears them: each as it is or as one of its versions, with equal chances."""
        if not self.versions:
            return self
        contents = sorted(set(self.contents))
        chosen = np.random.default_rng([seed, epoch, VERSION]).integers(0, len(self.versions) + 1, len(contents))
        every = (self.features, *self.versions)
        return replace(self, features=Chosen(dict(zip(contents, (every[place] for place in chosen), strict=True))))

    def frames(self) -> np.ndarray:
        """The number of each clip's frames, (clips,)."""
        return np.array([len(self.features[content]) for content in self.contents])


@dataclass(frozen=True)
class Batch:
    """A batch of clips.

    The three of enrolment clips are there in training where these have an encoder of their own, and `enrols` in
    training where the encoder is shared.

    Attributes:
        log_mel: (batch, frames, bands), dB.
        labels: (batch, labels), see `Task.labels`.
        index: (batch,), indices of the clips.
        speakers: (batch,), numbers of their speakers in sorted order.
        enrolment_index: (batch, shots), indices of the clips that enrol each clip.
        enrolment: (batch, shots, frames, bands), dB, of the clips that enrol.
        enrolment_labels: (batch, shots, labels), of the clips that enrol.
        enrols: (batch, batch), float32: in the row of a clip 1 at each clip that enrols it, else 0.
        groups: sizes of the groups, one after the other, within which clips enrol each other; empty: there are none.
    """

    log_mel: Tensor
    labels: Tensor
    index: np.ndarray
    speakers: Tensor | None = None
    enrolment_index: np.ndarray | None = None
    enrolment: Tensor | None = None
    enrolment_labels: Tensor | None = None
    enrols: Tensor | None = None
    groups: tuple[int, ...] = ()

    def to(self, device: str) -> Batch:
        """The batch with its tensors on that device."""
        tensors: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


def fill_frames(log_mel: np.ndarray, frames: int, fill: str) -> np.ndarray:
    """The first `frames` frames of a clip, filled at its end where it is shorter.

    Args:
        log_mel: (frames of the clip, bands), dB.
        frames: wanted.
        fill: zero, floor or repeat.

    Returns:
        (frames, bands), dB.
    """
    if len(log_mel) >= frames:
        return log_mel[:frames]
    filled = np.empty((frames, log_mel.shape[1]), log_mel.dtype)
    write_frames(filled, log_mel, fill)
    return filled


def write_frames(row: np.ndarray, log_mel: np.ndarray, fill: str) -> None:
    """Writes what `fill_frames` gives into `row`, (frames, bands)."""
    written = min(len(log_mel), len(row))
    row[:written] = log_mel[:written]
    if written < len(row) and fill != "repeat":
        row[written:] = 0.0 if fill == "zero" else FeatureConfig().floor_db
    while written < len(row) and fill == "repeat":  # what is written holds the clip a whole number of times
        copied = min(written, len(row) - written)
        row[written : written + copied] = row[:copied]
        written += copied


def first_frames(lengths: np.ndarray, places: np.ndarray, frames: int) -> np.ndarray:
    """The first frame of each crop.

    Args:
        lengths: (clips,), frames of each clip.
        places: (clips,), 0-1: where the crop begins, from the clip's first frame to the last possible one.
        frames: of a crop.

    Returns:
        (clips,), from 0.
    """
    firsts: np.ndarray = (places * (np.maximum(lengths - frames, 0) + 1)).astype(np.int64)
    return firsts


def evaluation_batches(
    clips: Clips, batch_size: int, min_frames: int, frames: np.ndarray | None = None, step: int = 1
) -> Iterator[Batch]:
    """Whole clips in batches of equal length, so that nothing is padded; a clip under `min_frames` is filled to that.

    Args:
        clips: of the split.
        batch_size: clips in a batch at most.
        min_frames: frames that the network needs.
        frames: (clips,), the length that each clip is first filled to with zeros (0 dB); None: its own.
        step: frames that the network takes at a time, see `Network.frame_step`; fewer at the end are left out.
    """
    frames = clips.frames() if frames is None else frames
    lengths = np.maximum(frames - frames % step, min_frames)
    for index in of_equal_length(lengths, batch_size):
        log_mels = [fill_frames(clips.features[clips.contents[clip]], frames[clip], "zero") for clip in index]
        batch = np.stack([fill_frames(log_mel, lengths[index[0]], clips.fill) for log_mel in log_mels])
        yield Batch(torch.from_numpy(batch).float(), torch.from_numpy(clips.labels[index]).float(), index)


def of_equal_length(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """The clips of each batch of `evaluation_batches`, (batch,), the shortest first; `lengths`: frames, (clips,)."""
    order = np.argsort(lengths, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]
