"""What training changes in a batch at random: warps of time and frequency, masks, mixtures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from exvo.batches.clips import Batch

MASKS = 2
"""Masks of bands, and of frames."""

MASK, MIX, WARP = 100, 101, 102
"""What a random generator is for: the last number of its seed, beside those of `exvo.batches.epoch`."""

BANDS_PER_E = 21.0
"""Bands by which a sound above 1 kHz moves whose frequencies are multiplied by e: 27 / ln 6.4 Slaney mels, 0.69 a band.

Below, where the mel scale is linear, it would be fewer."""


@dataclass(frozen=True)
class Augment:
    """How strongly training clips are changed; 0 changes nothing.

    Attributes:
        warp: largest change of pace and of pitch, as the logarithm of a factor.
        spec_augment: largest share of the bands, and of the frames, that a mask hides.
        mixup: both parameters of the Beta distribution of mixup.
    """

    warp: float = 0.0
    spec_augment: float = 0.0
    mixup: float = 0.0


class Augmentation:
    """The random changes of an epoch's batches: they depend on nothing but the arguments and the batches.

    Args:
        strengths: of each change.
        seed: of the run.
        epoch: 1 is the first.
    """

    def __init__(self, strengths: Augment, seed: int, epoch: int) -> None:
        self.strengths = strengths
        self._mask, self._mix, self._warp = (
            np.random.default_rng([seed, epoch, purpose]) for purpose in (MASK, MIX, WARP)
        )

    def __call__(self, batch: Batch) -> Batch:
        """The batch with the next changes; `batch` itself stays as it is.

        In a batch of people a person's clips keep one pitch, and are mixed with each other: a mixture of two people's
        clips has no speaker. No mixture then enrols one that has a clip in common with it, as no clip enrols itself.
        """
        strengths, log_mel, labels, enrols = self.strengths, batch.log_mel, batch.labels, batch.enrols
        people = None if enrols is None or batch.speakers is None else batch.speakers.cpu().numpy()
        if strengths.warp:
            log_mel = warp(log_mel, strengths.warp, people, self._warp)
        if strengths.spec_augment:
            log_mel = hide(log_mel, strengths.spec_augment, self._mask)
        if strengths.mixup:
            factor = self._mix.beta(strengths.mixup, strengths.mixup)
            drawn = draw_partners(len(labels), people, self._mix)
            partners = torch.from_numpy(drawn).to(labels.device)
            log_mel, labels = mixed(log_mel, partners, factor), mixed(labels, partners, factor)
            if enrols is not None:
                common = torch.from_numpy(have_clips_in_common(batch.index, drawn)).to(enrols.device)
                enrols = enrols.masked_fill(common, 0.0)
        return replace(batch, log_mel=log_mel, labels=labels, enrols=enrols)


def warp(log_mel: Tensor, most: float, people: np.ndarray | None, generator: np.random.Generator) -> Tensor:
    """Each clip from another frame on, at another pace and another pitch.

    The clip is read in a circle: what leaves at its end comes back at its beginning. Pitch moves all bands by the same
    number, as another length of the vocal tract does above 1 kHz (Jaitly and Hinton, 2013); beyond the lowest and the
    highest band these are repeated. Drawn on the CPU, so that a GPU changes the same.

    Args:
        log_mel: (batch, frames, bands), dB.
        most: largest logarithm of the factors of pace and of pitch.
        people: (batch,), numbers of the speakers, each of whom has one pitch; None: each clip has its own.
        generator: of random numbers.

    Returns:
        (batch, frames, bands), dB.
    """
    clips, frames, bands = log_mel.shape
    start = generator.integers(0, frames, (clips, 1))
    pace = np.exp(generator.uniform(-most, most, (clips, 1)))
    pitch = generator.uniform(-most, most, (clips, 1))
    if people is not None:
        pitch = pitch[np.unique(people, return_inverse=True)[1]]
    frame = torch.from_numpy((start + pace * np.arange(frames)) % frames).to(log_mel.device, torch.float32)
    band = torch.from_numpy((np.arange(bands) + BANDS_PER_E * pitch).clip(0, bands - 1)).to(
        log_mel.device, torch.float32
    )
    first = frame.long() % frames
    rows = torch.arange(clips, device=log_mel.device)[:, None]
    log_mel = log_mel[rows, first].lerp(log_mel[rows, (first + 1) % frames], (frame - first)[:, :, None])
    lower = band.long()
    below, above = (place[:, None, :].expand(-1, frames, -1) for place in (lower, (lower + 1).clamp(max=bands - 1)))
    return log_mel.gather(2, below).lerp(log_mel.gather(2, above), (band - lower)[:, None, :])


def draw_partners(clips: int, people: np.ndarray | None, generator: np.random.Generator) -> np.ndarray:
    """With which clip each clip of a batch is mixed: all clips are once a partner, if need be their own.

    Args:
        clips: of the batch.
        people: (clips,), numbers of the speakers, whose clips are mixed in pairs, so that each has a clip in common
            with one other alone; two clips of a person stay as they are, or none would be left to enrol them. None: any
            clips are mixed.
        generator: of random numbers.

    Returns:
        (clips,), indices.
    """
    if people is None:
        return generator.permutation(clips)
    partners = np.arange(clips)
    for person in np.unique(people):
        own = generator.permutation(np.flatnonzero(people == person))
        pairs = own[: len(own) // 2 * 2 if len(own) > 2 else 0].reshape(-1, 2)
        partners[pairs] = pairs[:, ::-1]
    return partners


def have_clips_in_common(index: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """Which mixtures of a batch have a clip in common.

    Args:
        index: (batch,), indices of the clips, of which one may occur twice.
        partners: (batch,), with which each is mixed.

    Returns:
        (batch, batch), symmetric.
    """
    parts = np.stack([index, index[partners]], axis=1)  # (batch, 2)
    common: np.ndarray = (parts[:, None, :, None] == parts[None, :, None, :]).any(axis=(2, 3))
    return common


def hide(log_mel: Tensor, share: float, generator: np.random.Generator) -> Tensor:
    """SpecAugment without warping (arXiv 1904.08779): two masks of bands and two of frames on each clip.

    What is masked becomes the mean of its band over the batch. The width of a mask is drawn from 0 to that share of the
    bands or frames, then its place. Drawn for each clip by itself, on the CPU, so that a GPU hides the same.

    Args:
        log_mel: (batch, frames, bands), dB.
        share: largest share that a mask hides, 0-1.
        generator: of random numbers.

    Returns:
        (batch, frames, bands), dB.
    """
    clips, frames, bands = log_mel.shape
    hidden_frames, hidden_bands = (
        draw_masks(clips, size, int(share * size), generator).to(log_mel.device) for size in (frames, bands)
    )
    hidden = hidden_frames[:, :, None] | hidden_bands[:, None, :]
    return torch.where(hidden, log_mel.mean(dim=(0, 1)), log_mel)


def draw_masks(clips: int, size: int, widest: int, generator: np.random.Generator) -> Tensor:
    """Masks on one axis: (clips, size), True where one of the two masks of a clip lies.

    Args:
        clips: how many.
        size: of the axis.
        widest: of a mask.
        generator: of random numbers.
    """
    widths = generator.integers(0, widest + 1, (clips, MASKS, 1))
    firsts = generator.integers(0, size - widths + 1)
    place = np.arange(size)
    return torch.from_numpy(((firsts <= place) & (place < firsts + widths)).any(axis=1))


def mixed(values: Tensor, partners: Tensor, factor: float) -> Tensor:
    """Mixup (arXiv 1710.09412): each row mixed with its partner's, which counts for 1 - factor.

    Args:
        values: (batch, ...).
        partners: (batch,), the row with which each row is mixed.
        factor: 0-1, the same for all.
    """
    return factor * values + (1 - factor) * values[partners]
