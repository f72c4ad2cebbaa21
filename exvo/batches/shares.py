"""How a training batch is shared out: consecutive clips to each rank, groups that enrol each other whole on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from exvo.batches.clips import Batch

FEWEST = 2
"""Clips of a rank in a batch: batch norm has no statistics of a single one."""


def share_counts(batch: Batch, ranks: int) -> list[int] | None:
    """The clips that each rank computes of a batch, about as many each.

    Args:
        batch: the whole.
        ranks: their number.

    Returns:
        (ranks,); None where the batch is too small, or its groups too few, to give each rank two clips: then every rank
        computes the whole of it.
    """
    sizes = np.array(batch.groups or [1] * len(batch.index))
    ends = np.cumsum(sizes)
    wanted = ends[-1] * np.arange(1, ranks) / ranks
    cuts = ends[np.abs(ends[:, None] - wanted).argmin(axis=0)]
    counts = np.diff([0, *cuts.tolist(), ends[-1]])
    return counts.tolist() if (counts >= FEWEST).all() else None


def share_of(batch: Batch, counts: Sequence[int], rank: int) -> Batch:
    """The part of a batch that a rank computes, see `share_counts`."""
    own = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    return replace(
        batch,
        log_mel=batch.log_mel[own],
        labels=batch.labels[own],
        index=batch.index[own],
        speakers=None if batch.speakers is None else batch.speakers[own],
        enrolment_index=None if batch.enrolment_index is None else batch.enrolment_index[own],
        enrolment=None if batch.enrolment is None else batch.enrolment[own],
        enrolment_labels=None if batch.enrolment_labels is None else batch.enrolment_labels[own],
        enrols=None if batch.enrols is None else batch.enrols[own, own],
        groups=(),
    )
