"""The network of a system, with its first weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from exvo.batches.clips import Clips
from exvo.errors import InputError
from exvo.networks.chain import Chain, chain_places
from exvo.networks.cnn import PANN
from exvo.networks.frozen import Frozen
from exvo.networks.members import Members
from exvo.networks.network import Network
from exvo.networks.panns import PANNS_URL, load_panns
from exvo.systems import SystemConfig
from exvo.tasks import Task

LEAST_CLIPS = 0.5
"""What a class without training clips counts as for the prior, whose share would have no logarithm."""


def build_network(system: SystemConfig, task: Task, width: float, seed: int, init: str, clips: Clips) -> Network:
    """The network of a system with its first weights.

    Args:
        system: the system.
        task: what is learnt, which gives the number of outputs.
        width: multiplier of the channels.
        seed: of the random weights.
        init: file of PANNs weights for the encoder, or empty for random ones.
        clips: the training split. From its labels come the first output for age (their mean, in years), the prior and
            the order of a chain; its speakers are the outputs of heads for speakers; `frozen` has the shape of its
            features, and standardises by them.

    Raises:
        InputError: the system starts from PANNs weights and `init` is empty, or the file does not fit; or it is a chain
            and the task is not intensities alone.
    """
    if system.start == "panns" and not init:
        raise InputError(
            f"This system starts from PANNs weights: download Cnn14_16k_mAP=0.438.pth from {PANNS_URL} and give its "
            "path as init=<file>."
        )
    if system.head == "chain" and (task.categories or task.name != "fewshot"):
        what = "the labels are exclusive categories" if task.categories else f"task={task.name} has other outputs too"
        raise InputError(
            f"This system gives the intensity of each emotion to the next (a chain), but {what}; train frozen instead."
        )
    speakers = len(set(clips.speakers))
    heads = {head: len(task.targets) if head == "enrolment_emotion" else speakers for head in system.roles}
    inputs = clips.features[clips.contents[0]].shape if system.encoder == "frozen" else None
    torch.manual_seed(seed)
    network = Network(
        system.encoder,
        task.outputs,
        width,
        system.dropout,
        system.enrolment,
        system.fusion,
        system.layer_norm,
        heads,
        system.head,
        system.typical_clips,
        inputs,
        system.members,
    )
    start_from_labels(network, task, clips.labels)
    if isinstance(network.encoder, Frozen):
        network.encoder.standardise_by(clips)
    if init:
        if not isinstance(network.encoder, PANN):
            raise InputError(f"init={init}: PANNs weights are for cnn14 and cnn10, not for {system.encoder}.")
        load_panns(network.encoder, Path(init))
    return network


@torch.no_grad()
def start_from_labels(network: Network, task: Task, labels: np.ndarray) -> None:
    """Sets what of a network follows from the labels of training: the prior, an age's mean, the order of a chain."""
    count = len(task.targets)
    for output in network.output if isinstance(network.output, Members) else [network.output]:
        assert isinstance(output, nn.Linear | Chain)
        if not network.trainable:
            output.bias.copy_(torch.from_numpy(prior_outputs(task, labels)))
        elif task.name == "multitask":
            output.bias[count] = float(labels[:, count].mean())
        if isinstance(output, Chain):
            output.place.copy_(torch.from_numpy(chain_places(labels)))


def prior_outputs(task: Task, labels: np.ndarray) -> np.ndarray:
    """What the labels of training say of a clip before it is heard.

    Args:
        task: what the outputs are.
        labels: (clips, labels), of training.

    Returns:
        (outputs,): the mean of each emotion, or where the objective is cross-entropy the logarithm of each category's
        share; for multitask also the mean age in years, and the logarithm of each country's share.
    """
    count = len(task.targets)
    emotions: np.ndarray = labels[:, :count].mean(axis=0)
    least = LEAST_CLIPS / len(labels)
    if task.objective == "cross-entropy":
        emotions = np.log(np.maximum(emotions, least))
    if task.name != "multitask":
        return emotions
    shares = np.bincount(labels[:, count + 1].astype(np.int64), minlength=len(task.countries)) / len(labels)
    return np.concatenate([emotions, labels[:, count : count + 1].mean(axis=0), np.log(np.maximum(shares, least))])
