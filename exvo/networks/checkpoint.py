"""Model files: a network's weights with all that predicting with it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from exvo.config import FeatureConfig
from exvo.enrolment import EnrolmentSettings
from exvo.errors import InputError
from exvo.features.conditions import Ranges
from exvo.features.extractors import Encoder
from exvo.features.shards import Features
from exvo.files import plain_path, write_atomically
from exvo.networks.header import Header, Notes, read_header, write_header
from exvo.networks.network import Network
from exvo.tasks import Level, Task
from exvo.text import printable, reason

WEIGHTS = "best.safetensors"
"""Name of the file of a run's best weights."""

COUNTER = "num_batches_tracked"
"""How the names of batch norm's counters end: whole numbers; all else is single precision."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network with all that predicting with it needs: what its outputs are, its features, how short clips are filled.

    Attributes:
        network: in evaluation mode, on the CPU.
        task: what the outputs are.
        features: what the network was trained on: settings of the log-mel, or features of another kind.
        fill: how a clip shorter than `network.min_frames` is filled: zero, floor or repeat.
        notes: where the weights come from: system, epoch, score.
        enrolment: how its speakers are enrolled; None: the network takes no enrolment, or its file is of the format
            before, which does not say.
        temperature: by which the outputs are divided so that they are calibrated; None: not fitted.
        levels: how sure an answer must be to be right so often, see `Level`; empty: not chosen.
        ranges: within what the training clips lie; None: not known.
        encoder: what computes the features where they are an encoder's; None where that is not needed, or not loaded.
    """

    network: Network
    task: Task
    features: FeatureConfig | Features
    fill: str
    notes: Notes
    enrolment: EnrolmentSettings | None = None
    temperature: float | None = None
    levels: tuple[Level, ...] = ()
    ranges: Ranges | None = None
    encoder: Encoder | None = None

    @property
    def protocol(self) -> str | None:
        """The protocol of enrolment; None where `enrolment` is."""
        return self.enrolment.protocol if self.enrolment else None


def load_parent(network: Network, parent: Network, name: str) -> None:
    """Starts a network from the weights of another with the same arguments.

    Args:
        network: the one to start.
        parent: the one with the weights.
        name: of the parent, for a sentence.

    Raises:
        InputError: their arguments differ: encoders, fusion, width, heads or outputs.
    """
    wanted, present = dict(network.arguments), dict(parent.arguments)
    differing = ", ".join(
        f"{key} is {present[key]}, not {wanted[key]}" for key in wanted if present[key] != wanted[key]
    )
    if differing:
        raise InputError(
            f"The weights of {name} don't fit this network: its {differing}. Train both with the same options."
        )
    network.load_state_dict(parent.state_dict())


def save_checkpoint(
    path: Path,
    network: Network,
    weights: Mapping[str, Tensor],
    task: Task,
    features: FeatureConfig | Features,
    fill: str,
    notes: Notes,
    enrolment: EnrolmentSettings | None = None,
    temperature: float | None = None,
    levels: tuple[Level, ...] = (),
    ranges: Ranges | None = None,
) -> None:
    """Writes weights and all that `load_checkpoint` needs as one safetensors file, atomically.

    Args:
        path: the file to write.
        network: gives the constructor's arguments.
        weights: the state dict to write.
        task: what the outputs are.
        features: what the network was trained on.
        fill: how short clips are filled.
        notes: where the weights come from.
        enrolment: how speakers are enrolled; a network that takes no enrolment is saved without.
        temperature: of the shares, see `Task.shares`; None: not fitted.
        levels: how sure an answer must be to be right so often; empty: not chosen.
        ranges: within what the training clips lie; None: not known.

    Raises:
        InputError: the file can't be written.
    """
    protocol = enrolment if network.personalised else None
    header = Header(network.arguments, task, features, fill, notes, protocol, temperature, levels, ranges)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(path, to_bytes(tensors, metadata={"exvo": write_header(header)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a file of `save_checkpoint`. Nothing in it is trusted: weights are read once all have the right shapes.

    Raises:
        InputError: the file is absent, damaged or not a checkpoint of exvo, or of a network that has changed since.
    """
    try:
        with plain_path(path) as plain, safe_open(plain, framework="pt") as file:
            header = read_header((file.metadata() or {})["exvo"])
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            types = {name: file.get_slice(name).get_dtype() for name in names}
            check_weights(header, shapes, types)
            network = Network(**header.network)
            network.load_state_dict({name: file.get_tensor(name) for name in names})
    except InputError as error:
        raise InputError(f"{path} {error}.") from None
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path} is not a whole checkpoint of exvo ({reason(error)}).") from None
    return Checkpoint(
        network=network.eval(),
        task=header.task,
        features=header.features,
        fill=header.fill,
        notes=header.notes,
        enrolment=header.enrolment,
        temperature=header.temperature,
        levels=header.levels,
        ranges=header.ranges,
    )


def clip_shape(features: FeatureConfig | Features, frames: int) -> tuple[int, ...]:
    """The shape of a clip's features; of a log-mel with so many frames."""
    first, *others = (features if isinstance(features, Features) else Features.of_log_mel(features)).shape
    return tuple(frames if size is None else size for size in (first, *others))


def check_weights(header: Header, shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, str]) -> None:
    """Refuses a file whose weights are not those of its network; the network is made without taking memory.

    Args:
        header: of the file.
        shapes: of the weights, by name.
        types: of the weights, by name, as safetensors calls them.

    Raises:
        InputError: names or shapes differ, or a type is wrong; without the file's name and the full stop.
    """
    inputs = header.network["inputs"]
    if inputs is not None and isinstance(header.features, Features) and list(header.features.shape) != inputs:
        sizes = " x ".join(f"{size:,}" for size in inputs)
        raise InputError(f"has a network for features of {sizes} numbers, but was trained on {header.features.text}")
    try:
        with torch.device("meta"):
            network = Network(**header.network).eval()
            clip = torch.zeros(1, *clip_shape(header.features, network.min_frames))
            network.predict(clip, network.embed_enrolment(clip) if network.personalised else None)
    except (AssertionError, RuntimeError, OverflowError) as error:
        raise InputError(f"describes no network that can be built ({reason(error)})") from None
    if header.task.outputs != header.network["outputs"]:
        raise InputError(f"has {header.network['outputs']} outputs, but its task has {header.task.outputs}")
    right = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    differing = sorted(name for name in right.keys() | shapes.keys() if right.get(name) != shapes.get(name))
    if differing:
        name = differing[0]
        raise InputError(
            f"holds other weights than its network's: {len(differing)} differ, the first being {printable(name)}, "
            f"which is {shapes.get(name, 'missing')} and should be {right.get(name, 'absent')}"
        )
    wrong = sorted(name for name in types if types[name] != ("I64" if name.endswith(COUNTER) else "F32"))
    if wrong:
        raise InputError(f"holds {printable(wrong[0])} as {types[wrong[0]]}; networks are single precision")
