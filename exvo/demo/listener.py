"""What the page says of a recording: the same numbers as `predict`, within the limits of the served model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from exvo.config import FeatureConfig
from exvo.errors import InputError, TrainingError
from exvo.features.audio import Audio, read_audio
from exvo.features.containers import AudioError
from exvo.features.conversion import with_conversion
from exvo.features.log_mel import log_mel
from exvo.networks.checkpoint import Checkpoint
from exvo.serving.decoding import check_lengths
from exvo.serving.prediction import enrol_recordings, predict_recordings
from exvo.serving.request import MAX_CLIP_BYTES
from exvo.serving.waveforms import audio_config, audio_warnings, features_of

QUIET = -45.0
"""dB of full scale: a recording whose peak lies below was hardly heard. The quietest of 400 clips of EmoGator has
-43."""

NOTHING_HEARD = "nothing was heard: it is silent. Look whether the microphone is muted, and which one the browser uses"


@dataclass(frozen=True)
class Recording:
    """A recording as a visitor gives it.

    Attributes:
        name: in a sentence: 'Your burst'.
        file: the name of its file, whose ending says which format it should be.
        content: the file's bytes.
    """

    name: str
    file: str
    content: bytes


@dataclass(frozen=True, eq=False)
class Heard:
    """What is heard in a recording.

    Attributes:
        typical: emotions by name, as `Task.answers` gives them, with the typical speaker's profile; of a model that is
            not personalised, its only ones.
        enrolled: the same with the visitor's profile; None without one.
        others: what the model says besides: age (years), country, speaker; with the visitor's profile if there is one.
        seconds: length.
        peak: loudest sample, dB of full scale.
        notes: sentences on what is wrong with the recording, though it can be used.
        log_mel: (frames, bands), dB.
    """

    typical: pd.Series[float]
    enrolled: pd.Series[float] | None
    others: dict[str, str]
    seconds: float
    peak: float
    notes: list[str]
    log_mel: np.ndarray


class Listener:
    """A model that listens to visitors. It may be used from several threads, and keeps nothing between calls."""

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        """Takes a checkpoint's network to a device, cpu or cuda."""
        checkpoint.network.to(device)
        self.checkpoint = checkpoint
        self.device = device
        self.task = checkpoint.task
        self.personalised: bool = checkpoint.network.personalised

    def enrol(self, recordings: Sequence[Recording]) -> np.ndarray:
        """The profile of a visitor, float32 (profile,), from one recording or more.

        Raises:
            InputError: a recording can't be used; the sentence names it.
        """
        features = [self._features(each, self._decoded(each)) for each in recordings]
        (profile,) = enrol_recordings(self.checkpoint, features, [np.arange(len(features))], self.device)
        return np.asarray(profile)

    def hear(self, recording: Recording, profile: np.ndarray | None = None) -> Heard:
        """What is heard in a recording, without enrolment and with a visitor's profile.

        Args:
            recording: of one burst.
            profile: (profile,), from `enrol`; None: the visitor is not enrolled.

        Raises:
            InputError: the recording can't be used, or the network's outputs are not finite.
        """
        audio = self._decoded(recording)
        features = self._features(recording, audio)
        typical = answer = self._answer(features, None)
        if profile is not None and self.personalised:
            answer = self._answer(features, profile)
        targets = list(self.task.targets)
        others = {
            name: f"{value:.0f}" if isinstance(value, float) else str(value)
            for name, value in answer.drop(columns=targets).iloc[0].items()
        }
        shown = FeatureConfig()
        return Heard(
            typical=typical[targets].iloc[0].astype(float),
            enrolled=None if answer is typical else answer[targets].iloc[0].astype(float),
            others={str(name): value for name, value in others.items()},
            seconds=audio.seconds,
            peak=decibels(audio.peak),
            notes=notes(audio, audio_warnings(audio, self.checkpoint)),
            log_mel=log_mel(torch.from_numpy(audio.waveform), shown).numpy(),
        )

    def _answer(self, features: np.ndarray, profile: np.ndarray | None) -> pd.DataFrame:
        """One row: the columns of `Task.answers`."""
        try:
            outputs = predict_recordings(
                self.checkpoint, [features], None if profile is None else profile[None], self.device
            )
        except TrainingError:
            raise InputError("The model's outputs for this recording are not finite: its weights diverged.") from None
        return self.task.answers(outputs, self.checkpoint.temperature)

    def _decoded(self, recording: Recording) -> Audio:
        """A recording, decoded once its size and what its header promises are within the service's limits."""
        config = audio_config(self.checkpoint)
        if len(recording.content) > MAX_CLIP_BYTES:
            raise InputError(f"{recording.name} can't be used: it is larger than {MAX_CLIP_BYTES // 2**20} MiB.")
        try:
            check_lengths([recording.content], config)
            return read_audio(recording.content, config)
        except AudioError as error:
            raise unusable(recording, error) from None

    def _features(self, recording: Recording, audio: Audio) -> np.ndarray:
        """The features of a decoded recording, as the network was trained on them."""
        try:
            return features_of(audio.waveform, self.checkpoint)
        except AudioError as error:
            raise unusable(recording, error) from None


def unusable(recording: Recording, error: AudioError) -> InputError:
    """The sentence on a recording that can't be used.

    >>> print(unusable(Recording("Your burst", "a.m4a", b""), AudioError("not audio")))
    Your burst can't be used: not audio; convert it: ffmpeg -nostdin -n -i a.m4a -ac 1 -ar 16000 a.m4a.wav.
    """
    if error.problem.startswith("silent"):
        return InputError(f"{recording.name} can't be used: {NOTHING_HEARD}.")
    return InputError(f"{recording.name} can't be used: {with_conversion(error.problem, recording.file)}.")


def decibels(peak: float) -> float:
    """A peak in dB of full scale.

    >>> decibels(0.1)
    -20.0
    """
    return 20.0 * math.log10(peak)


def notes(audio: Audio, warnings: Mapping[str, str]) -> list[str]:
    """Sentences on what is wrong with a recording that can be used.

    Args:
        audio: decoded.
        warnings: what of it the model may not have heard, see `find_warnings`.
    """
    sentences = [f"{audio.note[:1].upper()}{audio.note[1:]}."] if audio.note else []
    clauses = dict(warnings)
    if decibels(audio.peak) < QUIET:
        clauses.pop("quiet", None)
        sentences.append(
            f"Hardly anything was heard (peak {decibels(audio.peak):.0f} dB of full scale), so do not trust these "
            "numbers: come closer, or look which microphone the browser uses."
        )
    if clauses:
        heard = "; ".join(clauses.values())
        sentences.append(f"Trust these numbers less, for the model may not have heard such a recording: {heard}.")
    return sentences
