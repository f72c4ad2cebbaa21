"""What a request may hold, under the names of models that MLflow logged before; see `exvo.serving.request`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from exvo.config import FeatureConfig
from exvo.features.log_mel import log_mel
from exvo.serving.decoding import decode_clips
from exvo.serving.request import MAX_BODY, MODES, Payload, Row, check_body, read_rows
from exvo.serving.request import distinct_clips as places

__all__ = ["MAX_BODY", "MODES", "Payload", "Row", "check_body", "decode", "places", "read_rows"]


def decode(clips: Mapping[Payload, str], config: FeatureConfig) -> dict[Payload, np.ndarray]:
    """The log-mel of each clip, (frames, bands) in dB; see `decode_clips`."""
    return decode_clips(clips, config, lambda audio: log_mel(torch.from_numpy(audio.waveform), config).numpy())
