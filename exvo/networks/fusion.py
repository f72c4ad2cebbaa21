"""How a speaker's profile reaches the output: attention, relative, film. Also the scaling of the heads' gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from exvo.networks.cnn import make_linear


class ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor: reversal where it is negative (arXiv 1409.7495)."""

    @staticmethod
    def forward(context: Any, x: Tensor, factor: float) -> Tensor:
        """The input as it is."""
        context.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient times the factor."""
        return gradient * context.factor, None


class Attention(nn.Module):
    """Softmax attention over the features of the embedding, with a residual (arXiv 2206.06680).

    The profile through a linear layer, ReLU and softmax weighs each feature; the embedding itself is added. With
    LayerNorm n = before(z) stands for the embedding z throughout, and the result is n + after(w * n).
    """

    def __init__(self, embedding: int, profile: int, layer_norm: bool) -> None:
        super().__init__()
        self.weigh = nn.Linear(profile, embedding)
        self.before = nn.LayerNorm(embedding) if layer_norm else nn.Identity()
        self.after = nn.LayerNorm(embedding) if layer_norm else nn.Identity()

    def forward(self, embedding: Tensor, profile: Tensor) -> Tensor:
        """The attended embeddings: (batch, embedding) and (batch, profile) -> (batch, embedding)."""
        weights = functional.relu(self.weigh(profile)).softmax(dim=1)
        normalised: Tensor = self.before(embedding)
        attended: Tensor = normalised + self.after(weights * normalised)
        return attended


class Relative(nn.Module):
    """The embedding beside its difference to the profile, which the same encoder made, through a layer with ReLU.

    Without the layer the output would be linear in both, so that the speaker could only add an offset.
    """

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.compare = make_linear(2 * embedding, embedding)

    def forward(self, embedding: Tensor, profile: Tensor) -> Tensor:
        """The embeddings relative to the profiles: (batch, embedding) and (batch, profile) -> (batch, embedding)."""
        return functional.relu(self.compare(torch.cat([embedding, embedding - profile], dim=1)))


class Film(nn.Module):
    """Each channel of the embedding scaled and shifted from the profile (arXiv 1709.07871); starts as the identity."""

    def __init__(self, embedding: int, profile: int) -> None:
        super().__init__()
        self.scale_shift = nn.Linear(profile, 2 * embedding)
        nn.init.zeros_(self.scale_shift.weight)
        nn.init.zeros_(self.scale_shift.bias)

    def forward(self, embedding: Tensor, profile: Tensor) -> Tensor:
        """The scaled and shifted embeddings: (batch, embedding) and (batch, profile) -> (batch, embedding)."""
        scale, shift = self.scale_shift(profile).chunk(2, dim=1)
        modulated: Tensor = embedding * (1 + scale) + shift
        return modulated
