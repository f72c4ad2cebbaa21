"""Small networks and clips to train on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from exvo.batches.clips import Clips
from exvo.networks.network import Network
from exvo.tasks import Task, make_task
from exvo.training.config import TrainingConfig

TASK = Task("fewshot", ("High", "Loud"))


def config(**changes: object) -> TrainingConfig:
    values = {
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.01,
        "optimizer": "sgd",
        "seed": 0,
        "device": "cpu",
        "precision": "float32",
    }
    return TrainingConfig(**(values | changes))  # type: ignore[arg-type]


def make_clips(count: int = 12, lengths: tuple[int, ...] = (40, 60, 90)) -> Clips:
    """Noise whose level in the lower and in the upper bands are the two labels, of three speakers in turn."""
    rng = np.random.default_rng(0)
    labels = rng.random((count, 2))
    features = {}
    for clip, (low, high) in enumerate(labels):
        level = np.repeat([40 * low - 60, 40 * high - 60], 32)
        features[f"c{clip}"] = (level + rng.normal(0, 3, (lengths[clip % len(lengths)], 64))).astype(np.float32)
    speakers = [f"speaker{i % 3}" for i in range(count)]
    return Clips([f"clip{i}.wav" for i in range(count)], list(features), features, labels, "repeat", speakers)


def make_network(seed: int = 0, **options: object) -> Network:
    torch.manual_seed(seed)
    return Network(**({"encoder": "cnn10", "outputs": 2, "width": 0.05} | options))  # type: ignore[arg-type]


def task_without_limits(*arguments: Any) -> Task:
    """In place of `make_task`: a network that has learnt nothing is not shown as the limits alone."""
    return replace(make_task(*arguments), limits=None)
