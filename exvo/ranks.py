"""The ranks of a training on several devices: processes of which each computes a part of every batch.

The first rank has the number 0. What is said here of several ranks costs nothing on one device: there each function
gives back what it is given, without any communication. Texts and weights are sent as JSON and bytes, never as pickles.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from exvo.errors import InputError, TrainingError

PATIENCE = timedelta(days=1)
"""What ranks wait for each other: the first extracts features and logs while the others wait.

A rank that dies is noticed at once, because its connections end.
"""

Result = TypeVar("Result")


class RankLost(TrainingError):
    """Another rank has ended, so that this one can't go on."""


def started() -> int:
    """The ranks that a launcher such as torchrun has started this process as one of; 1: it is none."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def count() -> int:
    """The ranks that have joined; 1 where there is nobody to share with."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this rank, from 0."""
    return dist.get_rank() if count() > 1 else 0


def resolve_devices(devices: int, device: str) -> int:
    """How many devices train together: those of the option, or the ranks that torchrun has started.

    Args:
        devices: the option.
        device: cpu or cuda.

    Raises:
        InputError: torchrun has started another number of ranks, or there are fewer cores or GPUs here.
    """
    ranks = started()
    if ranks > 1 and devices not in (1, ranks):
        raise InputError(f"devices={devices}, but torchrun has started {ranks} ranks; leave devices out.")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if ranks > 1 else devices
    there_are = torch.cuda.device_count() if device == "cuda" else max(2, os.cpu_count() or 1)
    if here > 1 and here > there_are:
        unit = "GPUs that PyTorch finds" if device == "cuda" else "cores"
        raise InputError(
            f"devices={devices if ranks == 1 else ranks}: {here} ranks on a machine with {there_are} {unit} would wait "
            "for each other; give fewer."
        )
    return max(devices, ranks)


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Connects the ranks that were started, each with its own GPU where `device` is cuda.

    Raises:
        RankLost: a rank has ended before the work was done.
    """
    if started() == 1:
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    has_ended = False
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
        yield
        has_ended = True
    except RuntimeError as error:
        if not _is_of_connection(error):
            raise
        raise RankLost(
            f"One of the {started()} ranks has ended, so the others stop; the same command goes on."
        ) from None
    finally:
        if dist.is_initialized() and (has_ended or device == "cpu"):  # NCCL would wait for the others
            dist.destroy_process_group()


def _is_of_connection(error: RuntimeError) -> bool:
    """Whether an error comes from the connections between the ranks; those of gloo have no type of their own."""
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and "/gloo/" in str(error))


def parallel(network: nn.Module, device: str) -> nn.Module:
    """The network as training calls it, whose backward pass takes the mean of the gradients over the ranks.

    On GPUs its batch norms are changed in place to take their statistics over all ranks.
    """
    if count() == 1 or not any(weight.requires_grad for weight in network.parameters()):
        return network
    if device == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(network, broadcast_buffers=False)


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all ranks, one after the other.

    The gradient reaches the own rows alone. `parallel` takes the mean over the ranks, so the gradient of what is
    computed from all rows is theirs after it is multiplied by the number of ranks.

    Args:
        rows: (own rows, ...).
        counts: the rows of each rank.

    Returns:
        (rows, ...).
    """
    parts = _gather(rows.detach(), counts)
    parts[rank()] = rows
    return torch.cat(parts)


def _gather(rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """The rows of each rank; those of a rank that has fewer are padded on their way."""
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return [part[:size] for part, size in zip(parts, counts, strict=True)]


def mean_of_rows(rows: Tensor) -> Tensor:
    """The mean over the rows of all ranks: (own rows, numbers) -> (numbers,)."""
    if count() == 1:
        return rows.mean(dim=0)
    total = torch.cat([rows.sum(dim=0), rows.new_tensor([len(rows)])])
    dist.all_reduce(total)
    return total[:-1] / total[-1]


def own_clips(lengths: np.ndarray) -> np.ndarray | None:
    """The clips of which this rank computes the outputs, so that all ranks have as many of each length.

    Args:
        lengths: (clips,), in frames.

    Returns:
        (own clips,), indices; None where each rank computes all, because it is the only one or they are so few.
    """
    if count() == 1 or len(lengths) < count():
        return None
    return np.argsort(lengths, kind="stable")[rank() :: count()]


def collect(outputs: np.ndarray, own: np.ndarray, clips: int) -> np.ndarray:
    """The outputs of all clips from those that each rank has computed: (own clips, outputs) -> (clips, outputs)."""
    whole = torch.zeros(clips, outputs.shape[1])
    whole[torch.from_numpy(own)] = torch.from_numpy(outputs)
    dist.all_reduce(whole)
    return whole.numpy()


@torch.no_grad()
def average_buffers(network: nn.Module) -> None:
    """Gives all ranks the mean of their buffers: of the statistics by which batch norms evaluate."""
    if count() == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= count()


@torch.no_grad()
def copy_from_first(network: nn.Module) -> None:
    """Gives all ranks the weights and buffers of the first."""
    if count() == 1:
        return
    for tensor in network.state_dict().values():
        copy = tensor.contiguous()
        dist.broadcast(copy, 0)
        tensor.copy_(copy)


def from_first(value: Any) -> Any:
    """What the first rank gives, on all ranks; JSON must be able to hold it."""
    if count() == 1:
        return value
    return json.loads(bytes_from_first(json.dumps(value).encode()))


def bytes_from_first(content: bytes) -> bytes:
    """The bytes that the first rank gives, on all ranks."""
    size = torch.tensor([len(content)])
    dist.broadcast(size, 0)
    data = torch.empty(int(size), dtype=torch.uint8)
    if rank() == 0:
        data.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    dist.broadcast(data, 0)
    return data.numpy().tobytes()


def texts_of_all(text: str) -> list[str]:
    """The text that each rank gives."""
    if count() == 1:
        return [text]
    content = torch.tensor(list(text.encode()), dtype=torch.uint8)
    sizes = _gather(torch.tensor([len(content)]), [1] * count())
    return [part.numpy().tobytes().decode() for part in _gather(content, [int(size) for size in sizes])]


def together(work: Callable[[], Result]) -> Result:
    """What the work gives on this rank; where it is refused on one rank, all ranks refuse it with that sentence.

    Raises:
        InputError: as the work does.
        TrainingError: as the work does.
    """
    if count() == 1:
        return work()
    refused: InputError | TrainingError | None = None
    try:
        result = work()
    except (InputError, TrainingError) as error:
        refused = error
    texts = texts_of_all("" if refused is None else json.dumps([isinstance(refused, InputError), str(refused)]))
    for number, text in enumerate(texts):
        if text:
            is_input, sentence = json.loads(text)
            sentence = f"On rank {number}: {sentence}" if number else sentence
            raise (InputError if is_input else TrainingError)(sentence)
    return result
