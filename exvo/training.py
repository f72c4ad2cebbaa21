"""Training: one step, the loop over epochs, the best epoch on disk. Knows neither MLflow nor Optuna."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from exvo.batches import Batch, Clips, evaluation_batches, training_batches
from exvo.config import InputError
from exvo.tasks import Task


class TrainingError(RuntimeError):
    """Training can't go on: one sentence that names the clips and says what is kept."""


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
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str
    seed: int
    device: str
    precision: str


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave.

    Attributes:
        number: 1 is the first.
        loss: mean over the training clips of their batch's objective.
        learning_rate: of the epoch's steps.
        seconds: of training alone.
        score: that chooses the best epoch, on validation clips; NaN where it is undefined.
        best: whether no epoch before it had a better score.
    """

    number: int
    loss: float
    learning_rate: float
    seconds: float
    score: float
    best: bool


def resolve_device(device: str) -> str:
    """`auto` is cuda where there is one.

    Raises:
        InputError: cuda is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda, but PyTorch finds no CUDA device here; use device=cpu or auto.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def resolve_precision(precision: str, device: str) -> str:
    """`auto` is bf16 where the processor has instructions for it (AVX512-BF16, CUDA from Ampere on), else float32."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "float32"


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser of all weights; SGD has momentum 0.9 (arXiv 2206.06680)."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), lr=config.learning_rate, momentum=0.9)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(network.parameters(), lr=config.learning_rate)


def train_step(
    network: nn.Module, task: Task, optimizer: torch.optim.Optimizer, batch: Batch, config: TrainingConfig
) -> Tensor:
    """One step of the optimiser on one batch; returns the objective, a number on the device."""
    log_mel = batch.log_mel.to(config.device, non_blocking=True)
    labels = batch.labels.to(config.device, non_blocking=True)
    with torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bf16"):
        outputs = network(log_mel)
    loss = task.loss(outputs.float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def train_epoch(
    network: nn.Module, task: Task, optimizer: torch.optim.Optimizer, clips: Clips, config: TrainingConfig, epoch: int
) -> float:
    """One pass over the training clips; returns the mean of the objective over clips.

    Raises:
        TrainingError: the objective of a batch is not finite; names the batch's clips.
    """
    network.train()
    torch.manual_seed(config.seed * 1_000_003 + epoch)  # dropout
    total = 0.0
    steps = max(1, math.ceil(len(clips) / config.batch_size))
    batches = training_batches(clips, config.batch_size, config.seed, epoch)
    for batch in tqdm(batches, f"epoch {epoch}/{config.epochs}", steps, unit="batch", leave=False, disable=None):
        loss = train_step(network, task, optimizer, batch, config).item()
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss} in epoch {epoch} on the batch of {named(clips, batch.index)}. Look at "
                "these clips, or lower the learning rate."
            )
        total += loss * len(batch.index)
    return total / len(clips)


def named(clips: Clips, index: Sequence[int] | np.ndarray) -> str:
    """The clips' files, for a sentence."""
    return ", ".join(clips.files[clip] for clip in index)


@torch.inference_mode()
def predict(
    network: nn.Module, clips: Clips, device: str, batch_size: int | None = None, progress: str = ""
) -> np.ndarray:
    """The network's outputs for whole clips, in float32 and in evaluation mode.

    Clips of equal length share a batch, so that nothing is padded and a clip's outputs do not depend on the others.

    Args:
        network: takes (batch, frames, bands); has `min_frames`.
        clips: of one split.
        device: cpu or cuda.
        batch_size: clips in a batch at most; None: 4 on the CPU, whose caches hold no more, 64 on CUDA.
        progress: what the progress bar says; empty: no bar.

    Returns:
        (clips, outputs), in the order of `clips`.

    Raises:
        TrainingError: an output is not finite; names the clips.
    """
    network.eval().to(device)
    batch_size = batch_size or (64 if device == "cuda" else 4)
    outputs: np.ndarray | None = None
    with tqdm(total=len(clips), desc=progress, unit="clip", leave=False, disable=None if progress else True) as bar:
        for batch in evaluation_batches(clips, batch_size, network.min_frames):  # type: ignore[arg-type]
            found = network(batch.log_mel.to(device)).float().cpu().numpy()
            if not np.isfinite(found).all():
                bad = batch.index[~np.isfinite(found).all(axis=1)]
                raise TrainingError(
                    f"The network's output is not finite for {named(clips, bad)}; the weights have diverged."
                )
            outputs = np.empty((len(clips), found.shape[1]), np.float32) if outputs is None else outputs
            outputs[batch.index] = found
            bar.update(len(batch.index))
    assert outputs is not None
    return outputs


def fit(
    network: nn.Module,
    task: Task,
    clips: Clips,
    config: TrainingConfig,
    validate: Callable[[nn.Module], float],
    save_best: Callable[[Mapping[str, Tensor], Epoch], None],
    on_epoch: Callable[[Epoch], None],
) -> Epoch:
    """Trains, validates, reports, keeps the best epoch on disk.

    Args:
        network: the network to train, in place.
        task: the objective.
        clips: the training split.
        config: how to train.
        validate: the score that chooses the best epoch (higher is better; NaN, where undefined, is never better).
        save_best: writes the weights of an epoch that is the best so far.
        on_epoch: told of each epoch once its weights, if best, are written.

    Returns:
        The best epoch.

    Raises:
        TrainingError: the objective or an output is not finite.
    """
    network.to(config.device)
    optimizer = make_optimizer(network, config)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.9, patience=5)
    best: Epoch | None = None
    for number in range(1, config.epochs + 1):
        rate = optimizer.param_groups[0]["lr"]
        began = time.perf_counter()
        loss = train_epoch(network, task, optimizer, clips, config, number)
        seconds = time.perf_counter() - began
        score = validate(network)
        is_best = best is None or score > best.score or (math.isnan(best.score) and not math.isnan(score))
        epoch = Epoch(number, loss, rate, seconds, score, is_best)
        if is_best:
            best = epoch
            save_best(network.state_dict(), epoch)
        on_epoch(epoch)
        scheduler.step(score)
    assert best is not None
    return best
