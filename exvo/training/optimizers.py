"""Optimisers, and the schedules of their step size."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import lr_scheduler

from exvo.networks.network import Network
from exvo.training.config import TrainingConfig

RISE = 0.2
"""Share of one-cycle's steps in which the step size rises."""

LEAST_STEPS = 10
"""One-cycle is laid out for so many steps at least; a shorter training ends within it."""


def make_optimizer(network: Network, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser of all weights; SGD has momentum 0.9 (arXiv 2206.06680).

    AdamW's weight decay is on all weights of the published encoders, as published; with ours it is not on those of one
    dimension: biases, normalisations, weights of layers and the typical profile.
    """
    if config.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), lr=config.learning_rate, momentum=0.9)
    if config.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if network.ours:
        vectors = [weight for weight in network.parameters() if weight.ndim <= 1]
        others = [weight for weight in network.parameters() if weight.ndim > 1]
        groups = [{"params": others}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


class Schedule:
    """The step size of a training: it changes after each epoch (plateau) or each step (cosine, one-cycle), or never.

    plateau: times 0.9 after five epochs without a better score (arXiv 2206.06680). cosine: falls from the learning rate
    to 0 (arXiv 1608.03983, without restarts). one-cycle: PyTorch's, from 1/25 of the learning rate to it in the first
    fifth of the steps, then down to nearly 0, and the momentum the other way round (arXiv 1708.07120).

    Args:
        optimizer: whose step size it is.
        config: names the schedule.
        steps: of an epoch; without meaning for constant and plateau.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int) -> None:
        self._total = max(config.epochs * steps, LEAST_STEPS)
        self._plateau: lr_scheduler.ReduceLROnPlateau | None = None
        self._other: lr_scheduler.LRScheduler | None = None
        if config.schedule == "plateau":
            self._plateau = lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.9, patience=5)
        elif config.schedule == "cosine":
            self._other = lr_scheduler.CosineAnnealingLR(optimizer, self._total)
        elif config.schedule == "one-cycle":
            self._other = lr_scheduler.OneCycleLR(optimizer, config.learning_rate, self._total, pct_start=RISE)

    def after_step(self) -> None:
        """To be called after each step of the optimiser."""
        if self._other is not None and self._other.last_epoch < self._total:
            self._other.step()

    def after_epoch(self, score: float) -> None:
        """To be called after each epoch with its score; NaN is no better one."""
        if self._plateau is not None:
            self._plateau.step(score)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step size depends on, as JSON can hold it."""
        scheduler = self._plateau or self._other
        return scheduler.state_dict() if scheduler else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        scheduler = self._plateau or self._other
        if scheduler:
            scheduler.load_state_dict(state)


def is_per_step(schedule: str) -> bool:
    """Whether a schedule must know how many steps an epoch has."""
    return schedule in ("cosine", "one-cycle")
