"""The clips of an inference in parts, which the workers of a cluster compute as this machine would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from exvo.batches.clips import Clips, of_equal_length
from exvo.cluster import share_out
from exvo.features.store import Store
from exvo.progress import counting

PART_CLIPS = 256
"""Clips, or some more up to the end of a batch, that a worker takes at a time."""

TOLERANCE = "by a thousandth of the largest number"
"""How far the outputs of machines of other kinds lie apart at most."""


@dataclass(frozen=True)
class ClipsPart:
    """Applies a network's function to some of the clips.

    Attributes:
        apply: `exvo.networks.inference.apply_to_clips`, whose arguments the others are.
    """

    apply: Callable[..., np.ndarray]
    function: Callable[[Tensor, np.ndarray], Tensor]
    clips: Clips
    min_frames: int
    device: str
    batch_size: int
    frames: np.ndarray | None
    step: int

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """The results (clips, numbers) of the clips with these indices."""
        clips, frames = self.clips.take(index), None if self.frames is None else self.frames[index]
        if isinstance(clips.features, Store):
            clips.features.wait_for(clips.contents)

        def function(log_mel: Tensor, places: np.ndarray) -> Tensor:
            return self.function(log_mel, index[places])

        return self.apply(function, clips, self.min_frames, self.device, self.batch_size, frames=frames, step=self.step)

    def parts(self) -> list[np.ndarray]:
        """The indices of the clips of each part: whole batches, which are the same batches again within the part."""
        frames = self.clips.frames() if self.frames is None else self.frames
        lengths = np.maximum(frames - frames % self.step, self.min_frames)
        parts: list[list[np.ndarray]] = [[]]
        for batch in of_equal_length(lengths, self.batch_size):
            if sum(map(len, parts[-1])) >= PART_CLIPS:
                parts.append([])
            parts[-1].append(batch)
        return [np.concatenate(part) for part in parts]


def apply_on_cluster(cluster: str, work: ClipsPart, progress: str) -> np.ndarray:
    """The results (clips, numbers) of all clips, by the workers of a cluster.

    Args:
        cluster: address of the scheduler.
        work: to be done.
        progress: label of the progress bar; empty: no bar.

    Raises:
        InputError: the cluster can't be used.
    """
    parts, store = work.parts(), work.clips.features
    shards = [str(path.absolute()) for path in store.folder.glob("*.arrow")] if isinstance(store, Store) else []
    with counting(progress, len(work.clips), "clip") as done:
        results = share_out(
            cluster, work, parts, what="inference", done=done, files=shards, device=work.device, tolerance=TOLERANCE
        )
    in_parts = np.concatenate(results)
    in_order = np.empty_like(in_parts)
    in_order[np.concatenate(parts)] = in_parts
    return in_order
