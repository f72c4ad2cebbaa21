"""Waveforms into the features that a model takes, whatever their kind."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.containers import AudioError
from exvo.features.functionals import KIND, FunctionalsProcess, set_of
from exvo.features.log_mel import log_mel
from exvo.features.shards import Features
from exvo.networks.checkpoint import Checkpoint

functionals_process = lru_cache(maxsize=None)(FunctionalsProcess)
"""The process for a set of functionals, which all models of this process share."""


def audio_config(checkpoint: Checkpoint) -> FeatureConfig:
    """How a model's audio is decoded: sampling rate and limits of length."""
    return FeatureConfig() if isinstance(checkpoint.features, Features) else checkpoint.features


def features_of(waveform: np.ndarray, checkpoint: Checkpoint) -> np.ndarray:
    """The features of a clip, as the model was trained on them.

    It may be called from several threads.

    Args:
        waveform: float32 (samples,), as `read_audio` gives it under `audio_config`.
        checkpoint: the model, with its encoder where it needs one.

    Returns:
        (frames, bands) in dB of a log-mel; else of the shape of the model's features.

    Raises:
        AudioError: the clip can't be used.
        InputError: openSMILE or the encoder is not there, or another one than the model's.
    """
    features = checkpoint.features
    if not isinstance(features, Features):
        return log_mel(torch.from_numpy(waveform), features).numpy()
    if features.kind == KIND:
        return functionals_process(set_of(features))(waveform)
    if checkpoint.encoder is None:
        raise InputError(f"The model takes the {features.kind} of an encoder, which was not loaded with it.")
    (states,) = checkpoint.encoder.states([waveform])
    if isinstance(states, AudioError):
        raise states
    if not np.isfinite(states).all():
        raise AudioError(f"its {features.kind} hold numbers that are not finite")
    return states
