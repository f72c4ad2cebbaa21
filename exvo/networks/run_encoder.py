"""A trained network as an encoder: its main embeddings are the features of another one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from exvo.batches.clips import Clips
from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.log_mel import log_mel
from exvo.features.shards import Features
from exvo.networks.checkpoint import WEIGHTS, Checkpoint, load_checkpoint, save_checkpoint
from exvo.networks.header import REVISION
from exvo.networks.inference import embed_clips

KIND = "embeddings"


class RunEncoder:
    """The main embeddings of a run of ours, an `Encoder`.

    Attributes:
        checkpoint: of the run.
        device: where it computes, cpu or cuda.
        features: float32 (1, embedding).
    """

    def __init__(self, checkpoint: Checkpoint, device: str, name: str) -> None:
        """Takes a checkpoint's network to a device, cpu or cuda.

        Args:
            checkpoint: of a network on log-mels.
            device: where it computes.
            name: of the run or file, for a sentence.

        Raises:
            InputError: it takes other features than log-mels of our sampling rate.
        """
        config = checkpoint.features
        if isinstance(config, Features):
            raise InputError(f"{name} was trained on {config.kind}; only runs on log-mel give features to others.")
        if config.sample_rate != FeatureConfig.sample_rate:
            raise InputError(
                f"{name} takes {config.sample_rate} Hz, and features are of {FeatureConfig.sample_rate} Hz."
            )
        self.checkpoint, self._config, self.device = checkpoint, config, device
        network = checkpoint.network
        settings = {
            "weights": weights_digest(checkpoint),
            "encoder": network.arguments["encoder"],
            "fusion": network.fusion,
            "revision": REVISION,
            "fill": checkpoint.fill,
            "log_mel": asdict(config),
        }
        size = self._embeddings([np.zeros((network.min_frames, config.bands), np.float32)]).shape[1]
        self.features = Features.of_clips(KIND, "float32", (1, size), settings)

    def states(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The embedding of each clip, float32 (1, embedding).

        Args:
            waveforms: float32 (samples,) each, at 16 kHz.

        Raises:
            TrainingError: an embedding is not finite.
        """
        log_mels = [log_mel(torch.from_numpy(waveform), self._config).numpy() for waveform in waveforms]
        return list(self._embeddings(log_mels)[:, None]) if log_mels else []

    def save(self, folder: Path) -> None:
        """Writes the run's model file into a folder."""
        saved = self.checkpoint
        weights, enrolment = saved.network.state_dict(), saved.enrolment
        save_checkpoint(
            folder / WEIGHTS, saved.network, weights, saved.task, saved.features, saved.fill, saved.notes, enrolment
        )

    def _embeddings(self, log_mels: Sequence[np.ndarray]) -> np.ndarray:
        """(clips, embedding), float32, of log-mels (frames, bands) in dB; under conditioning the typical speaker's."""
        names = [str(number) for number in range(len(log_mels))]
        features = dict(zip(names, log_mels, strict=True))
        clips = Clips(names, names, features, np.zeros((len(names), 1)), self.checkpoint.fill)
        nobody = [np.empty(0, np.int64)] * len(names)
        return embed_clips(self.checkpoint.network, clips, self.device, "main", nobody)


def weights_digest(checkpoint: Checkpoint) -> str:
    """SHA-256, in hexadecimal, of a network's weights: their names, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_run_encoder(folder: Path, device: str) -> RunEncoder:
    """The encoder that `RunEncoder.save` has written.

    Raises:
        InputError: it is absent or damaged.
    """
    return RunEncoder(load_checkpoint(folder / WEIGHTS), device, str(folder))
