"""Training: one step, the loop over epochs, best epoch and last state on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from exvo.batches.clips import Batch, Clips
from exvo.batches.epoch import training_batches
from exvo.batches.resident import Resident, make_resident
from exvo.devices import keep_freed_memory
from exvo.enrolment import Draw
from exvo.errors import TrainingError
from exvo.networks.inference import clip_names
from exvo.networks.network import Network
from exvo.tasks import Task
from exvo.training.objectives import gradient_factor, objectives, total_objective
from exvo.training.states import Epoch, State, States


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; the defaults of the options are in `exvo.config`.

    Attributes:
        epochs: passes over the training clips.
        batch_size: clips.
        learning_rate: the first step size; ReduceLROnPlateau multiplies it by 0.9 after five epochs without a better
            score (arXiv 2206.06680).
        optimizer: sgd (momentum 0.9), adam or adamw.
        seed: of order, crops and dropout.
        device: cpu or cuda.
        precision: float32 or bf16 (autocast).
        draw: how clips are given enrolment clips; None: they are not.
        roles: learn or forget for each head of the network.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str
    seed: int
    device: str
    precision: str
    draw: Draw | None = None
    roles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """The scores of an epoch on the validation clips.

    Attributes:
        score: that chooses the best epoch, higher is better; NaN, where undefined, is never better.
        scores: others to be logged, by name.
    """

    score: float
    scores: Mapping[str, float] = field(default_factory=dict)


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser of all weights; SGD has momentum 0.9, AdamW weight decay 0.0001 (arXiv 2206.06680)."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), lr=config.learning_rate, momentum=0.9)
    if config.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    return torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)


def train_step(
    network: Network, task: Task, optimizer: torch.optim.Optimizer, batch: Batch, config: TrainingConfig, epoch: int
) -> Tensor:
    """One step of the optimiser on one batch; returns the objective, a number on the device."""
    batch = batch.to(config.device)
    factors = {name: gradient_factor(role, epoch) for name, role in config.roles.items()}
    with torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bf16"):
        found = network.training_outputs(batch.log_mel, batch.enrolment, batch.groups, factors)
    loss = total_objective(objectives(found, task, batch))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


LOOK_EVERY = {"cpu": 1, "cuda": 50}
"""Steps after which the losses are looked at: on a GPU that waits until it has done all of them."""


def train_epoch(
    network: Network,
    task: Task,
    optimizer: torch.optim.Optimizer,
    source: Clips | Resident,
    config: TrainingConfig,
    epoch: int,
) -> float:
    """One pass over the training clips; returns the mean of the objective over clips.

    Batches come from the feature store, or from the device, where the clips are resident.

    Raises:
        TrainingError: the objective of a batch is not finite; names the batch's clips.
    """
    keep_freed_memory()
    network.train()
    torch.manual_seed(config.seed * 1_000_003 + epoch)  # dropout
    drawn_from = (config.batch_size, config.seed, epoch, config.draw)
    if isinstance(source, Resident):
        clips, batches = source.clips, source.batches(*drawn_from)
    else:
        clips, batches = source, training_batches(source, *drawn_from)
    total, waiting = 0.0, []
    told = tqdm(total=len(clips), desc=f"epoch {epoch}/{config.epochs}", unit="clip", leave=False, disable=None)
    for batch in batches:
        waiting.append((train_step(network, task, optimizer, batch, config, epoch), batch.index))
        if len(waiting) == LOOK_EVERY[config.device]:
            total = add_losses(total, waiting, clips, epoch)
            waiting = []
        told.update(len(batch.index))
    total = add_losses(total, waiting, clips, epoch)
    told.close()
    return total / len(clips)


def add_losses(total: float, steps: Sequence[tuple[Tensor, np.ndarray]], clips: Clips, epoch: int) -> float:
    """The total and, for each step's loss, as often as its batch has clips, that loss.

    Raises:
        TrainingError: a loss is not finite; names the clips of the first such batch.
    """
    losses = torch.stack([loss for loss, _ in steps]).tolist() if steps else []
    for loss, (_, index) in zip(losses, steps, strict=True):
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss} in epoch {epoch} on the batch of {clip_names(clips, index)}. Look at these clips, "
                "or lower the learning rate."
            )
        total += loss * len(index)
    return total


def fit(
    network: Network,
    task: Task,
    clips: Clips,
    config: TrainingConfig,
    validate: Callable[[Network], Validation],
    save_best: Callable[[Mapping[str, Tensor], Epoch], None],
    on_epoch: Callable[[Epoch], None],
    states: States | None = None,
) -> Epoch:
    """Trains, validates, reports, keeps the best epoch on disk, and after each epoch all that the next depends on.

    Args:
        network: the network to train, in place.
        task: the objective.
        clips: the training split.
        config: how to train.
        validate: scores the network on the validation clips.
        save_best: writes the weights of an epoch that is the best so far.
        on_epoch: told of each epoch once its weights, if best, are written.
        states: where a training that was killed goes on, bit for bit on the CPU; None: it begins, and keeps none.

    Returns:
        The best epoch.

    Raises:
        InputError: a state can't be written.
        TrainingError: the objective or an output is not finite.
    """
    network.to(config.device)
    optimizer = make_optimizer(network, config)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.9, patience=5)
    best: Epoch | None = None
    done = 0
    if states is not None and (state := states.latest()) is not None:
        network.load_state_dict(state.weights)
        optimizer.load_state_dict(dict(state.optimizer))
        scheduler.load_state_dict(dict(state.scheduler))
        best, done = state.best, state.epoch
        del state
    source = make_resident(clips, config.device) or clips
    for number in range(done + 1, config.epochs + 1):
        rate = optimizer.param_groups[0]["lr"]
        began = time.perf_counter()
        loss = train_epoch(network, task, optimizer, source, config, number)
        seconds = time.perf_counter() - began
        validation = validate(network)
        score = validation.score
        is_best = best is None or score > best.score or (math.isnan(best.score) and not math.isnan(score))
        epoch = Epoch(number, loss, rate, seconds, score, is_best, validation.scores)
        if is_best or best is None:
            best = epoch
            save_best(network.state_dict(), epoch)
        on_epoch(epoch)
        scheduler.step(score)
        if states is not None:
            states.write(State(number, best, network.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    assert best is not None
    return best
