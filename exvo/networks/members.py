"""Members: networks side by side on the same input, trained each for itself, whose outputs are averaged.

Their errors differ, so the mean is better than each (deep ensembles, arXiv 1612.01474). Each has a part of the
embedding, and a fusion and an output of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from exvo.networks.resnet import ResNet


class Members(nn.ModuleList):
    """A module for each member, which takes the member's part of each input."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the members make, side by side: (batch, members x inputs), ... -> (batch, members x outputs)."""
        parts = zip(*(each.chunk(len(self), dim=1) for each in inputs), strict=True)
        return torch.cat([member(*part) for member, part in zip(self, parts, strict=True)], dim=1)


class SameInput(nn.ModuleList):
    """Encoders of one kind, each of which hears the clips whole.

    Args:
        members: the encoders, two or more.
    """

    def __init__(self, members: Iterable[ResNet]) -> None:
        encoders = list(members)
        super().__init__(encoders)
        self.size = sum(encoder.size for encoder in encoders)
        self.min_frames, self.frame_step = encoders[0].min_frames, encoders[0].frame_step

    def forward(self, log_mel: Tensor) -> Tensor:
        """The embeddings of all, side by side: (batch, frames, bands) -> (batch, members x embedding)."""
        return torch.cat([member(log_mel) for member in self], dim=1)


def side_by_side(members: int, make: Callable[[], nn.Module]) -> nn.Module:
    """The modules of so many members; of one the module itself."""
    return make() if members == 1 else Members(make() for _ in range(members))


def average(outputs: Tensor, members: int) -> Tensor:
    """The mean over the members: (batch, members x outputs) -> (batch, outputs)."""
    return outputs if members == 1 else outputs.view(len(outputs), members, -1).mean(dim=1)
