"""Batches: random crops for training, groups of equal length for evaluation. Each draw has its own generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exvo.config import CROP_FRAMES, FeatureConfig
from exvo.enrolment import Draw, draw_clips, draw_groups

ORDER, CROP, ENROL, ENROL_CROP = range(4)  # what a generator is for: the last number of its seed


@dataclass(frozen=True)
class Clips:
    """The clips of a split, ready for batches.

    Attributes:
        files: name of each clip.
        contents: key of each clip's log-mel in `features`.
        features: content -> (frames, bands) in dB: the feature store, or a dict.
        labels: (clips, labels), see `Task.labels`.
        fill: what follows a short clip: zero (0 dB, as published), floor (-100 dB) or repeat (the clip again).
        speakers: speaker of each clip, '' where unknown; only what enrols needs them.
    """

    files: Sequence[str]
    contents: Sequence[str]
    features: Mapping[str, np.ndarray]
    labels: np.ndarray
    fill: str = "zero"
    speakers: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.contents)

    def take(self, index: np.ndarray) -> Clips:
        """Some of the clips: (clips,) indices."""
        files, contents = ([names[clip] for clip in index] for names in (self.files, self.contents))
        speakers = [self.speakers[clip] for clip in index] if self.speakers else ()
        return replace(self, files=files, contents=contents, labels=self.labels[index], speakers=speakers)

    def frames(self) -> np.ndarray:
        """Frames of each clip, (clips,)."""
        return np.array([len(self.features[content]) for content in self.contents])


@dataclass(frozen=True)
class Batch:
    """Clips of a batch.

    Attributes:
        log_mel: (batch, frames, bands), dB.
        labels: (batch, labels).
        index: (batch,), which clips they are.
        speakers: (batch,), numbers of their speakers in sorted order.
        drawn: (batch, shots), which clips enrol each, in training where a separate encoder takes them.
        enrolment: (batch, shots, frames, bands), dB, theirs.
        enrolment_labels: (batch, shots, labels), theirs.
        groups: (batch,), clips of one number enrol each other, in training where the encoder is shared.
    """

    log_mel: Tensor
    labels: Tensor
    index: np.ndarray
    speakers: Tensor | None = None
    drawn: np.ndarray | None = None
    enrolment: Tensor | None = None
    enrolment_labels: Tensor | None = None
    groups: Tensor | None = None

    def to(self, device: str) -> Batch:
        """The batch with its tensors on that device."""
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})


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
    """`fill_frames`, written into `row`, (frames, bands)."""
    known = min(len(log_mel), len(row))
    row[:known] = log_mel[:known]
    if known < len(row) and fill != "repeat":
        row[known:] = 0.0 if fill == "zero" else FeatureConfig().floor_db
    while known < len(row) and fill == "repeat":  # what is there already, once more: a whole number of clips
        copied = min(known, len(row) - known)
        row[known : known + copied] = row[:copied]
        known += copied


def first_frames(lengths: np.ndarray, places: np.ndarray, frames: int) -> np.ndarray:
    """Where crops of `frames` frames begin in clips of so many frames, at places 0-1: all (clips,)."""
    found: np.ndarray = (places * (np.maximum(lengths - frames, 0) + 1)).astype(np.int64)
    return found


def crops(clips: Clips, index: np.ndarray, places: np.ndarray, frames: int) -> Tensor:
    """A run of frames of each clip: (clips, frames, bands), dB; a shorter clip is filled at its end.

    Args:
        clips: of the split.
        index: (clips,), which.
        places: (clips,), 0-1: where the run begins, from the clip's first frame to the last possible one.
        frames: of the run.
    """
    log_mels = [clips.features[clips.contents[clip]] for clip in index]
    firsts = first_frames(np.array([len(log_mel) for log_mel in log_mels]), places, frames)
    batch = np.empty((len(index), frames, log_mels[0].shape[1]), np.float32)
    for row, log_mel, first in zip(batch, log_mels, firsts, strict=True):
        write_frames(row, log_mel[first:], clips.fill)
    return torch.from_numpy(batch)


def training_order(
    clips: Clips, batch_size: int, generator: np.random.Generator, draw: Draw | None
) -> list[list[np.ndarray]]:
    """The batches of an epoch, each a list of groups of clips: of one group, or, where clips enrol each other, more.

    A single clip that is left over joins the batch before it, because the CCC of one clip is undefined.
    """
    if draw is not None and draw.shared:
        size = draw.shots + 1
        groups, many = draw_groups(clips.speakers, size, generator), max(1, round(batch_size / size))
        return [groups[start : start + many] for start in range(0, len(groups), many)]
    order = generator.permutation(len(clips))
    bounds = list(range(0, len(order), batch_size))
    if len(bounds) > 1 and len(order) - bounds[-1] == 1:
        bounds.pop()
    return [[order[start:stop]] for start, stop in zip(bounds, [*bounds[1:], len(order)], strict=True)]


@dataclass(frozen=True)
class Drawn:
    """What of a training batch is drawn, before any log-mel is read.

    Attributes:
        index: (batch,), which clips they are.
        places: (batch,), 0-1: where their crops begin.
        groups: (batch,), see `Batch`.
        drawn: (batch, shots), see `Batch`.
        enrolment_places: (batch, shots), 0-1: where the crops of the drawn clips begin.
    """

    index: np.ndarray
    places: np.ndarray
    groups: np.ndarray | None = None
    drawn: np.ndarray | None = None
    enrolment_places: np.ndarray | None = None


def draw_epoch(clips: Clips, batch_size: int, seed: int, epoch: int, draw: Draw | None) -> Iterator[Drawn]:
    """The batches of an epoch: all clips once, in random order. A pure function of seed and epoch.

    Where clips enrol each other, a batch holds whole groups of a speaker's clips, and about `batch_size` clips.
    """
    order, crop, enrol, enrol_crop = (
        np.random.default_rng([seed, epoch, purpose]) for purpose in (ORDER, CROP, ENROL, ENROL_CROP)
    )
    places = crop.random(len(clips))
    everyone = draw_clips(clips.speakers, draw, enrol) if draw is not None and not draw.shared else None
    for groups in training_order(clips, batch_size, order, draw):
        index = np.concatenate(groups)
        batch = Drawn(index, places[index])
        if draw is not None and draw.shared:
            batch = replace(batch, groups=np.repeat(np.arange(len(groups)), [len(group) for group in groups]))
        elif everyone is not None:
            drawn = everyone[index]
            batch = replace(batch, drawn=drawn, enrolment_places=enrol_crop.random(drawn.shape))
        yield batch


def speaker_numbers(clips: Clips) -> Tensor | None:
    """The number of each clip's speaker in sorted order, (clips,); None where nobody is known."""
    numbers = np.unique(np.asarray(clips.speakers, str), return_inverse=True)[1]
    return torch.from_numpy(numbers) if len(numbers) else None


def training_batches(
    clips: Clips, batch_size: int, seed: int, epoch: int, draw: Draw | None = None, frames: int = CROP_FRAMES
) -> Iterator[Batch]:
    """The batches of `draw_epoch`, each clip as a random crop of `frames` frames."""
    numbers = speaker_numbers(clips)
    for chosen in draw_epoch(clips, batch_size, seed, epoch, draw):
        index, drawn, places = chosen.index, chosen.drawn, chosen.enrolment_places
        labels = torch.from_numpy(clips.labels[index]).float()
        speakers = None if numbers is None else numbers[index]
        groups = None if chosen.groups is None else torch.from_numpy(chosen.groups)
        batch = Batch(crops(clips, index, chosen.places, frames), labels, index, speakers, groups=groups)
        if drawn is not None and places is not None:
            enrolment = crops(clips, drawn.ravel(), places.ravel(), frames)
            batch = replace(
                batch,
                drawn=drawn,
                enrolment=enrolment.view(*drawn.shape, *enrolment.shape[1:]),
                enrolment_labels=torch.from_numpy(clips.labels[drawn]).float(),
            )
        yield batch


def evaluation_batches(
    clips: Clips, batch_size: int, min_frames: int, frames: np.ndarray | None = None
) -> Iterator[Batch]:
    """Whole clips in batches of equal length, so that nothing is padded; one under `min_frames` is filled to that.

    Args:
        clips: of the split.
        batch_size: clips in a batch at most.
        min_frames: that the network needs.
        frames: (clips,), the length that each clip is first filled to with zeros (0 dB); None: its own.
    """
    frames = clips.frames() if frames is None else frames
    lengths = np.maximum(frames, min_frames)
    order = np.argsort(lengths, kind="stable")
    edges = np.flatnonzero(np.diff(lengths[order])) + 1
    for group in np.split(order, edges):
        for start in range(0, len(group), batch_size):
            index = group[start : start + batch_size]
            log_mels = [fill_frames(clips.features[clips.contents[clip]], frames[clip], "zero") for clip in index]
            batch = np.stack([fill_frames(log_mel, lengths[index[0]], clips.fill) for log_mel in log_mels])
            yield Batch(torch.from_numpy(batch), torch.from_numpy(clips.labels[index]).float(), index)
