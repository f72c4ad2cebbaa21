"""Predictions for recordings that are in no corpus: shared by the served model and the entry point `predict`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from exvo.batches.clips import Clips
from exvo.features.audio import read_audio
from exvo.features.containers import AudioError
from exvo.features.conversion import with_conversion
from exvo.networks.checkpoint import Checkpoint
from exvo.networks.inference import apply_to_clips, speaker_profiles
from exvo.serving.recordings import where_looked
from exvo.serving.waveforms import Prepared, audio_config, prepare_audio


def read_features(source: Path, checkpoint: Checkpoint) -> Prepared:
    """A file's features, as the network was trained on them, with what is to be said of it.

    Raises:
        AudioError: the file can't be used.
    """
    try:
        audio = read_audio(source, audio_config(checkpoint))
    except AudioError as error:
        name = os.fspath(source)
        place = where_looked(name) if error.problem == "missing" else "there"
        problem = error.problem if place == "there" else f"missing, not {place}"
        raise AudioError(with_conversion(problem, name), name) from None
    except ValueError:
        raise AudioError("its name holds a null character", str(source)) from None
    try:
        return prepare_audio(audio, checkpoint)
    except AudioError as error:
        raise AudioError(error.problem, os.fspath(source)) from None


class FileAnswer(NamedTuple):
    """What the network says of a file."""

    outputs: np.ndarray | None  # (outputs,); None where the file can't be used
    warnings: dict[str, str]  # what of it the model may not have heard, see `find_warnings`
    note: str  # what of the file could not be read; '' as a rule
    problem: str  # why the file can't be used; '' where it can


@dataclass(frozen=True)
class FilePredictor:
    """Reads files and predicts.

    Attributes:
        checkpoint: the model, whose network is on the device.
        profile: (profile,), of the one speaker of all files; None: the typical one, or a network without fusion.
        device: cpu or cuda.
    """

    checkpoint: Checkpoint
    profile: np.ndarray | None
    device: str

    def __call__(self, files: Sequence[Path]) -> list[FileAnswer]:
        """What the network says of each file."""
        features: dict[int, np.ndarray] = {}
        answers = []
        for number, file in enumerate(files):
            try:
                clip = read_features(file, self.checkpoint)
                features[number] = clip.features
                answers.append(FileAnswer(None, clip.warnings, clip.note, ""))
            except AudioError as error:
                answers.append(FileAnswer(None, {}, "", error.problem))
        if not features:
            return answers
        profiles = None if self.profile is None else self.profile[None].repeat(len(features), axis=0)
        outputs = predict_recordings(self.checkpoint, list(features.values()), profiles, self.device)
        for number, output in zip(features, outputs, strict=True):
            answers[number] = answers[number]._replace(outputs=output)
        return answers


def as_clips(features: Sequence[np.ndarray], checkpoint: Checkpoint) -> Clips:
    """Clips' features, ready for batches; their names are their numbers from 0."""
    names = [str(number) for number in range(len(features))]
    return Clips(names, names, dict(zip(names, features, strict=True)), np.zeros((len(names), 1)), checkpoint.fill)


def enrol_recordings(
    checkpoint: Checkpoint, features: Sequence[np.ndarray], lists: Sequence[np.ndarray], device: str = "cpu"
) -> np.ndarray:
    """The profile of each speaker under the model's own protocol.

    Args:
        checkpoint: of a personalised network, which is on the device.
        features: of each clip that enrols, see `features_of`.
        lists: for each speaker the indices of the clips that enrol them; where empty, the typical profile.
        device: cpu or cuda.

    Returns:
        (speakers, profile).

    Raises:
        TrainingError: an embedding is not finite.
    """
    clips = as_clips(features, checkpoint)
    return speaker_profiles(checkpoint.network, clips, device, lists, checkpoint.protocol).cpu().numpy()


def predict_recordings(
    checkpoint: Checkpoint,
    features: Sequence[np.ndarray],
    profiles: np.ndarray | None = None,
    device: str = "cpu",
    progress: str = "",
) -> np.ndarray:
    """The network's outputs.

    Args:
        checkpoint: of a network that is on the device.
        features: of each clip, see `features_of`; at least one.
        profiles: (clips, profile), of each clip's speaker; None: the typical one, or a network without fusion.
        device: cpu or cuda.
        progress: label of the progress bar; empty: no bar.

    Returns:
        (clips, outputs).

    Raises:
        TrainingError: an output is not finite.
    """
    network = checkpoint.network
    on_device = None if profiles is None else torch.from_numpy(profiles).to(device)

    def predict(batch: Tensor, index: np.ndarray) -> Tensor:
        return network.predict(batch, None if on_device is None else on_device[index])

    clips, step = as_clips(features, checkpoint), network.frame_step
    return apply_to_clips(predict, clips, network.min_frames, device, progress=progress, step=step)
