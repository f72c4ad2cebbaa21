"""Networks: log-mel spectrograms in, numbers out. Building, loading and saving."""

from __future__ import annotations

import _codecs
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from exvo.config import FeatureConfig, InputError
from exvo.networks.cnn import PANN
from exvo.networks.enrolment import Network
from exvo.tasks import Task

PANNS_URL = "https://zenodo.org/records/3987831"
FORMAT = "exvo-2"
NUMPY_ARRAYS: list[Any] = [
    (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),  # type: ignore[attr-defined]
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np.ndarray,
    np.dtype,
    type(np.dtype(np.int64)),
    type(np.dtype(np.float64)),
    _codecs.encode,
]
"""What the published files hold beside weights: the state of their sampler, plain NumPy arrays of numbers."""


@dataclass(frozen=True)
class Checkpoint:
    """A network with all that predicting with it needs: what its outputs are, its features, how short clips are filled.

    Attributes:
        network: in evaluation mode, on the CPU.
        task: what the outputs are.
        features: settings of the log-mel that the network was trained on.
        fill: what follows a clip shorter than `network.min_frames`.
        notes: where the weights come from: system, epoch, score.
    """

    network: Network
    task: Task
    features: FeatureConfig
    fill: str
    notes: Mapping[str, Any]


def load_panns(encoder: PANN, path: Path) -> None:
    """Starts a CNN14 or CNN10 of width 1 from a file of PANNs weights (arXiv 1912.10211), by name.

    All of the encoder's weights come from the file, in which only the waveform front end and AudioSet's output layer
    are left over. Nothing in the file is executed (`weights_only`).

    Raises:
        InputError: the file is absent, is no file of weights, or its keys or shapes are not those of this network.
    """
    if not path.is_file():
        raise InputError(
            f"init={path} is not a file; download Cnn14_16k_mAP=0.438.pth from {PANNS_URL} and give its path as init."
        )
    try:
        with torch.serialization.safe_globals(NUMPY_ARRAYS):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file of unknown content makes the unpickler raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"init={path} can't be read as a file of weights ({type(error).__name__}: {reason})."
        ) from None
    given = loaded.get("model", loaded) if isinstance(loaded, dict) else {}
    left_over = {"spectrogram_extractor.stft.conv_real.weight", "spectrogram_extractor.stft.conv_imag.weight"}
    left_over |= {"logmel_extractor.melW", "fc_audioset.weight", "fc_audioset.bias"}
    own = encoder.state_dict()
    missing, extra = sorted(set(own) - set(given)), sorted(set(given) - set(own) - left_over)
    if missing or extra:
        raise InputError(
            f"init={path} holds other weights than this network's: it lacks {len(missing)} of {len(own)} "
            f"({', '.join(missing[:3]) or '-'}) and has {len(extra)} unknown ones "
            f"({', '.join(map(str, extra[:3])) or '-'})."
        )
    shapes = [key for key in sorted(own) if given[key].shape != own[key].shape]
    if shapes:
        found, needed = tuple(given[shapes[0]].shape), tuple(own[shapes[0]].shape)
        raise InputError(
            f"init={path}: {shapes[0]} is {found}, this network needs {needed}; PANNs weights need width=1."
        )
    encoder.load_state_dict({key: given[key] for key in own})


def load_parent(network: Network, parent: Network, name: str) -> None:
    """Starts a network from the weights of another of the same make.

    Raises:
        InputError: its encoders, fusion, width, heads or outputs differ.
    """
    differing = [key for key, value in network.arguments.items() if parent.arguments[key] != value]
    if differing:
        told = ", ".join(f"{key} is {parent.arguments[key]}, not {network.arguments[key]}" for key in differing)
        raise InputError(f"The weights of {name} don't fit this network: its {told}. Train both with the same options.")
    network.load_state_dict(parent.state_dict())


def write_atomically(path: Path, content: bytes) -> None:
    """Writes to a temporary name and renames: the file is there whole, or as it was before.

    Raises:
        InputError: the disk is full or the folder can't be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path} can't be written ({error.strerror}); free space or choose another output folder."
        ) from None


def save(
    path: Path,
    network: Network,
    weights: Mapping[str, Tensor],
    task: Task,
    features: FeatureConfig,
    fill: str,
    notes: Any,
) -> None:
    """Writes weights and all that `load` needs as one safetensors file, atomically.

    Args:
        path: the file to write.
        network: gives the constructor's arguments.
        weights: the state dict to write.
        task: what the outputs are.
        features: settings of the log-mel.
        fill: what follows a short clip.
        notes: anything JSON holds.

    Raises:
        InputError: the file can't be written.
    """
    about = {
        "format": FORMAT,
        "network": network.arguments,
        "task": asdict(task),
        "features": asdict(features),
        "fill": fill,
        "notes": notes,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(path, to_bytes(tensors, metadata={"exvo": json.dumps(about)}))


def load(path: Path) -> Checkpoint:
    """Reads what `save` wrote.

    Raises:
        InputError: the file is absent, damaged or not a checkpoint of exvo.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["exvo"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not a whole checkpoint of exvo ({error}).") from None
    if about.get("format") != FORMAT:
        raise InputError(f"{path} has the format {about.get('format')}; this version of exvo reads {FORMAT}.")
    task: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in about["task"].items()
    }
    network = Network(**about["network"])
    network.load_state_dict(weights)
    features = FeatureConfig(**about["features"])
    return Checkpoint(network.eval(), Task(**task), features, about["fill"], about["notes"])
