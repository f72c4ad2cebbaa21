"""What the first of several ranks sends to the others, so that they train along without reading a corpus or logging."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from exvo import ranks
from exvo.batches.clips import Clips
from exvo.enrolment import Draw
from exvo.errors import InputError
from exvo.features.shards import Features
from exvo.features.store import Store
from exvo.networks.inference import predict_clips
from exvo.networks.network import Network
from exvo.tasks import Task
from exvo.training.augmentation import Augment
from exvo.training.config import TrainingConfig
from exvo.training.loop import Validation, fit
from exvo.training.states import Epoch


@dataclass(frozen=True, eq=False)
class Work:
    """A training, as all ranks need it.

    Attributes:
        network: before training; its first weights are the first rank's.
        task: what the outputs are.
        config: how to train.
        clips: the training split, whose features are in a store.
        held_out: the validation clips, in the same store.
        enrolment: for each validation clip the indices of those that enrol its speaker.
        protocol: how these are filled, see `plan_encodings`.
    """

    network: Network
    task: Task
    config: TrainingConfig
    clips: Clips
    held_out: Clips
    enrolment: Sequence[np.ndarray]
    protocol: str

    def outputs(self, network: Network) -> np.ndarray:
        """The outputs of the validation clips, (clips, outputs), of which each rank computes its share."""
        own = ranks.own_clips(self.held_out.frames())
        device, protocol = self.config.device, self.protocol
        outputs = ranks.together(
            lambda: predict_clips(
                network, self.held_out, device, self.enrolment, progress="validation", protocol=protocol, rows=own
            )
        )
        return outputs if own is None else ranks.collect(outputs, own, len(self.held_out))


def send(work: Work | None) -> None:
    """Sends a training from the first rank to the others, which must be in `train_along`; None: there is no more.

    Raises:
        InputError: a rank can't take part.
    """
    if ranks.count() == 1:
        return
    if work is None:
        ranks.from_first(None)
        return
    store, versions = work.clips.features, [one for one in work.clips.versions if isinstance(one, Store)]
    assert isinstance(store, Store)
    clips = {"clips": work.clips, "held_out": work.held_out}
    texts = {
        "arguments": work.network.arguments,
        "task": asdict(work.task),
        "config": asdict(work.config),
        "protocol": work.protocol,
        "store": str(store.root),
        "features": asdict(store.features),
        "versions": [asdict(version.features) for version in versions],
        "parts": {
            name: [list(part.files), list(part.contents), part.fill, list(part.speakers), part.balanced]
            for name, part in clips.items()
        },
    }
    sizes = [len(enrolling) for enrolling in work.enrolment]
    arrays = {name: part.labels for name, part in clips.items()}
    arrays |= {
        "enrolment": np.concatenate([np.zeros(0, np.int64), *work.enrolment]),
        "sizes": np.array(sizes, np.int64),
    }
    ranks.from_first(texts)
    ranks.bytes_from_first(to_bytes({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}))
    ranks.together(lambda: None)


def train_along() -> None:
    """Takes part, as a rank that is not the first, in all trainings that the first one sends.

    Raises:
        InputError: a rank can't take part.
        TrainingError: the objective or an output is not finite.
    """
    while (texts := ranks.from_first(None)) is not None:
        arrays = from_bytes(ranks.bytes_from_first(b""))
        work = ranks.together(lambda: receive(texts, arrays))  # noqa: B023

        def validate(network: Network, work: Work = work) -> Validation:
            work.outputs(network)
            return Validation(0.0)  # the first rank has the score

        fit(work.network, work.task, work.clips, work.config, validate, leave_saving, leave_reporting)


def leave_saving(weights: Mapping[str, Tensor], epoch: Epoch) -> None:
    """Saves nothing: the first rank does."""


def leave_reporting(epoch: Epoch) -> None:
    """Reports nothing: the first rank does."""


def receive(texts: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> Work:
    """The training that `send` has sent in these.

    Raises:
        InputError: this machine does not have the features.
    """
    given, features = texts["task"], texts["features"]
    named = {name: tuple(given[name]) for name in ("targets", "countries", "speakers")}
    task = Task(**given | named | {"limits": None if given["limits"] is None else tuple(given["limits"])})
    config = texts["config"] | {"category_weights": tuple(texts["config"]["category_weights"])}
    draw = None if config["draw"] is None else Draw(**config["draw"])
    store, *versions = (
        Store(Path(texts["store"]), Features(**kind | {"shape": tuple(kind["shape"])}))
        for kind in (features, *texts["versions"])
    )
    parts = {
        name: Clips(files, contents, store, arrays[name].numpy(), fill, speakers, balanced=balanced)
        for name, (files, contents, fill, speakers, balanced) in texts["parts"].items()
    }
    require_features(store, [content for part in parts.values() for content in part.contents])
    for version in versions:
        require_features(version, parts["clips"].contents)
    ends = np.cumsum(arrays["sizes"].numpy())[:-1]
    return Work(
        Network(**texts["arguments"]),
        task,
        TrainingConfig(**config | {"draw": draw, "augment": Augment(**config["augment"])}),
        replace(parts["clips"], versions=tuple(versions)),
        parts["held_out"],
        np.split(arrays["enrolment"].numpy(), ends),
        texts["protocol"],
    )


def require_features(store: Store, contents: Sequence[str]) -> None:
    """Refuses a store that lacks clips.

    Raises:
        InputError: it is not the one that the first rank has.
    """
    lacking = sum(content not in store for content in set(contents))
    if lacking:
        raise InputError(
            f"{store.folder} on {platform.node()} lacks the features of {lacking} clips that the first rank has; "
            "output must be a folder that all machines share."
        )
