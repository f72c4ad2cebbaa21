"""The output as a chain: each emotion is given those before it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from exvo.networks.cnn import make_linear


class Chain(nn.Module):
    """A linear output for each emotion on the embedding and on the outputs before it, each through tanh.

    Chains of emotions are from arXiv 2206.10695 (ExVo 2022) and 2303.08027 (A-VB 2022). Ours are the order, see
    `chain_places`, and tanh, without which a chain of linear outputs would be one linear layer.

    Args:
        embedding: numbers of the embedding.
        outputs: emotions.
    """

    place: Tensor
    """The place of each emotion in the chain, (outputs,): whole numbers from 0."""

    def __init__(self, embedding: int, outputs: int) -> None:
        super().__init__()
        self.linear = make_linear(embedding, outputs)
        self.links = nn.Parameter(torch.zeros(outputs, outputs))  # row: an emotion; column: what it is given
        self.register_buffer("place", torch.arange(outputs, dtype=torch.float32))

    @property
    def bias(self) -> Tensor:
        """Of the outputs, (outputs,)."""
        bias: Tensor = self.linear.bias
        return bias

    def forward(self, embedding: Tensor) -> Tensor:
        """The outputs: (batch, embedding) -> (batch, outputs)."""
        order = self.place.argsort()
        alone = self.linear(embedding).float()[:, order]
        links = self.links[order][:, order]
        chained = alone[:, :1]
        for step in range(1, alone.shape[1]):
            given = (chained.tanh() * links[step, :step]).sum(dim=1, keepdim=True)
            chained = torch.cat([chained, alone[:, step : step + 1] + given], dim=1)
        outputs: Tensor = chained[:, order.argsort()]
        return outputs


def chain_places(labels: np.ndarray) -> np.ndarray:
    """The place of each emotion in a chain: first what tells most about the others in training.

    Emotions are ordered by the sum of the magnitudes of their correlations (Pearson's) with all others, the largest
    first; a constant one has none and comes last. Equal ones stay in the order of the corpus.

    Args:
        labels: (clips, emotions), of training.

    Returns:
        (emotions,), whole numbers from 0.

    >>> chain_places(np.array([[1, 5, 0], [2, 5, 2], [3, 5, 1], [4, 5, 3]])).tolist()
    [0, 2, 1]
    """
    centred = labels - labels.mean(axis=0)
    lengths = np.sqrt(np.square(centred).sum(axis=0))
    unit = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
    strengths = np.abs(unit.T @ unit).sum(axis=1).round(9)  # each with itself too, which is 1 but for constant ones
    places = np.empty(labels.shape[1], np.int64)
    places[np.argsort(-strengths, kind="stable")] = np.arange(labels.shape[1])
    return places
