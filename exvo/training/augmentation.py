"""What training changes in a batch at random: SpecAugment and mixup."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from exvo.batches.clips import Batch

MASKS = 2
"""Masks of bands, and of frames."""

MASK, MIX = 100, 101
"""What a random generator is for: the last number of its seed, beside those of `exvo.batches.epoch`."""


class Augmentation:
    """The random changes of an epoch's batches: they depend on nothing but the arguments and the sizes of the batches.

    Args:
        spec_augment: largest share of the bands, and of the frames, that a mask hides; 0: none.
        mixup: both parameters of the Beta distribution of mixup; 0: none.
        seed: of the run.
        epoch: 1 is the first.
    """

    def __init__(self, spec_augment: float, mixup: float, seed: int, epoch: int) -> None:
        self.spec_augment, self.mixup = spec_augment, mixup
        self._mask, self._mix = (np.random.default_rng([seed, epoch, purpose]) for purpose in (MASK, MIX))

    def __call__(self, batch: Batch) -> Batch:
        """The batch with the next changes; `batch` itself stays as it is."""
        if self.spec_augment:
            batch = replace(batch, log_mel=hide(batch.log_mel, self.spec_augment, self._mask))
        if self.mixup:
            factor = self._mix.beta(self.mixup, self.mixup)
            partners = torch.from_numpy(self._mix.permutation(len(batch.index))).to(batch.labels.device)
            batch = replace(
                batch,
                log_mel=mixed(batch.log_mel, partners, factor),
                labels=mixed(batch.labels, partners, factor),
            )
        return batch


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
