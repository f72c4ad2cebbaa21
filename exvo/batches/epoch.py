"""One epoch of training batches: the order of the clips, their crops, and who enrols whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from exvo.batches.clips import Batch, Clips, first_frames, write_frames
from exvo.batches.people import draw_enrols, draw_people, fill_batches
from exvo.config import CROP_FRAMES
from exvo.enrolment import Draw, draw_clips, draw_groups

ORDER, CROP, ENROL, ENROL_CROP = range(4)
"""What a random generator is for: the last number of its seed."""


def crops(clips: Clips, index: np.ndarray, places: np.ndarray, frames: int) -> Tensor:
    """A crop of each clip; a shorter clip is filled at its end.

    Args:
        clips: of the split.
        index: (crops,), indices of the clips.
        places: (crops,), 0-1: where the crop begins, from the clip's first frame to the last possible one.
        frames: of a crop.

    Returns:
        (crops, frames, bands), dB.
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
    """The batches of an epoch, each a list of groups of clips' indices.

    Where clips enrol each other, those of a group do, and a batch has several groups; elsewhere it has one group. Where
    the clips are balanced, as many as there are are drawn, each category as often, a clip several times or not at all.
    A single clip that is left over joins the batch before it, because the CCC of one clip is undefined.
    """
    if draw is not None and draw.people:
        categories = clips.labels[:, : draw.categories].argmax(axis=1) if draw.categories else None
        return fill_batches(
            draw_people(clips.speakers, categories, draw.people, generator, bool(clips.balanced)), batch_size
        )
    if draw is not None and draw.shared:
        size = draw.shots + 1
        groups = draw_groups(clips.speakers, size, generator)
        per_batch = max(1, round(batch_size / size))
        return [groups[start : start + per_batch] for start in range(0, len(groups), per_batch)]
    order = generator.permutation(len(clips))
    if clips.balanced:
        codes = clips.labels[:, : clips.balanced].argmax(axis=1)
        order = generator.choice(order, len(order), p=1 / np.bincount(codes)[codes[order]] / len(set(codes.tolist())))
    bounds = list(range(0, len(order), batch_size))
    if len(bounds) > 1 and len(order) - bounds[-1] == 1:
        bounds.pop()
    return [[order[start:stop]] for start, stop in zip(bounds, [*bounds[1:], len(order)], strict=True)]


@dataclass(frozen=True)
class DrawnBatch:
    """The clips and crops that are drawn for a training batch, before any log-mel is read.

    Attributes:
        index: (batch,), indices of the clips.
        places: (batch,), 0-1: where their crops begin.
        enrols: (batch, batch), see `Batch`.
        enrolment_index: (batch, shots), see `Batch`.
        enrolment_places: (batch, shots), 0-1: where the crops of the clips that enrol begin.
        groups: see `Batch`.
    """

    index: np.ndarray
    places: np.ndarray
    enrols: np.ndarray | None = None
    enrolment_index: np.ndarray | None = None
    enrolment_places: np.ndarray | None = None
    groups: tuple[int, ...] = ()


def draw_epoch(clips: Clips, batch_size: int, seed: int, epoch: int, draw: Draw | None) -> Iterator[DrawnBatch]:
    """The batches of an epoch: all clips once, in random order. They depend on nothing but the arguments.

    Where clips enrol each other, a batch holds whole groups of a speaker's clips, and about `batch_size` clips. In
    batches of people (`draw_people`) a clip may occur more than once in an epoch, each time as another crop, or not at
    all.
    """
    order, crop, enrol, enrol_crop = (
        np.random.default_rng([seed, epoch, purpose]) for purpose in (ORDER, CROP, ENROL, ENROL_CROP)
    )
    people = draw is not None and draw.people > 0
    places = np.zeros(0) if people else crop.random(len(clips))
    enrolment_index = draw_clips(clips.speakers, draw, enrol) if draw is not None and not draw.shared else None
    for groups in training_order(clips, batch_size, order, draw):
        index = np.concatenate(groups)
        batch = DrawnBatch(index, crop.random(len(index)) if people else places[index])
        if draw is not None and draw.shared:
            sizes = tuple(len(group) for group in groups)
            batch = replace(batch, enrols=draw_enrols(sizes, draw.people, enrol), groups=sizes)
        elif enrolment_index is not None:
            enrolling = enrolment_index[index]
            batch = replace(batch, enrolment_index=enrolling, enrolment_places=enrol_crop.random(enrolling.shape))
        yield batch


def speaker_numbers(clips: Clips) -> Tensor | None:
    """The number of each clip's speaker in sorted order, (clips,); None if the clips have no speakers."""
    numbers = np.unique(np.asarray(clips.speakers, str), return_inverse=True)[1]
    return torch.from_numpy(numbers) if len(numbers) else None


def training_batches(
    clips: Clips, batch_size: int, seed: int, epoch: int, draw: Draw | None = None, frames: int = CROP_FRAMES
) -> Iterator[Batch]:
    """The batches of `draw_epoch`, each clip as a random crop of `frames` frames."""
    numbers = speaker_numbers(clips)
    for drawn in draw_epoch(clips, batch_size, seed, epoch, draw):
        index, enrolling, places = drawn.index, drawn.enrolment_index, drawn.enrolment_places
        labels = torch.from_numpy(clips.labels[index]).float()
        speakers = None if numbers is None else numbers[index]
        enrols = None if drawn.enrols is None else torch.from_numpy(drawn.enrols)
        log_mel = crops(clips, index, drawn.places, frames)
        batch = Batch(log_mel, labels, index, speakers, enrols=enrols, groups=drawn.groups)
        if enrolling is not None and places is not None:
            enrolment = crops(clips, enrolling.ravel(), places.ravel(), frames)
            batch = replace(
                batch,
                enrolment_index=enrolling,
                enrolment=enrolment.view(*enrolling.shape, *enrolment.shape[1:]),
                enrolment_labels=torch.from_numpy(clips.labels[enrolling]).float(),
            )
        yield batch
