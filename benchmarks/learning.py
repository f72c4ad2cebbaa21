"""Training: epochs against the plain loop, waiting for data, and whether bf16 trains to the same score."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from benchmarks import plain
from exvo import systems
from exvo.batches.clips import Clips
from exvo.batches.epoch import training_batches
from exvo.config import EMOTIONS
from exvo.corpora.base import Corpus
from exvo.devices import resolve_precision
from exvo.enrolment import Draw
from exvo.evaluation import scoring
from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.features.store import Store
from exvo.networks.build import build_network
from exvo.networks.inference import predict_clips
from exvo.networks.network import Network
from exvo.tasks import Task, make_task
from exvo.training.config import TrainingConfig
from exvo.training.loop import Validation, fit, train_epoch, train_step
from exvo.training.optimizers import make_optimizer

TASK = Task("fewshot", EMOTIONS)
SEEDS = (0, 1, 2)
EPOCHS = 12


def make(name: str, width: float, clips: Clips) -> tuple[Network, TrainingConfig]:
    """A system's network, and how it trains by default in batches of 32."""
    system = systems.find(name)
    network = build_network(system, TASK, width, 0, "", clips)
    draw = None if system.enrolment == "none" else Draw(2, False, system.enrolment == "shared")
    precision = resolve_precision("auto", "cpu")
    return network, TrainingConfig(1, 32, 0.001, "sgd", 0, "cpu", precision, draw, system.roles)


def random_clips(store: Store, contents: list[str]) -> Clips:
    """Clips with random labels, ten a speaker."""
    labels = np.random.default_rng(0).random((len(contents), len(EMOTIONS)))
    return Clips(contents, contents, store, labels, "repeat", [f"speaker {n // 10}" for n in range(len(contents))])


def epoch(name: str, width: float, clips: Clips) -> Callable[[], object]:
    """An epoch of a system."""
    network, config = make(name, width, clips)
    optimizer = make_optimizer(network, config)
    return lambda: train_epoch(network, TASK, optimizer, clips, config, 1)


def epoch_and_validation(
    encoder: str, store: Store, training: list[str], held_out: list[str], folder: Path
) -> tuple[Callable[[], object], Callable[[], object], Callable[[], object]]:
    """An epoch at full width and its validation: ours, the plain loop's, and the plain loop's with our malloc."""
    for content in (*training, *held_out):
        np.save(folder / f"{content}.npy", store[content])
    clips, others = random_clips(store, training), random_clips(store, held_out)
    network, config = make(encoder, 1.0, clips)
    optimizer = make_optimizer(network, config)

    def ours() -> None:
        train_epoch(network, TASK, optimizer, clips, config, 1)
        predict_clips(network, others, "cpu")

    arguments = (encoder, folder, training, held_out, clips.labels)
    return ours, elsewhere(plain.loop, *arguments), plain.loop(*arguments)


def elsewhere(make: Callable[..., Callable[[], object]], *arguments: object) -> Callable[[], object]:
    """What `make(*arguments)` returns, called in a process of its own, which has malloc as the system sets it.

    `exvo.devices` sets it for the whole process, so that a loop beside ours would gain from it too.
    """
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    pool.submit(_keep, make, *arguments).result()
    return lambda: pool.submit(_call).result()


_kept: Callable[[], object] = int


def _keep(make: Callable[..., Callable[[], object]], *arguments: object) -> None:
    global _kept
    _kept = make(*arguments)


def _call() -> None:
    _kept()


def waiting(name: str, width: float, clips: Clips) -> tuple[float, float]:
    """Seconds of an epoch that the train step waits for its batches, and all of the epoch's."""
    network, config = make(name, width, clips)
    optimizer = make_optimizer(network, config)
    network.train()
    waited, began = 0.0, time.perf_counter()
    batches = training_batches(clips, config.batch_size, 0, 1, config.draw)
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            return waited, time.perf_counter() - began
        train_step(network, TASK, optimizer, batch, config, 1)


def bf16_against_float32(corpus: Corpus, store: Store, audio: pd.DataFrame) -> dict[str, object]:
    """The validation CCC of a small CNN10 on the sample corpus, trained in both precisions with three seeds.

    The interval of the mean difference resamples speakers, the same for all six networks.
    """
    system, contents = systems.find("cnn10"), audio["content"].to_numpy()
    task = make_task("fewshot", corpus.clips, corpus.targets, corpus.name, bool(corpus.categories))

    def clips(split: str) -> tuple[pd.DataFrame, Clips]:
        rows = corpus.clips[corpus.clips["split"] == split]
        files = rows["file"].tolist()
        return rows, Clips(files, contents[rows.index].tolist(), store, task.labels(rows), "repeat")

    (_, training), (rows, held_out) = clips("train"), clips("val")

    def table(network: Network) -> pd.DataFrame:
        return task.table(rows, predict_clips(network, held_out, "cpu"), np.ones(len(rows), bool))

    def best_predictions(precision: str, seed: int) -> pd.DataFrame:
        network = build_network(system, task, 0.25, seed, "", training)
        config = TrainingConfig(EPOCHS, 8, 0.01, "sgd", seed, "cpu", precision)
        kept: dict[str, torch.Tensor] = {}
        fit(
            network,
            task,
            training,
            config,
            lambda network: Validation(float(scoring.score_epoch(table(network), task)["emotion_ccc"])),
            lambda weights, _: kept.update({name: tensor.clone() for name, tensor in weights.items()}),
            lambda _: None,
        )
        network.load_state_dict(kept)
        return table(network)

    scores: dict[str, list[float]] = {"float32": [], "bf16": []}
    differences = []
    for seed in tqdm(SEEDS, "bf16 against float32", leave=False, disable=None):
        samples = {}
        for precision, of_seeds in scores.items():
            predictions = best_predictions(precision, seed)
            per_clip = scoring.statistics(predictions, task)
            of_seeds.append(float(per_clip.scores()["emotion_ccc"]))
            samples[precision] = bootstrap(per_clip, groups=predictions["speaker"].to_numpy())[["emotion_ccc"]]
        differences.append(samples["bf16"] - samples["float32"])
    ends = interval(sum(differences[1:], differences[0]) / len(SEEDS)).loc["emotion_ccc"].astype(float)
    return {
        "epochs": EPOCHS,
        "validation clips": len(rows),
        "speakers": int(rows["speaker"].nunique()),
        **scores,
        "difference": float(np.mean(scores["bf16"]) - np.mean(scores["float32"])),
        "lo_by_speaker": ends["ci_low"],
        "hi_by_speaker": ends["ci_high"],
    }
