"""Training: one step, the loop over epochs, best epoch and last state on disk. Knows neither MLflow nor Optuna."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from exvo.batches import Batch, Clips, evaluation_batches, training_batches
from exvo.checkpoints import Epoch, State, States
from exvo.config import InputError
from exvo.enrolment import Draw, encodings
from exvo.losses import emotion_loss, gradient_factor, task_loss, total_objective
from exvo.memory import keep_freed_memory
from exvo.networks.enrolment import Network
from exvo.resident import Resident, make_resident
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
    """The optimiser of all weights; SGD has momentum 0.9, AdamW weight decay 0.0001 (arXiv 2206.06680)."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), lr=config.learning_rate, momentum=0.9)
    if config.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    return torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)


def objectives(found: Mapping[str, Tensor], task: Task, batch: Batch) -> dict[str, Tensor]:
    """The objective of each output of `Network.training_outputs`: emotions by the task's, speakers by cross entropy."""
    parts = {"main": task_loss(task, found["main"].float(), batch.labels)}
    shots = 1 if batch.drawn is None else batch.drawn.shape[1]
    for name, outputs in found.items():
        if name == "enrolment_emotion":
            labels = batch.labels if batch.enrolment_labels is None else batch.enrolment_labels.flatten(0, 1)
            parts[name] = emotion_loss(task, outputs.float(), labels)
        elif name != "main":
            assert batch.speakers is not None
            speakers = batch.speakers.repeat_interleave(1 if name == "main_speaker" else shots)
            parts[name] = functional.cross_entropy(outputs.float(), speakers)
    return parts


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
                f"The loss is {loss} in epoch {epoch} on the batch of {named(clips, index)}. Look at these clips, or "
                "lower the learning rate."
            )
        total += loss * len(index)
    return total


def named(clips: Clips, index: Sequence[int] | np.ndarray) -> str:
    """The clips' files, for a sentence."""
    return ", ".join(clips.files[clip] for clip in index)


@torch.inference_mode()
def apply(
    function: Callable[[Tensor, np.ndarray], Tensor],
    clips: Clips,
    min_frames: int,
    device: str,
    batch_size: int | None = None,
    progress: str = "",
    frames: np.ndarray | None = None,
) -> np.ndarray:
    """What a network's function gives for whole clips, in float32.

    Clips of equal length share a batch, so that nothing is padded and what a clip gives does not depend on the others.

    Args:
        function: given (batch, frames, bands) on the device and the indices (batch,) of the clips.
        clips: of one split.
        min_frames: a shorter clip is filled to that.
        device: cpu or cuda.
        batch_size: clips in a batch at most; None: 4 on the CPU, whose caches hold no more, 64 on CUDA.
        progress: what the progress bar says; empty: no bar.
        frames: (clips,), the length that each clip is filled to with zeros; None: its own.

    Returns:
        (clips, numbers), in the order of `clips`.

    Raises:
        TrainingError: a number is not finite; names the clips.
    """
    batch_size = batch_size or (64 if device == "cuda" else 4)
    found: np.ndarray | None = None
    with tqdm(total=len(clips), desc=progress, unit="clip", leave=False, disable=None if progress else True) as bar:
        for batch in evaluation_batches(clips, batch_size, min_frames, frames):
            numbers = function(batch.log_mel.to(device), batch.index).float().cpu().numpy()
            if not np.isfinite(numbers).all():
                bad = batch.index[~np.isfinite(numbers).all(axis=1)]
                raise TrainingError(
                    f"The network's output is not finite for {named(clips, bad)}; the weights have diverged."
                )
            found = np.empty((len(clips), numbers.shape[1]), np.float32) if found is None else found
            found[batch.index] = numbers
            bar.update(len(batch.index))
    assert found is not None
    return found


def profiles(
    network: Network,
    clips: Clips,
    device: str,
    enrolment: Sequence[np.ndarray],
    protocol: str | None,
    batch_size: int | None = None,
) -> Tensor:
    """The profile of each speaker, on the device: (speakers, profile).

    Args:
        network: with a fusion, in evaluation mode.
        clips: that enrol, and maybe others.
        device: cpu or cuda.
        enrolment: for each speaker the indices of the clips that enrol them; where empty, the typical profile.
        protocol: how these are filled, see `encodings`.
        batch_size: as for `apply`.
    """
    wanted = encodings(enrolment, clips.frames(), protocol)
    found = np.tile(network.typical.float().cpu().numpy(), (len(enrolment), 1))
    if len(wanted.clips):
        embeddings = apply(
            lambda log_mel, _: network.enrol(log_mel),
            clips.take(wanted.clips),
            network.min_frames,
            device,
            batch_size,
            frames=wanted.frames,
        )
        for speaker, own in enumerate(wanted.own):
            if len(own):
                found[speaker] = embeddings[own].mean(axis=0)
    return torch.from_numpy(found).to(device)


def predict(
    network: Network,
    clips: Clips,
    device: str,
    enrolment: Sequence[np.ndarray] | None = None,
    batch_size: int | None = None,
    progress: str = "",
    protocol: str | None = None,
) -> np.ndarray:
    """The network's outputs for whole clips, in float32 and in evaluation mode; see `apply`.

    Args:
        network: with its weights.
        clips: of one split.
        device: cpu or cuda.
        enrolment: for each clip the indices of the clips that enrol its speaker; None: the typical profile for all.
            A network without fusion needs none.
        batch_size: as for `apply`.
        progress: what the progress bar says; empty: no bar.
        protocol: how enrolling clips are filled, see `encodings`.

    Returns:
        (clips, outputs), in the order of `clips`.

    Raises:
        TrainingError: an output is not finite; names the clips.
    """
    return predict_each(network, clips, device, [enrolment], batch_size, progress, protocol)[0]


def predict_each(
    network: Network,
    clips: Clips,
    device: str,
    enrolments: Sequence[Sequence[np.ndarray] | None],
    batch_size: int | None = None,
    progress: str = "",
    protocol: str | None = None,
) -> list[np.ndarray]:
    """The outputs of `predict` under each of several enrolments, in one pass over the clips.

    Only conditioning, which reaches into the encoder, takes a forward pass for each of them.
    """
    network.eval().to(device)
    known = [
        profiles(network, clips, device, one, protocol, batch_size)
        if network.personalised and one is not None
        else None
        for one in enrolments
    ]

    def answer(log_mel: Tensor, index: np.ndarray) -> Tensor:
        embedding = None if network.fusion == "conditioning" else network.embed(log_mel)
        return torch.cat([network(log_mel, None if one is None else one[index], embedding) for one in known], dim=1)

    return np.split(apply(answer, clips, network.min_frames, device, batch_size, progress), len(known), axis=1)


def fit(
    network: Network,
    task: Task,
    clips: Clips,
    config: TrainingConfig,
    validate: Callable[[Network], float],
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
        validate: the score that chooses the best epoch (higher is better; NaN, where undefined, is never better).
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
        score = float(validate(network))
        is_best = best is None or score > best.score or (math.isnan(best.score) and not math.isnan(score))
        epoch = Epoch(number, loss, rate, seconds, score, is_best)
        if is_best or best is None:
            best = epoch
            save_best(network.state_dict(), epoch)
        on_epoch(epoch)
        scheduler.step(score)
        if states is not None:
            states.write(State(number, best, network.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    assert best is not None
    return best
