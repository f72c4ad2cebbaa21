"""A use of enrolment clips that needs no training: what a model says too often of a person, it says less often."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CHANCES = 0.5
"""So many times chance is added to a speaker's mean shares, or those near 0 would decide everything."""


def correction_power(shots: int) -> float:
    """How strongly the shares of a clip are corrected by so many enrolment clips of its speaker: 0.15 log2(2 clips).

    Through 0.3 for two clips and 0.6 for eight, which served best on EmoGator (docs/explanation/enrolment.md);
    0 for none.

    >>> [round(correction_power(shots), 2) for shots in (0, 1, 2, 4, 8, 16)]
    [0.0, 0.15, 0.3, 0.45, 0.6, 0.75]
    """
    return 0.15 * math.log2(2 * shots) if shots else 0.0


def correct_shares(
    shares: np.ndarray, enrolment: Sequence[np.ndarray], power: float | Sequence[float] | np.ndarray
) -> np.ndarray:
    """The shares of each clip, divided by what the model says of its speaker's clips, then scaled to sum to 1.

    share / (mean share over the clips that enrol + half of chance) ** power; chance is 1 / categories.

    Args:
        shares: (clips, categories), of a model that does not know the speaker; each row sums to 1.
        enrolment: for each clip the indices of the clips that enrol its speaker; where empty, nothing changes.
        power: of the correction, one for all clips or (clips,); 0 changes nothing.

    Returns:
        (clips, categories).
    """
    chance = 1 / shares.shape[1]
    means = np.stack([shares[own].mean(axis=0) if len(own) else np.full(shares.shape[1], chance) for own in enrolment])
    powers = np.broadcast_to(np.asarray(power, dtype=np.float64), len(shares))[:, None]
    corrected = shares / (means + CHANCES * chance) ** powers
    normalised: np.ndarray = corrected / corrected.sum(axis=1, keepdims=True)
    return normalised
