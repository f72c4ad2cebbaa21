"""Training in several processes: clips a second of one and of two with a thread each, and 8 GPUs on paper.

python -m benchmarks.ranks            # the paper alone: weights, bytes, operations, and what follows from them
python -m benchmarks.ranks <store>    # one rank of the measurement; `make bench` starts them
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import learning
from benchmarks.timing import REPEATS, Row, row
from exvo import ranks
from exvo.batches.clips import Clips
from exvo.batches.epoch import training_batches
from exvo.batches.shares import share_counts, share_of
from exvo.config import CROP_FRAMES, FeatureConfig
from exvo.experiments.several import LOOPBACK, free_port
from exvo.features.store import Store
from exvo.networks.network import Network
from exvo.training.loop import train_epoch, train_step
from exvo.training.optimizers import make_optimizer

MODEL, WIDTH = "cnn10", 0.25


def rows(store: Store, clips: int = 256) -> Iterator[Row]:
    """Epochs of two processes against those of one, one thread each."""
    one, two = (measured(store, count, clips) for count in (1, 2))
    seconds, alone = statistics.median(two["seconds"]), statistics.median(two["alone"])
    also = {"clips a second": clips / seconds, "communication, % of the time": 100 * (1 - alone / seconds)}
    what = f"training epochs of {MODEL}, width {WIDTH:g}, batch 32, {clips} clips, two processes of one thread"
    ratios = [before / after for before, after in zip(one["seconds"], two["seconds"], strict=True)]
    yield row(what, "one process of one thread", ratios, also=also)


def measured(store: Store, count: int, clips: int) -> dict[str, list[float]]:
    """What the first of so many ranks prints, see `main`."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    variables |= {"MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": LOOPBACK.get(sys.platform, "")}
    words = [sys.executable, "-m", "benchmarks.ranks", str(store.root), str(clips)]
    processes = [
        subprocess.Popen(words, env=variables | {"RANK": str(number)}, stdout=subprocess.PIPE, text=True)
        for number in range(count)
    ]
    texts = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("a rank of the measurement has failed")
    result: dict[str, list[float]] = json.loads(texts[0])
    return result


def epochs_together(clips: Clips) -> list[float]:
    """The seconds of epochs in which the ranks train together; the first is not counted."""
    network, config = learning.make(MODEL, WIDTH, clips)
    optimizer = make_optimizer(network, config)
    parallel = ranks.parallel(network, "cpu")
    seconds = []
    for number in range(1 + REPEATS):
        ranks.from_first(None)
        began = time.perf_counter()
        train_epoch(parallel, learning.TASK, optimizer, clips, config, 1 + number)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def epochs_alone(clips: Clips, rank: int, count: int) -> list[float]:
    """The same work without any communication: this rank's part of each batch is its whole batch."""
    network, config = learning.make(MODEL, WIDTH, clips)
    optimizer = make_optimizer(network, config)
    network.train()
    seconds = []
    for number in range(1 + REPEATS):
        began = time.perf_counter()
        for batch in training_batches(clips, config.batch_size, config.seed, 1 + number, config.draw):
            counts = share_counts(batch, count)
            own = batch if counts is None else share_of(batch, counts, rank)
            train_step(network, learning.TASK, optimizer, own, config, 1).item()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def main() -> None:
    """Prints the seconds of each epoch, together and alone, as JSON; without a store the paper."""
    if len(sys.argv) == 1:
        print(paper())
        return
    store = Store(sys.argv[1], FeatureConfig())
    clips = learning.random_clips(store, sorted(store)[: int(sys.argv[2])])
    with ranks.joined("cpu"):
        together, number, count = epochs_together(clips), ranks.rank(), ranks.count()
    print(json.dumps({"seconds": together, "alone": epochs_alone(clips, number, count)}))


@dataclass(frozen=True)
class Machine:
    """Eight GPUs in one machine, as their maker and the libraries' authors give them, with what is assumed of them."""

    gpus: int = 8
    operations: float = 0.3 * 989e12  # a second: 30% of an H100's bf16 peak, which convolutions of this size may reach
    bandwidth: float = 300e9  # bytes a second of an all-reduce over NVLink: two thirds of the 450e9 of a direction
    latency: float = 20e-6  # seconds of a collective of a few bytes
    host: float = 1e-3  # seconds that the host needs to start the kernels of a step


@dataclass(frozen=True)
class Cost:
    """A training step on one GPU and on several, in seconds, and what it rests on.

    Attributes:
        weights: numbers that are trained.
        operations: of the forward pass of one clip of 2.5 s.
        one: a step on one GPU.
        several: a step on all of them.
        sent: of that, what is sent and not hidden behind the backward pass.
    """

    weights: int
    operations: float
    one: float
    several: float
    sent: float


def cost(network: Network, batch: int, machine: Machine) -> Cost:
    """The cost of a training step.

    A step computes three times the forward pass: two for the gradients. The gradients, 4 bytes a weight, are sent in a
    ring, 2 (n - 1) / n times their bytes, while the backward pass still computes. Each batch norm sends two small
    messages forward and back; the outputs are gathered in one.

    Args:
        network: on PyTorch's device `meta`, where nothing is computed.
        batch: clips in all.
        machine: that trains.
    """
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network.predict(torch.empty(1, CROP_FRAMES, FeatureConfig.bands, device="meta"))
    operations = float(counter.get_total_flops())
    weights = sum(weight.numel() for weight in network.parameters())
    norms = sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules())
    ring = 2 * (machine.gpus - 1) / machine.gpus * 4 * weights / machine.bandwidth + machine.latency
    forward_and_back = 3 * operations * batch / machine.operations
    own = forward_and_back / machine.gpus
    sent = max(0.0, ring - own * 2 / 3) + (2 * norms + 1) * machine.latency
    return Cost(weights, operations, max(forward_and_back, machine.host), max(own, machine.host) + sent, sent)


def paper(machine: Machine | None = None) -> str:
    """The costs of some networks as a table in Markdown."""
    machine = machine or Machine()
    heads = ["network", "weights", "gradients, MB", "G operations a clip", "batch", "step on 1, ms"]
    heads += [f"on {machine.gpus}, ms", "of it sending", "times as fast"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for encoder in ("cnn14", "cnn10", "resnet"):
        for batch in (32, 256, 2048):
            with torch.device("meta"):
                network = Network(encoder, 30)
            one = cost(network, batch, machine)
            lines.append(
                f"| {encoder} | {one.weights / 1e6:.1f} M | {4 * one.weights / 1e6:.0f} | {one.operations / 1e9:.2f} | "
                f"{batch} | {1000 * one.one:.2f} | {1000 * one.several:.2f} | {100 * one.sent / one.several:.0f}% | "
                f"{one.one / one.several:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
