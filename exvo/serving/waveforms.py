"""Waveforms into the features that a model takes, whatever their kind."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.audio import Audio
from exvo.features.conditions import find_warnings
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


class Prepared(NamedTuple):
    """A recording, ready for a model.

    Attributes:
        features: see `features_of`.
        warnings: what of it the model may not have heard, see `find_warnings`.
        note: what of the file is lost; '' as a rule.
    """

    features: np.ndarray
    warnings: dict[str, str]
    note: str


def prepare_audio(audio: Audio, checkpoint: Checkpoint) -> Prepared:
    """A decoded recording, ready for a model.

    Raises:
        AudioError, InputError: see `features_of`.
    """
    return Prepared(features_of(audio.waveform, checkpoint), audio_warnings(audio, checkpoint), audio.note)


def audio_warnings(audio: Audio, checkpoint: Checkpoint) -> dict[str, str]:
    """What of a decoded recording the model may not have heard, see `find_warnings`."""
    rate = audio_config(checkpoint).sample_rate
    return find_warnings(audio.waveform, rate, audio.rate, audio.seconds, audio.clipped, checkpoint.ranges)


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
