"""Predictions for recordings, as models that MLflow logged before call them; see `exvo.serving.prediction`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exvo.networks.checkpoint import Checkpoint
from exvo.networks.inference import apply_to_clips
from exvo.serving.prediction import as_clips
from exvo.serving.prediction import predict_recordings as outputs

__all__ = ["enrol", "outputs"]


def enrol(checkpoint: Checkpoint, log_mels: Sequence[np.ndarray], device: str = "cpu") -> np.ndarray:
    """The embedding of each enrolment clip by itself: the model's own code takes their mean, and has no protocol.

    Args:
        checkpoint: of a personalised network, which is on the device.
        log_mels: (frames, bands) of each clip, dB; at least one.
        device: cpu or cuda.

    Returns:
        (clips, profile).
    """
    network, clips = checkpoint.network, as_clips(log_mels, checkpoint)
    return apply_to_clips(lambda batch, _: network.embed_enrolment(batch), clips, network.min_frames, device)
