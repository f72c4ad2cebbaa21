"""The network of a system, with its first weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from exvo.errors import InputError
from exvo.networks.cnn import PANN
from exvo.networks.network import Network
from exvo.networks.panns import PANNS_URL, load_panns
from exvo.systems import SystemConfig
from exvo.tasks import Task


def build_network(
    system: SystemConfig, task: Task, width: float, seed: int, init: str, labels: np.ndarray, speakers: int
) -> Network:
    """The network of a system with its first weights.

    Args:
        system: the system.
        task: what is learnt, which gives the number of outputs.
        width: multiplier of the channels.
        seed: of the random weights.
        init: file of PANNs weights for the encoder, or empty for random ones.
        labels: (clips, labels) of the training split: the output for age starts at its mean, in years.
        speakers: of the training split: outputs of a head for speakers.

    Raises:
        InputError: the system starts from PANNs weights and `init` is empty, or the file does not fit.
    """
    if system.start == "panns" and not init:
        raise InputError(
            f"This system starts from PANNs weights: download Cnn14_16k_mAP=0.438.pth from {PANNS_URL} and give its "
            "path as init=<file>."
        )
    heads = {head: len(task.targets) if head == "enrolment_emotion" else speakers for head in system.roles}
    torch.manual_seed(seed)
    network = Network(
        system.encoder, task.outputs, width, system.dropout, system.enrolment, system.fusion, system.layer_norm, heads
    )
    if task.name == "multitask":
        with torch.no_grad():
            network.output.bias[len(task.targets)] = float(labels[:, len(task.targets)].mean())
    if init:
        if not isinstance(network.encoder, PANN):
            raise InputError(f"init={init}: PANNs weights are for cnn14 and cnn10, not for {system.encoder}.")
        load_panns(network.encoder, Path(init))
    return network
