"""The clips of a split in the memory of a GPU: batches are gathered there, and training doesn't wait for the host.

What is drawn, and what a batch holds, is bit for bit what `exvo.batches.epoch` gives. Nothing here is special to CUDA,
so the tests run it on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from exvo.batches.clips import Batch, Clips, first_frames
from exvo.batches.epoch import draw_epoch, speaker_numbers
from exvo.config import CROP_FRAMES, FeatureConfig
from exvo.enrolment import Draw

SHARE = 0.5
"""Of the GPU's free memory, that the log-mels may take: the rest is for network, gradients and activations."""

UPLOADED = 2**20
"""Frames that are copied to the device at once: 256 MB."""


class Resident:
    """Clips on a device.

    Attributes:
        log_mels: (frames of all clips, bands), dB; of clips with the same content one.
        starts: (clips,), row of each clip's first frame.
        lengths: (clips,), frames of each.
    """

    def __init__(self, clips: Clips, device: str) -> None:
        self.clips, self.device = clips, device
        self.lengths = clips.frames()
        _, firsts, numbers = np.unique(np.asarray(clips.contents), return_index=True, return_inverse=True)
        ends = np.cumsum(self.lengths[firsts])
        self.starts = (ends - self.lengths[firsts])[numbers]
        bands = clips.features[clips.contents[0]].shape[1]
        self.log_mels = torch.empty(int(ends[-1]), bands, device=device)
        for chosen in np.split(firsts, np.flatnonzero(np.diff(ends // UPLOADED)) + 1):
            block = np.concatenate([clips.features[clips.contents[clip]] for clip in chosen])
            self.log_mels[self.starts[chosen[0]] :][: len(block)] = torch.from_numpy(block)
        self.labels = torch.from_numpy(clips.labels).float().to(device)
        known = speaker_numbers(clips)
        self.speakers = None if known is None else known.to(device)

    def batches(
        self, batch_size: int, seed: int, epoch: int, draw: Draw | None = None, frames: int = CROP_FRAMES
    ) -> Iterator[Batch]:
        """Those of `training_batches`, on the device; all that is drawn for the epoch is copied there at its start."""
        drawn = list(draw_epoch(self.clips, batch_size, seed, epoch, draw))
        index = np.concatenate([batch.index for batch in drawn])
        groups = [batch.groups for batch in drawn if batch.groups is not None]
        beside = np.concatenate(groups) if groups else np.zeros_like(index)
        main = self._upload(index, np.concatenate([batch.places for batch in drawn]), frames, beside)
        others = [batch.drawn.ravel() for batch in drawn if batch.drawn is not None]
        places = [batch.enrolment_places.ravel() for batch in drawn if batch.enrolment_places is not None]
        enrolling = self._upload(np.concatenate(others), np.concatenate(places), frames) if others else None
        start = 0
        for batch in drawn:
            stop = start + len(batch.index)
            clip, first, left, group = main[:, start:stop]
            speakers = None if self.speakers is None else self.speakers[clip]
            found = Batch(self._crops(first, left, frames), self.labels[clip], batch.index, speakers)
            if batch.groups is not None:
                found = replace(found, groups=group)
            if enrolling is not None and batch.drawn is not None:
                shots = batch.drawn.shape[1]
                clip, first, left, _ = enrolling[:, start * shots : stop * shots]
                enrolment = self._crops(first, left, frames).unflatten(0, (-1, shots))  # type: ignore[no-untyped-call]
                theirs = self.labels[clip].view(-1, shots, self.labels.shape[1])
                found = replace(found, drawn=batch.drawn, enrolment=enrolment, enrolment_labels=theirs)
            yield found
            start = stop

    def _upload(self, index: np.ndarray, places: np.ndarray, frames: int, beside: np.ndarray | None = None) -> Tensor:
        """For each crop of an epoch, on the device: its clip, its first row in `log_mels`, the clip's frames from there
        on, and what is given beside: (4, crops)."""
        first = first_frames(self.lengths[index], places, frames)
        rows = [index, self.starts[index] + first, self.lengths[index] - first, index if beside is None else beside]
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def _crops(self, first: Tensor, left: Tensor, frames: int) -> Tensor:
        """`exvo.batches.epoch.crops`, gathered on the device: (crops, frames, bands), dB.

        Args:
            first: (crops,), rows of `log_mels`.
            left: (crops,), frames of the clip from there on.
            frames: of a crop.
        """
        frame, left = torch.arange(frames, device=self.device), left[:, None]
        within = frame % left if self.clips.fill == "repeat" else torch.minimum(frame, left - 1)
        rows = (first[:, None] + within).flatten()
        found = self.log_mels.index_select(0, rows).view(len(first), frames, -1)
        if self.clips.fill != "repeat":
            fill = 0.0 if self.clips.fill == "zero" else FeatureConfig().floor_db
            found.masked_fill_((frame >= left)[..., None], fill)
        return found


def make_resident(clips: Clips, device: str, tell: Callable[[str], None] = print) -> Resident | None:
    """The clips on the GPU; None on the CPU, and, with a sentence, where the GPU has too little memory free."""
    if device == "cpu":
        return None
    contents = dict(zip(clips.contents, clips.frames().tolist(), strict=True))
    needed = 4 * sum(contents.values()) * clips.features[clips.contents[0]].shape[1]  # bytes
    free = free_memory(device)
    if needed > SHARE * free:
        tell(
            f"The log-mels of the training clips take {needed / 1e9:.1f} GB, more than half of the {free / 1e9:.1f} GB "
            "that the GPU has free, so they stay in the feature store and each batch is copied: training is slower."
        )
        return None
    return Resident(clips, device)


def free_memory(device: str) -> int:
    """Bytes that the GPU has free, with those that PyTorch keeps for later."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]
