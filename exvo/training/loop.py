"""Training: one step, one epoch, and the loop over epochs, with the best weights and the last state on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from exvo import ranks
from exvo.batches.clips import Batch, Clips
from exvo.batches.epoch import draw_epoch, training_batches
from exvo.batches.resident import ResidentClips, make_resident
from exvo.batches.shares import share_counts, share_of
from exvo.devices import keep_freed_memory
from exvo.errors import TrainingError
from exvo.networks.inference import clip_names
from exvo.networks.network import Network
from exvo.progress import counting
from exvo.tasks import Task
from exvo.training.augmentation import Augment, Augmentation
from exvo.training.config import TrainingConfig
from exvo.training.objectives import gradient_factor, objectives, total_objective
from exvo.training.optimizers import Schedule, is_per_step, make_optimizer
from exvo.training.states import Epoch, State, States, from_first_rank


@dataclass(frozen=True)
class Validation:
    """The scores of an epoch on the validation clips.

    Attributes:
        score: that chooses the best epoch, higher is better; NaN, where undefined, is never better.
        scores: others to be logged, by name.
    """

    score: float
    scores: Mapping[str, float] = field(default_factory=dict)


def train_step(
    network: nn.Module,
    task: Task,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: TrainingConfig,
    epoch: int,
    augment: Callable[[Batch], Batch] | None = None,
) -> Tensor:
    """One step of the optimiser on one batch, of which each rank computes its part.

    Args:
        network: as `ranks.parallel` gives it, in training mode, on the device.
        task: what the outputs are.
        optimizer: of the network's weights.
        batch: the whole of it, on any device.
        config: how to train.
        epoch: 1 is the first.
        augment: changes the batch on the device; None: it stays as it is.

    Returns:
        The objective of the whole batch, a number on the device.
    """
    batch = batch.to(config.device)
    batch = augment(batch) if augment else batch
    counts = share_counts(batch, ranks.count()) if ranks.count() > 1 else None
    own = batch if counts is None else share_of(batch, counts, ranks.rank())
    factors = {name: gradient_factor(role, epoch) for name, role in config.roles.items()}
    with torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bf16"):
        outputs: dict[str, Tensor] = network(own.log_mel, own.enrolment, own.enrols, factors)
    if counts is not None:
        outputs = {name: gather_outputs(each, counts) for name, each in outputs.items()}
    weights = torch.tensor(config.category_weights, device=config.device) if config.category_weights else None
    loss = total_objective(objectives(outputs, task, batch, config.label_smoothing, weights))
    optimizer.zero_grad(set_to_none=True)
    (loss if counts is None else loss * ranks.count()).backward()  # type: ignore[no-untyped-call]
    if config.clip_gradient:
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_gradient)
    optimizer.step()
    return loss.detach()


def gather_outputs(outputs: Tensor, counts: Sequence[int]) -> Tensor:
    """The outputs of the whole batch from this rank's, one row or more a clip; see `ranks.gather_rows`.

    Args:
        outputs: (own clips x rows, outputs).
        counts: the clips of each rank.

    Returns:
        (clips x rows, outputs), in single precision.
    """
    rows = len(outputs) // counts[ranks.rank()]
    return ranks.gather_rows(outputs.float(), [clips * rows for clips in counts])


CHECK_EVERY = {"cpu": 1, "cuda": 50}
"""Steps after which their losses are checked: to read a loss from a GPU waits until all steps up to it are done."""


DROPOUT_STEP = 2**48
"""Between the seeds of two ranks' dropout, so that no two ranks drop the same."""


@dataclass(frozen=True)
class StepLoss:
    """The objective of one step.

    Attributes:
        loss: a number on the device, the mean over the clips of the batch.
        index: (batch,), indices of the clips.
    """

    loss: Tensor
    index: np.ndarray


def train_epoch(
    network: nn.Module,
    task: Task,
    optimizer: torch.optim.Optimizer,
    source: Clips | ResidentClips,
    config: TrainingConfig,
    epoch: int,
    schedule: Schedule | None = None,
) -> float:
    """One pass over the training clips.

    Args:
        network: as `ranks.parallel` gives it; it is trained in place.
        task: what the outputs are.
        optimizer: of the network's weights.
        source: the training clips: batches come from the feature store, or from the device if the clips are there.
        config: how to train.
        epoch: 1 is the first.
        schedule: of the step size; None: it does not change.

    Returns:
        The mean over the clips of their batch's objective.

    Raises:
        TrainingError: the objective of a batch is not finite; names the batch's clips.
    """
    keep_freed_memory()
    network.train()
    torch.manual_seed(config.seed * 1_000_003 + epoch + ranks.rank() * DROPOUT_STEP)  # dropout
    augment = None
    if config.augment != Augment():
        augment = Augmentation(config.augment, config.seed, epoch)
    options = (config.batch_size, config.seed, epoch, config.draw, config.crop_frames)
    if isinstance(source, ResidentClips):
        clips, batches = source.clips, source.batches(*options)
    else:
        clips, batches = source, training_batches(source, *options)
    total, seen = 0.0, 0
    unchecked: list[StepLoss] = []
    with counting(f"epoch {epoch}/{config.epochs}", len(clips), "clip") as done:
        for batch in batches:
            unchecked.append(StepLoss(train_step(network, task, optimizer, batch, config, epoch, augment), batch.index))
            if schedule is not None:
                schedule.after_step()
            if len(unchecked) == CHECK_EVERY[config.device]:
                total = add_losses(total, unchecked, clips, epoch)
                unchecked = []
            seen += len(batch.index)
            done(len(batch.index))
    total = add_losses(total, unchecked, clips, epoch)
    return total / seen


def add_losses(total: float, steps: Sequence[StepLoss], clips: Clips, epoch: int) -> float:
    """The sum of the losses of all clips so far; the loss of a clip is that of its batch.

    Args:
        total: the sum before these steps.
        steps: the next steps.
        clips: the training split, for a sentence.
        epoch: 1 is the first, for a sentence.

    Raises:
        TrainingError: a loss is not finite; names the clips of the first such batch.
    """
    losses = torch.stack([step.loss for step in steps]).tolist() if steps else []
    for loss, step in zip(losses, steps, strict=True):
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss} in epoch {epoch} on the batch of {clip_names(clips, step.index)}. Look at these "
                "clips, or lower the learning rate."
            )
        total += loss * len(step.index)
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
    """Trains a network epoch by epoch: validates, reports, and keeps the best weights and the last state on disk.

    It stops early after `config.patience` epochs without a better score, and says so. A network that is not trained
    (the prior) has one epoch, whose loss is NaN. Of several ranks all train; what is written, the first writes.

    Args:
        network: the network to train, in place; all ranks start from the first one's.
        task: what the outputs are.
        clips: the training split.
        config: how to train.
        validate: scores the network on the validation clips; of several ranks the first one's score counts.
        save_best: writes the weights of an epoch that is the best so far.
        on_epoch: called after each epoch, when its weights, if best, are written.
        states: the states on disk: training resumes from the last one, bit for bit on the CPU, and writes one after
            each epoch; None: training begins with epoch 1 and writes none.

    Returns:
        The best epoch.

    Raises:
        InputError: a state can't be written.
        TrainingError: the objective or an output is not finite.
    """
    network.to(config.device)
    optimizer = make_optimizer(network, config)
    schedule = Schedule(optimizer, config, steps_of_epoch(clips, config))
    best, finished = restore(states, network, optimizer, schedule)
    trained_network = ranks.parallel(network, config.device)
    resident = None if clips.versions else make_resident(clips, config.device)
    for number in range(finished + 1, 1 + (config.epochs if network.trainable else 1)):
        if stops_early(best, number, config):
            break
        rate = optimizer.param_groups[0]["lr"]
        began = time.perf_counter()
        source = resident or clips.of_epoch(config.seed, number)
        options = (optimizer, source, config, number, schedule)
        loss = train_epoch(trained_network, task, *options) if network.trainable else math.nan
        ranks.average_buffers(network)
        trained = time.perf_counter()
        validation = validate(network)
        seconds, validated = trained - began, time.perf_counter() - trained
        score = ranks.from_first(validation.score)
        is_best = best is None or score > best.score or (math.isnan(best.score) and not math.isnan(score))
        epoch = Epoch(number, loss, rate, seconds, score, is_best, validation.scores, validated)
        if is_best or best is None:
            best = epoch
            save_best(network.state_dict(), epoch)
        on_epoch(epoch)
        schedule.after_epoch(score)
        if states is not None:
            states.write(State(number, best, network.state_dict(), optimizer.state_dict(), schedule.state_dict()))
    assert best is not None
    return best


def restore(
    states: States | None, network: Network, optimizer: torch.optim.Optimizer, schedule: Schedule
) -> tuple[Epoch | None, int]:
    """Puts network, optimiser and schedule into the last state on disk, if there is one.

    Returns:
        The best epoch so far, None where none is finished, and the number of finished epochs.
    """
    state = from_first_rank(None if states is None else states.latest())
    if state is None:
        ranks.copy_from_first(network)
        return None, 0
    network.load_state_dict(state.weights)
    optimizer.load_state_dict(dict(state.optimizer))
    schedule.load_state_dict(dict(state.scheduler))
    return state.best, state.epoch


def stops_early(best: Epoch | None, number: int, config: TrainingConfig) -> bool:
    """Whether training ends before epoch `number`, because its patience is over; says so."""
    if best is None or not config.patience or number - 1 - best.number < config.patience:
        return False
    print(f"stops after epoch {number - 1}: no better score in {config.patience} epochs")
    return True


def steps_of_epoch(clips: Clips, config: TrainingConfig) -> int:
    """The steps of an epoch, for schedules that must know it; else 0."""
    if not is_per_step(config.schedule):
        return 0
    return sum(1 for _ in draw_epoch(clips, config.batch_size, config.seed, 1, config.draw))
