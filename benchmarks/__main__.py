"""Measures exvo against the obvious way of doing the same, five times each, and writes docs/benchmarks.md and .json.

make bench                                     # the real clips beside this checkout, else the sample corpus
.venv/bin/python -m benchmarks --data <folder> # any folder in EmoGator's layout
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
import torchaudio
from tqdm import tqdm

from exvo import corpora, extraction, systems
from exvo.batches import Clips, training_batches
from exvo.bootstrap import bootstrap, ccc_statistics, draws, interval
from exvo.config import EMOTIONS, FeatureConfig
from exvo.enrolment import Draw
from exvo.evaluation import score
from exvo.metrics import ccc
from exvo.networks.enrolment import Network
from exvo.report import About, report
from exvo.store import Store
from exvo.tasks import Task
from exvo.training import TrainingConfig, make_optimizer, predict, resolve_precision, train_epoch

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "data" / "emogator-mini"
REPEATS = 5
FEATURES = FeatureConfig()


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(name: str, ours: Callable[[], object], plain: Callable[[], object], unit: str) -> dict[str, object]:
    """Times both, in turn, five times; the ratio is plain over ours, so more is better."""
    pairs = [(seconds(ours), seconds(plain)) for _ in tqdm(range(REPEATS), name, leave=False, disable=None)]
    ratios = [reference / own for own, reference in pairs]
    return {
        "what": name,
        "reference": unit,
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "seconds": statistics.median(own for own, _ in pairs),
    }


def extraction_of(folder: Path, files: list[str], name: str) -> dict[str, object]:
    """Against one clip at a time: soundfile, torchaudio's resampler and MelSpectrogram, one `.npy` a clip."""
    mel = torchaudio.transforms.MelSpectrogram(
        FEATURES.sample_rate,
        n_fft=FEATURES.window,
        hop_length=FEATURES.hop,
        f_min=FEATURES.fmin,
        f_max=FEATURES.fmax,
        n_mels=FEATURES.bands,
        norm="slaney",
        mel_scale="slaney",
    )

    def plain() -> None:
        with tempfile.TemporaryDirectory() as target:
            for number, file in enumerate(files):
                samples, rate = soundfile.read(folder / file, dtype="float32", always_2d=True)
                waveform = torchaudio.functional.resample(
                    torch.from_numpy(samples.mean(axis=1)), rate, FEATURES.sample_rate
                )
                np.save(f"{target}/{number}.npy", 10 * mel(waveform).clamp(min=FEATURES.floor).log10().T.numpy())

    def ours() -> None:
        with tempfile.TemporaryDirectory() as target:
            extraction.extract(folder, files, Path(target), FEATURES)

    return compare(f"extraction, {name}", ours, plain, "one clip at a time, torchaudio, one .npy a clip")


def store_batches(store: Store, contents: list[str]) -> dict[str, object]:
    """A random batch of 32 crops from the store, against one `.npy` a clip."""
    clips = Clips(contents, contents, store, np.zeros((len(contents), 1)), "repeat")
    with tempfile.TemporaryDirectory() as folder:
        for content in contents:
            np.save(f"{folder}/{content}.npy", store[content])

        class Files(dict[str, np.ndarray]):
            def __missing__(self, content: str) -> np.ndarray:
                return np.load(f"{folder}/{content}.npy")

        plain = Clips(contents, contents, Files(), clips.labels, "repeat")
        result = compare(
            "an epoch of batches of 32 from the store",
            lambda: list(training_batches(clips, 32, 0, 0)),
            lambda: list(training_batches(plain, 32, 0, 0)),
            "one .npy a clip",
        )
    return result | {"milliseconds a batch": 1000 * result["seconds"] / (len(contents) / 32)}  # type: ignore[operator]


def evaluation(store: Store, contents: list[str], encoder: str, width: float) -> dict[str, object]:
    """Whole clips in groups of equal length, against one at a time."""
    network = Network(encoder, 10, width).eval()
    clips = Clips(contents, contents, store, np.zeros((len(contents), 1)), "repeat")
    difference = np.abs(predict(network, clips, "cpu") - predict(network, clips, "cpu", batch_size=1)).max()
    result = compare(
        f"evaluation, {encoder}, width {width:g}, {len(contents)} clips",
        lambda: predict(network, clips, "cpu"),
        lambda: predict(network, clips, "cpu", batch_size=1),
        "one clip at a time",
    )
    return result | {"largest difference": float(difference)}


def training(store: Store, contents: list[str], model: str, width: float) -> dict[str, object]:
    """An epoch of a personalised system, against one of the plain CNN14 with the same batch size."""
    speakers = [f"speaker {number // 10}" for number in range(len(contents))]
    labels = np.random.default_rng(0).random((len(contents), 10))
    clips = Clips(contents, contents, store, labels, "repeat", speakers)
    task = Task("fewshot", EMOTIONS)

    def epoch(name: str) -> Callable[[], object]:
        system = systems.find(name)
        network = systems.build(system, task, width, 0, "", labels, len(set(speakers)))
        draw = None if system.enrolment == "none" else Draw(2, False, system.enrolment == "shared")
        precision = resolve_precision("auto", "cpu")
        config = TrainingConfig(1, 32, 0.001, "sgd", 0, "cpu", precision, draw, system.roles)
        optimizer = make_optimizer(network, config)
        return lambda: train_epoch(network, task, optimizer, clips, config, 1)

    name = f"a training epoch of {model}, width {width:g}, {len(contents)} clips, batch 32"
    return compare(name, epoch(model), epoch("cnn14"), "an epoch of the plain cnn14")


def intervals(clips: int) -> dict[str, object]:
    """1,000 resamples of ten CCCs, against a loop over the same resamples."""
    rng = np.random.default_rng(0)
    truth = rng.random((clips, 10))
    prediction = 0.5 * truth + 0.3 * rng.random((clips, 10))
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        every = ccc_statistics(truth, prediction, EMOTIONS, "emotion_ccc")
        found["ours"] = interval(bootstrap(every)).loc["emotion_ccc", ["ci_low", "ci_high"]].to_numpy(float)

    def plain() -> None:
        means = [ccc(truth[rows], prediction[rows]).mean() for chunk in draws(clips, 1000, 0) for rows in chunk]
        found["plain"] = np.percentile(means, [2.5, 97.5])

    result = compare(f"1,000 resamples, {clips:,} clips, ten emotions", ours, plain, "a loop over the same resamples")
    return result | {"largest difference": float(np.abs(found["ours"] - found["plain"]).max())}


def report_of(clips: int) -> dict[str, object]:
    """All scores, intervals, pictures and the page of a report, against a loop for one interval by clip alone."""
    rng = np.random.default_rng(0)
    people = rng.integers(700, size=clips)
    table = pd.DataFrame({"file": [f"{clip}.wav" for clip in range(clips)], "split": "test", "scored": True})
    table["speaker"] = [f"s{person}" for person in people]
    table["country"] = np.array(["China", "South Africa", "United States", "Venezuela"])[people % 4]
    for emotion in EMOTIONS:
        table[f"truth.{emotion}"] = rng.beta(1, 3, clips)
        table[f"prediction.{emotion}"] = 0.5 * table[f"truth.{emotion}"] + 0.1 * rng.normal(size=clips)
    table["seconds"], table["rms_db"] = rng.gamma(4, 0.6, clips), rng.normal(-28, 7, clips)
    task = Task("fewshot", EMOTIONS)
    settings = {"model": "cnn14", "protocol": "published"}
    about = About("cnn14", "table", True, "test", "none", "none", [], settings, "", pd.DataFrame())
    truth, prediction = (table[[f"{side}.{one}" for one in EMOTIONS]].to_numpy() for side in ("truth", "prediction"))

    def ours() -> None:
        report(table, score(table, task), task, about).html()

    def plain() -> None:
        means = [ccc(truth[rows], prediction[rows]).mean() for chunk in draws(clips, 1000, 0) for rows in chunk]
        np.percentile(means, [2.5, 97.5])

    against = "a loop over 1,000 resamples for the mean CCC's interval by clip alone"
    result = compare(f"the whole report of {clips:,} clips, 700 speakers, ten emotions", ours, plain, against)
    return result | {"seconds a report": result["seconds"]}


def markdown(results: list[dict[str, object]], about: dict[str, object]) -> str:
    """The page docs/benchmarks.md."""
    lines = ["# Benchmarks", "", "Written by `make bench`: medians of five repeats in one run, with the range.", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", "| what | against | times as fast | range | also |", "|---|---|---|---|---|"]
    for result in results:
        known = ("what", "reference", "ratio", "lowest", "highest", "seconds")
        also = ", ".join(f"{name} {value:.2g}" for name, value in result.items() if name not in known)
        spread = f"{result['lowest']:.2f}-{result['highest']:.2f}"
        lines.append(f"| {result['what']} | {result['reference']} | {result['ratio']:.2f} | {spread} | {also or '-'} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder in EmoGator's layout")
    data = parser.parse_args().data or (REAL if REAL.is_dir() else None)
    with tempfile.TemporaryDirectory() as scratch:
        sample = corpora.load("sample", Path(scratch) / "sample")
        corpus = corpora.load("emogator", data) if data else sample
        files = corpus.clips["file"].tolist()[:1000]
        results = [extraction_of(sample.folder, sample.clips["file"].tolist(), "600 clips, 16 kHz WAV (sample corpus)")]
        if data:
            results.append(extraction_of(corpus.folder, files, f"{len(files)} clips, MP3 (emogator)"))
        store, audio = extraction.extract(corpus.folder, files, Path(scratch) / "features", FEATURES)
        contents = audio["content"][audio["problem"] == ""].tolist()
        results.append(store_batches(store, contents))
        for encoder, width in (("cnn10", 0.25), ("cnn10", 1.0), ("cnn14", 1.0)):
            results.append(evaluation(store, contents[:200], encoder, width))
        for model in ("cnn14-relative", "cnn14-attention-cnn10-layernorm-full"):
            results.append(training(store, contents[:300], model, 0.25))
        results += [intervals(20_000), report_of(20_000)]
    about = {
        "clips": "real (EmoGator)" if data else "synthetic (the sample corpus)",
        "machine": f"{torch.get_num_threads()} threads, {platform.machine()}, "
        f"bf16 instructions: {'yes' if resolve_precision('auto', 'cpu') == 'bf16' else 'no'}",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "torchaudio", "numpy", "soxr")),
    }
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs" / "benchmarks.json").write_text(json.dumps({**about, "results": results}, indent=2) + "\n")
    page = markdown(results, about)
    (ROOT / "docs" / "benchmarks.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
