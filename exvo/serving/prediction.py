"""What a model says of recordings that are in no corpus: shared by the served model and `predict`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from exvo.batches.clips import Clips
from exvo.features.audio import read_audio
from exvo.features.containers import AudioError
from exvo.features.conversion import with_conversion
from exvo.features.log_mel import log_mel
from exvo.networks.checkpoint import Checkpoint
from exvo.networks.inference import apply
from exvo.networks.inference import profiles as speaker_profiles
from exvo.serving.recordings import where_looked


def read_log_mel(source: Path, checkpoint: Checkpoint) -> tuple[np.ndarray, str]:
    """The log-mel of a file, as the network was trained on.

    Returns:
        (frames, bands) in dB, and a note on what of the file is lost; '' as a rule.

    Raises:
        AudioError: the file can't be used.
    """
    try:
        audio = read_audio(source, checkpoint.features)
    except AudioError as error:
        name = os.fspath(source)
        where = where_looked(name) if error.problem == "missing" else "there"
        problem = error.problem if where == "there" else f"missing, not {where}"
        raise AudioError(with_conversion(problem, name), name) from None
    except ValueError:
        raise AudioError("its name holds a null character", str(source)) from None
    return log_mel(torch.from_numpy(audio.waveform), checkpoint.features).numpy(), audio.note


def as_clips(log_mels: Sequence[np.ndarray], checkpoint: Checkpoint) -> Clips:
    """Log-mels (frames, bands) in dB, ready for batches; named by their place from 0."""
    names = [str(number) for number in range(len(log_mels))]
    features = dict(zip(names, log_mels, strict=True))
    return Clips(names, names, features, np.zeros((len(names), 1)), checkpoint.fill)


def enrol(checkpoint: Checkpoint, log_mels: Sequence[np.ndarray], device: str = "cpu") -> np.ndarray:
    """The embedding of each enrolment clip by itself, (clips, profile).

    For models that MLflow logged with the code of before: they carry a served model that calls this, and no protocol.
    `profiles` is what enrols speakers.

    Args:
        checkpoint: of a personalised network, which is on the device.
        log_mels: (frames, bands) of each clip, dB; at least one.
        device: cpu or cuda.
    """
    network = checkpoint.network
    return apply(lambda batch, _: network.enrol(batch), as_clips(log_mels, checkpoint), network.min_frames, device)


def profiles(
    checkpoint: Checkpoint, log_mels: Sequence[np.ndarray], lists: Sequence[np.ndarray], device: str = "cpu"
) -> np.ndarray:
    """The profile of each speaker under the model's own protocol, (speakers, profile).

    Args:
        checkpoint: of a personalised network, which is on the device.
        log_mels: (frames, bands) of each clip that enrols, dB.
        lists: for each speaker the indices of the clips that enrol them; where empty, the typical profile.
        device: cpu or cuda.
    """
    clips = as_clips(log_mels, checkpoint)
    return speaker_profiles(checkpoint.network, clips, device, lists, checkpoint.protocol).cpu().numpy()


def outputs(
    checkpoint: Checkpoint,
    log_mels: Sequence[np.ndarray],
    profiles: np.ndarray | None = None,
    device: str = "cpu",
    progress: str = "",
) -> np.ndarray:
    """The network's outputs, (clips, outputs).

    Args:
        checkpoint: of a network that is on the device.
        log_mels: (frames, bands) of each clip, dB; at least one.
        profiles: (clips, profile), of each clip's speaker; None: the typical one, or a network without fusion.
        device: cpu or cuda.
        progress: what the progress bar says; empty: no bar.

    Raises:
        TrainingError: an output is not finite.
    """
    network = checkpoint.network
    known = None if profiles is None else torch.from_numpy(profiles).to(device)

    def answer(batch: Tensor, index: np.ndarray) -> Tensor:
        found: Tensor = network(batch, None if known is None else known[index])
        return found

    return apply(answer, as_clips(log_mels, checkpoint), network.min_frames, device, progress=progress)
