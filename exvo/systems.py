"""The named systems (arXiv 2206.06680): each is the default plus its differences. A new variant is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from exvo.config import InputError, SystemConfig, nearest
from exvo.networks import PANNS_URL, load_panns
from exvo.networks.cnn import CNN
from exvo.tasks import Task

SYSTEMS: dict[str, SystemConfig] = {
    "cnn14-random-init": SystemConfig(),
    "cnn10-random-init": SystemConfig(encoder="cnn10"),
    "cnn14-audioset": SystemConfig(start="panns"),
    "cnn14-bs8": SystemConfig(batch_size=8),
}

SHORT_NAMES = {"cnn14": "cnn14-random-init", "cnn10": "cnn10-random-init"}


def find(name: str) -> SystemConfig:
    """The system of that name or short name.

    Raises:
        InputError: there is none; the sentence lists the nearest names.
    """
    full = SHORT_NAMES.get(name, name)
    if full not in SYSTEMS:
        raise InputError(f"model={name} is not a known system{nearest(name, [*SHORT_NAMES, *SYSTEMS])}")
    return SYSTEMS[full]


def build(system: SystemConfig, task: Task, width: float, seed: int, init: str, labels: np.ndarray) -> CNN:
    """The network of a system with its first weights.

    Args:
        system: the system.
        task: gives the outputs.
        width: multiplier of the channels.
        seed: of the random weights.
        init: file of PANNs weights, or empty for random ones.
        labels: (clips, labels) of the training split: the output for age starts at its mean, in years.

    Raises:
        InputError: the system starts from PANNs weights and `init` is empty, or the file does not fit.
    """
    if system.start == "panns" and not init:
        raise InputError(
            f"This system starts from PANNs weights: download Cnn14_16k_mAP=0.438.pth from {PANNS_URL} and give its "
            "path as init=<file>."
        )
    torch.manual_seed(seed)
    network = CNN(system.encoder, task.outputs, width, system.dropout)
    if task.name == "multitask":
        with torch.no_grad():
            network.output.bias[len(task.targets)] = float(labels[:, len(task.targets)].mean())
    if init:
        load_panns(network, Path(init))
    return network
