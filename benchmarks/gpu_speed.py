"""Steps of training on a GPU, timed in three ways, for each system and batch and in turns.

- plain: float32, channels first, one .npy a clip, cropped on the host, the loss read at each step;
- ours: bf16, channels_last, the clips in the GPU's memory, as `exvo.training.loop` trains;
- bare: forward and backward alone, of ours, on one batch that is there already: what arithmetic allows.

Ours and bare as they are (eager), compiled (torch.compile) and with CUDA graphs (mode reduce-overhead);
`exvo.training.loop` itself compiles nothing, because that could not be tried.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.files import Files
from exvo import systems
from exvo.batches.clips import Batch, Clips
from exvo.batches.epoch import training_batches
from exvo.batches.resident import ResidentClips
from exvo.config import FeatureConfig
from exvo.devices import resolve_precision
from exvo.enrolment import Draw
from exvo.features.store import Store
from exvo.networks.build import build_network
from exvo.networks.network import Network
from exvo.tasks import Task
from exvo.training.config import TrainingConfig
from exvo.training.loop import train_step
from exvo.training.objectives import objectives
from exvo.training.optimizers import make_optimizer

SYSTEMS = ("cnn14", "cnn14-attention-cnn10-layernorm-full")
SHOTS = 2
ABOUT = ("file", "content", "split", "speaker")  # columns of the labels that are no targets


@dataclass(frozen=True)
class Setting:
    """A corpus' features and labels, and how much is measured of them.

    Attributes:
        folder: see `benchmarks.gpu`.
        labels: its table.
        device: cpu or cuda.
        width: multiplier of the channels.
        warm, steps, repeats: steps before the clock starts, steps that are timed, and how often.
        batches: clips.
    """

    folder: Path
    labels: pd.DataFrame
    device: str
    width: float
    warm: int
    steps: int
    repeats: int
    batches: tuple[int, ...]

    @property
    def task(self) -> Task:
        """Few-shot, over all columns that are targets."""
        return Task("fewshot", tuple(column for column in map(str, self.labels) if column not in ABOUT))

    def rows(self, split: str) -> pd.DataFrame:
        """The labels of a split."""
        return self.labels[self.labels["split"] == split].reset_index(drop=True)

    def clips(self, split: str, features: Mapping[str, np.ndarray] | None = None) -> Clips:
        """A split, by default from the store."""
        rows = self.rows(split)
        features = Store(self.folder / "features", FeatureConfig()) if features is None else features
        files, contents, speakers = (rows[column].tolist() for column in ("file", "content", "speaker"))
        return Clips(files, contents, features, self.task.labels(rows), "repeat", speakers)

    def make(self, name: str, batch_size: int, precision: str, epochs: int = 1) -> tuple[Network, TrainingConfig]:
        """A system's network on the device, and how it trains."""
        system, clips = systems.find(name), self.clips("train")
        network = build_network(system, self.task, self.width, 0, "", clips)
        draw = None if system.enrolment == "none" else Draw(SHOTS, True, system.enrolment == "shared")
        given = (epochs, batch_size, 0.001, "sgd", 0, self.device, precision, draw, system.roles)
        return network.to(self.device).train(), TrainingConfig(*given)

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def full(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The batches of that size: the last of an epoch has another, for which a compiled network is compiled anew."""
    return (batch for batch in batches if len(batch.index) == size)


def hasten(setting: Setting, network: Network, mode: str) -> None:
    """Compiles what a network does in training; on the CPU, where this is only tested, without a compiler."""
    if mode != "eager":
        options = {"mode": "reduce-overhead"} if mode == "graphs" else {"backend": "inductor"}
        options = {"backend": "aot_eager"} if setting.device == "cpu" else options
        network.compile(dynamic=False, **options)


def plain_steps(setting: Setting, name: str, size: int) -> Iterator[int]:
    """Steps of the plain loop; each gives the number of its clips."""
    network, config = setting.make(name, size, "float32")
    network, optimizer = network.to(memory_format=torch.contiguous_format), make_optimizer(network, config)  # type: ignore[call-overload]
    clips = setting.clips("train", Files(setting.folder / "npy"))
    for epoch in count(1):
        for batch in full(training_batches(clips, size, 0, epoch, config.draw), size):
            train_step(network, setting.task, optimizer, batch, config, epoch).item()
            yield size


def our_steps(setting: Setting, name: str, size: int, mode: str, precision: str) -> Iterator[int]:
    """Steps of ours."""
    network, config = setting.make(name, size, precision)
    optimizer, resident = make_optimizer(network, config), ResidentClips(setting.clips("train"), setting.device)
    hasten(setting, network, mode)
    for epoch in count(1):
        for batch in full(resident.batches(size, 0, epoch, config.draw), size):
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            train_step(network, setting.task, optimizer, batch, config, epoch)
            yield size


def bare_steps(setting: Setting, name: str, size: int, mode: str, precision: str) -> Iterator[int]:
    """Forward and backward alone, on one batch."""
    network, config = setting.make(name, size, precision)
    batch = next(full(ResidentClips(setting.clips("train"), setting.device).batches(size, 0, 1, config.draw), size))
    hasten(setting, network, mode)
    factors = dict.fromkeys(config.roles, 1.0)
    while True:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch.autocast(setting.device, torch.bfloat16, enabled=precision == "bf16"):
            outputs = network(batch.log_mel, batch.enrolment, None, factors)
        network.zero_grad(set_to_none=True)
        objectives(outputs, setting.task, batch)["main"].backward()  # type: ignore[no-untyped-call]
        yield size


def rate(setting: Setting, steps: Iterator[int]) -> float:
    """Clips a second."""
    setting.wait()
    began = time.perf_counter()
    clips = sum(islice(steps, setting.steps))
    setting.wait()
    return clips / (time.perf_counter() - began)


def waits(setting: Setting, steps: Iterator[int]) -> float | None:
    """How often a step waits for the GPU, as PyTorch counts it."""
    if setting.device == "cpu":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in islice(steps, setting.steps):
            pass
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught) / setting.steps


def speed(setting: Setting, name: str, size: int) -> dict[str, object]:
    """Clips a second of a system at a batch, each way in turn, and ratios of ours: medians, lowest and highest."""
    precision = resolve_precision("auto", setting.device)
    ways: dict[str, Iterator[int]] = {"plain": plain_steps(setting, name, size)}
    for mode in ("eager", "compiled") if setting.device == "cpu" else ("eager", "compiled", "graphs"):
        ways[f"bare {mode}"] = bare_steps(setting, name, size, mode, precision)
        ways[f"ours {mode}"] = our_steps(setting, name, size, mode, precision)
    failed = {}
    for way in list(ways):
        try:
            rate(replace(setting, steps=setting.warm), ways[way])
        except RuntimeError as error:  # out of memory, or a compiler that is missing: the other ways go on
            failed[way] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            del ways[way]
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(setting.repeats):
        for way, steps in ways.items():
            rates[way].append(rate(setting, steps))
    row: dict[str, object] = {"system": name, "batch": size, "precision": precision, "failed": failed}
    row["clips a second"] = {way: statistics.median(values) for way, values in rates.items()}
    for way in (way for way in rates if way.startswith("ours")):
        for other in {"plain", way.replace("ours", "bare")} & set(rates):
            ratios = [value / base for value, base in zip(rates[way], rates[other], strict=True)]
            row[f"{way} over {other}"] = [statistics.median(ratios), min(ratios), max(ratios)]
    row["waits a step"] = waits(setting, ways["ours eager"]) if "ours eager" in ways else None
    return row
