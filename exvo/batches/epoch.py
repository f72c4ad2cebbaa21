"""One epoch of training batches: the order of the clips, their crops, and who enrols whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from exvo.batches.clips import Batch, Clips, first_frames, write_frames
from exvo.config import CROP_FRAMES
from exvo.enrolment import Draw, draw_clips, draw_groups

ORDER, CROP, ENROL, ENROL_CROP = range(4)  # what a generator is for: the last number of its seed


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
