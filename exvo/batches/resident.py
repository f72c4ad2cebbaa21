"""The clips of a split in the memory of a GPU: batches are gathered there, and training doesn't wait for the host.

The batches are equal bit for bit to those of `exvo.batches.epoch`. Nothing here is special to CUDA, so the tests run it
on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from exvo.batches.clips import Batch, Clips, first_frames
from exvo.batches.epoch import DrawnBatch, draw_epoch, speaker_numbers
from exvo.config import CROP_FRAMES, FeatureConfig
from exvo.enrolment import Draw

MEMORY_SHARE = 0.5
"""Of the GPU's free memory, for the log-mels: the rest is for network, gradients and activations."""

UPLOAD_FRAMES = 2**20
"""Frames that are copied to the device at once: 256 MB."""


@dataclass(frozen=True)
class DeviceCrops:
    """Where crops lie in the log-mels on the device.

    Attributes:
        clips: (crops,), indices of the clips.
        rows: (crops,), rows of the crops' first frames in `ResidentClips.log_mels`.
        frames: (crops,), frames of the clip from there on.
    """

    clips: Tensor
    rows: Tensor
    frames: Tensor

    def part(self, start: int, stop: int) -> DeviceCrops:
        """The crops from `start` up to `stop`."""
        return DeviceCrops(*(each[start:stop] for each in (self.clips, self.rows, self.frames)))


class ResidentClips:
    """Clips whose log-mels and labels are on a device.

    Attributes:
        clips: the clips themselves.
        log_mels: (frames of all clips, bands), dB; clips with the same content share theirs.
        starts: (clips,), row of each clip's first frame in `log_mels`.
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
        for uploaded in np.split(firsts, np.flatnonzero(np.diff(ends // UPLOAD_FRAMES)) + 1):
            block = np.concatenate([clips.features[clips.contents[clip]] for clip in uploaded])
            self.log_mels[self.starts[uploaded[0]] :][: len(block)] = torch.from_numpy(block)
        self.labels = torch.from_numpy(clips.labels).float().to(device)
        speakers = speaker_numbers(clips)
        self.speakers = None if speakers is None else speakers.to(device)

    def batches(
        self, batch_size: int, seed: int, epoch: int, draw: Draw | None = None, frames: int = CROP_FRAMES
    ) -> Iterator[Batch]:
        """The batches of `training_batches`, on the device.

        All clips and crops that are drawn for the epoch are copied there at its start.
        """
        drawn_batches = list(draw_epoch(self.clips, batch_size, seed, epoch, draw))
        main, enrolling = self._upload(drawn_batches, frames), self._upload_enrolment(drawn_batches, frames)
        enrols = self._upload_enrols(drawn_batches)
        start = 0
        for drawn in drawn_batches:
            stop = start + len(drawn.index)
            chosen = main.part(start, stop)
            speakers = None if self.speakers is None else self.speakers[chosen.clips]
            batch = Batch(self._crops(chosen, frames), self.labels[chosen.clips], drawn.index, speakers)
            if enrols:
                batch = replace(batch, enrols=enrols.pop(0), groups=drawn.groups)
            if enrolling is not None and drawn.enrolment_index is not None:
                shots = drawn.enrolment_index.shape[1]
                chosen = enrolling.part(start * shots, stop * shots)
                batch = replace(
                    batch,
                    enrolment_index=drawn.enrolment_index,
                    enrolment=self._crops(chosen, frames).unflatten(0, (-1, shots)),  # type: ignore[no-untyped-call]
                    enrolment_labels=self.labels[chosen.clips].view(-1, shots, self.labels.shape[1]),
                )
            yield batch
            start = stop

    def _upload(self, batches: Sequence[DrawnBatch], frames: int) -> DeviceCrops:
        """The crops of an epoch's clips."""
        index = np.concatenate([batch.index for batch in batches])
        return self._upload_crops(index, np.concatenate([batch.places for batch in batches]), frames)

    def _upload_enrols(self, batches: Sequence[DrawnBatch]) -> list[Tensor]:
        """Which clips of each batch enrol which, copied in one block; empty where clips don't enrol each other."""
        enrols = [batch.enrols for batch in batches if batch.enrols is not None]
        if not enrols:
            return []
        block = torch.from_numpy(np.concatenate([each.ravel() for each in enrols])).to(self.device)
        parts = torch.split(block, [each.size for each in enrols])
        return [part.view(each.shape) for each, part in zip(enrols, parts, strict=True)]

    def _upload_enrolment(self, batches: Sequence[DrawnBatch], frames: int) -> DeviceCrops | None:
        """The crops of an epoch's enrolment clips; None where none are drawn."""
        index = [batch.enrolment_index.ravel() for batch in batches if batch.enrolment_index is not None]
        places = [batch.enrolment_places.ravel() for batch in batches if batch.enrolment_places is not None]
        if not index:
            return None
        return self._upload_crops(np.concatenate(index), np.concatenate(places), frames)

    def _upload_crops(self, index: np.ndarray, places: np.ndarray, frames: int) -> DeviceCrops:
        """Crops, on the device, copied in one block; `index` and `places` are (crops,)."""
        firsts = first_frames(self.lengths[index], places, frames)
        block = np.stack([index, self.starts[index] + firsts, self.lengths[index] - firsts])
        return DeviceCrops(*torch.from_numpy(block).to(self.device))

    def _crops(self, crops: DeviceCrops, frames: int) -> Tensor:
        """What `exvo.batches.epoch.crops` gives, gathered on the device: (crops, frames, bands), dB."""
        frame, left = torch.arange(frames, device=self.device), crops.frames[:, None]
        within = frame % left if self.clips.fill == "repeat" else torch.minimum(frame, left - 1)
        rows = (crops.rows[:, None] + within).flatten()
        log_mel = self.log_mels.index_select(0, rows).view(len(crops.rows), frames, -1)
        if self.clips.fill != "repeat":
            fill = 0.0 if self.clips.fill == "zero" else FeatureConfig().floor_db
            log_mel.masked_fill_((frame >= left)[..., None], fill)
        return log_mel


def make_resident(clips: Clips, device: str, tell: Callable[[str], None] = print) -> ResidentClips | None:
    """The clips on the GPU; None on the CPU, or if the GPU has too little memory free, which `tell` is told.

    Args:
        clips: the training split.
        device: cpu or cuda.
        tell: called with a sentence.
    """
    if device == "cpu":
        return None
    contents = dict(zip(clips.contents, clips.frames().tolist(), strict=True))
    needed = 4 * sum(contents.values()) * clips.features[clips.contents[0]].shape[1]  # bytes
    free = free_memory(device)
    if needed > MEMORY_SHARE * free:
        tell(
            f"The log-mels of the training clips take {needed / 1e9:.1f} GB, more than half of the {free / 1e9:.1f} GB "
            "that the GPU has free, so they stay in the feature store and each batch is copied: training is slower."
        )
        return None
    return ResidentClips(clips, device)


def free_memory(device: str) -> int:
    """The bytes that are free on the GPU, with those that PyTorch keeps for later."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]
