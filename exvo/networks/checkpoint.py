"""Model files: a network's weights with all that predicting with it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from exvo.config import FeatureConfig
from exvo.enrolment import EnrolmentSettings
from exvo.errors import InputError
from exvo.files import plain_path, write_atomically
from exvo.networks.header import Header, read_header, write_header
from exvo.networks.network import Network
from exvo.tasks import Task
from exvo.text import printable, reason

COUNTER = "num_batches_tracked"  # of batch norm: a whole number, all else is single precision


@dataclass(frozen=True)
class Checkpoint:
    """A network with all that predicting with it needs: what its outputs are, its features, how short clips are filled.

    Attributes:
        network: in evaluation mode, on the CPU.
        task: what the outputs are.
        features: settings of the log-mel that the network was trained on.
        fill: what follows a clip shorter than `network.min_frames`.
        notes: where the weights come from: system, epoch, score.
        enrolment: how its speakers are enrolled; None: it takes no enrolment, or its file is of the format before,
            which does not say.
        temperature: by which the outputs are divided so that they are calibrated; None: not fitted.
    """

    network: Network
    task: Task
    features: FeatureConfig
    fill: str
    notes: Mapping[str, Any]
    enrolment: EnrolmentSettings | None = None
    temperature: float | None = None

    @property
    def protocol(self) -> str | None:
        """The protocol of enrolment, where it has one."""
        return self.enrolment.protocol if self.enrolment else None


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


def save_checkpoint(
    path: Path,
    network: Network,
    weights: Mapping[str, Tensor],
    task: Task,
    features: FeatureConfig,
    fill: str,
    notes: Any,
    enrolment: EnrolmentSettings | None = None,
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
        enrolment: how speakers are enrolled; a network that takes no enrolment is saved without.

    Raises:
        InputError: the file can't be written.
    """
    header = Header(network.arguments, task, features, fill, notes, enrolment if network.personalised else None)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(path, to_bytes(tensors, metadata={"exvo": write_header(header)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads what `save` wrote. Nothing in the file is trusted: no weight is read unless all have this network's shapes.

    Raises:
        InputError: the file is absent, damaged or not a checkpoint of exvo, or of a network that has changed since.
    """
    try:
        with plain_path(path) as plain, safe_open(plain, framework="pt") as file:
            header = read_header((file.metadata() or {})["exvo"])
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            kinds = {name: file.get_slice(name).get_dtype() for name in names}
            check_weights(header, shapes, kinds)
            network = Network(**header.network)
            network.load_state_dict({name: file.get_tensor(name) for name in names})
    except InputError as error:
        raise InputError(f"{path} {error}.") from None
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path} is not a whole checkpoint of exvo ({reason(error)}).") from None
    rest = (header.task, header.features, header.fill, header.notes, header.enrolment, header.temperature)
    return Checkpoint(network.eval(), *rest)


def check_weights(header: Header, shapes: Mapping[str, tuple[int, ...]], kinds: Mapping[str, str]) -> None:
    """Compares the weights of a file, by name, with those of its network, which takes no memory for it.

    Args:
        header: of the file.
        shapes: of the weights.
        kinds: their types, as safetensors names them.

    Raises:
        InputError: they differ; without the file's name and the full stop.
    """
    try:
        with torch.device("meta"):
            network = Network(**header.network).eval()
            clip = torch.zeros(1, network.min_frames, header.features.bands)
            network(clip, network.enrol(clip) if network.personalised else None)
    except (AssertionError, RuntimeError, OverflowError) as error:
        raise InputError(f"describes no network that can be built ({reason(error)})") from None
    if header.task.outputs != header.network["outputs"]:
        raise InputError(f"has {header.network['outputs']} outputs, but its task has {header.task.outputs}")
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    differing = sorted(name for name in own.keys() | shapes.keys() if own.get(name) != shapes.get(name))
    if differing:
        name = differing[0]
        raise InputError(
            f"holds other weights than its network's: {len(differing)} differ, the first being {printable(name)}, "
            f"which is {shapes.get(name, 'missing')} and should be {own.get(name, 'absent')}"
        )
    odd = sorted(name for name, kind in kinds.items() if kind != ("I64" if name.endswith(COUNTER) else "F32"))
    if odd:
        raise InputError(f"holds {printable(odd[0])} as {kinds[odd[0]]}; networks are single precision")


WEIGHTS = "best.safetensors"
