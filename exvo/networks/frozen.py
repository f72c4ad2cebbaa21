"""Encoders of features of whole clips, which stay as they are (`frozen`), and of nothing at all (`prior`)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exvo.batches.clips import Clips

EMBEDDING = 256
"""Numbers of an embedding at width 1."""

LIMIT = 5.0
"""Deviations beyond which a standardised number is cut: a few clips have some of a hundred and more."""

INPUT_DROPOUT = 0.5
"""Of the standardised numbers: there are many more of them than clips in a small corpus."""

ROUNDING = 1e-6
"""A number whose deviation is no larger share of its mean is constant but for rounding."""

CHUNK = 64
"""Clips that are standardised at once."""


class Frozen(nn.Module):
    """Features of whole clips, such as all hidden states of a pretrained encoder, through one hidden layer.

    Each number is standardised by its mean and deviation over the training clips; the layers are added with learnt
    weights, which are a softmax (as in arXiv 1802.05365 and 2105.01051); LayerNorm; a hidden layer with ReLU. What is
    constant in training becomes 0.

    Args:
        inputs: layers and numbers of a clip's features.
        width: multiplier of the hidden layer.
        members: hidden layers side by side, each of which makes a part of the embedding, see `exvo.networks.members`.
    """

    min_frames = frame_step = 1
    """The features of a clip always have the same shape."""

    mean: Tensor
    scale: Tensor

    def __init__(self, inputs: tuple[int, int], width: float = 1.0, members: int = 1) -> None:
        super().__init__()
        layers, numbers = inputs
        self.size = members * max(4, round(EMBEDDING * width))
        self.register_buffer("mean", torch.zeros(layers, numbers))
        self.register_buffer("scale", torch.ones(layers, numbers))  # 1 / deviation; 0 where that is 0
        self.layer_weights = nn.Parameter(torch.zeros(layers))
        self.norm = nn.LayerNorm(numbers)
        self.hidden = nn.Linear(numbers, self.size)

    def standardise_by(self, clips: Clips) -> None:
        """Takes the mean and the deviation of each number from these clips, those of training."""
        mean, deviation = statistics(clips)
        varies = deviation > ROUNDING * np.abs(mean)
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(scale))

    def forward(self, features: Tensor) -> Tensor:
        """The embeddings of clips: (batch, layers, numbers) -> (batch, embedding), 256 numbers a member at width 1."""
        x = ((features - self.mean) * self.scale).clamp(-LIMIT, LIMIT)
        x = functional.dropout(x, INPUT_DROPOUT, self.training)
        x = (self.layer_weights.softmax(dim=0)[:, None] * x).sum(dim=1)
        return functional.relu(self.hidden(self.norm(x)))


class Prior(nn.Module):
    """No encoder: each clip's embedding is one number, 0, so that the output is its bias."""

    min_frames = frame_step = 1
    size = 1

    def forward(self, features: Tensor) -> Tensor:
        """The embeddings of clips: (batch, frames, bands) -> (batch, 1)."""
        return features.new_zeros(len(features), 1)


def statistics(clips: Clips) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the deviation (ddof 0) of each number over clips whose features have a fixed shape.

    Computed relative to the first clip, so that the deviation of what is constant is exactly 0.

    Returns:
        Twice float64 (layers, numbers).
    """
    first = clips.features[clips.contents[0]].astype(np.float64)
    total, squares = np.zeros_like(first), np.zeros_like(first)
    for start in range(0, len(clips), CHUNK):
        chunk = np.stack([clips.features[content] for content in clips.contents[start : start + CHUNK]]) - first
        total += chunk.sum(axis=0)
        squares += np.square(chunk).sum(axis=0)
    mean = total / len(clips)
    return first + mean, np.sqrt(np.maximum(squares / len(clips) - np.square(mean), 0.0))
