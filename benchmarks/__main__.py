"""Measures exvo against the obvious way of doing the same, five times each, and writes docs/benchmarks.md and .json.

make bench                                     # the real clips beside this checkout, else the sample corpus
.venv/bin/python -m benchmarks --data <folder> # any folder in EmoGator's layout
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from tqdm import tqdm

from benchmarks import encoders, learning, machines, many_runs, memory, plain, ranks, startup
from benchmarks.files import Files
from benchmarks.timing import REPEATS, Row, compare, row, seconds
from exvo import corpora
from exvo.batches.clips import Clips
from exvo.batches.epoch import training_batches
from exvo.config import EMOTIONS, FeatureConfig
from exvo.devices import resolve_precision
from exvo.evaluation.bootstrap import bootstrap, ccc_statistics, draws, interval
from exvo.evaluation.groups import group_scores, with_intervals
from exvo.evaluation.scoring import score
from exvo.evaluation.scoring import statistics as score_statistics
from exvo.features import extraction
from exvo.features.audio import read_audio
from exvo.features.extractors import Extractor
from exvo.features.functionals import Functionals
from exvo.features.log_mel import log_mel
from exvo.features.store import Store
from exvo.machine import processor
from exvo.networks.checkpoint import Checkpoint
from exvo.networks.inference import predict_clips
from exvo.networks.network import Network
from exvo.reports.run import RunFacts, report_page
from exvo.serving.model import answer_request
from exvo.tasks import Task

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "data" / "emogator-mini"
FEATURES = FeatureConfig()
TASK = Task("fewshot", EMOTIONS)


def extraction_rows(folder: Path, files: list[str], scratch: Path, kind: str) -> Iterator[Row]:
    """Extraction of WAV at 16 kHz, made of these clips, and of the clips as they are."""
    wavs = scratch / "wav"
    wavs.mkdir()
    names = [f"{number}.wav" for number in range(len(files))]
    for name, file in zip(names, files, strict=True):
        soundfile.write(wavs / name, read_audio(folder / file, FEATURES).waveform, FEATURES.sample_rate, "PCM_16")

    target = scratch / "extracted"

    def ours(
        source: Path, chosen: list[str], workers: int = 0, extractor: Extractor | FeatureConfig = FEATURES
    ) -> Callable[[], object]:
        return lambda: extraction.extract(source, chosen, target, extractor, workers)

    def plainly(source: Path, chosen: list[str]) -> Callable[[], object]:
        return lambda: plain.extract(source, chosen, target)

    def empty() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()

    def floor() -> None:
        with multiprocessing.get_context("fork").Pool() as pool:
            pool.map(plain.transform, [wavs / name for name in names])

    many = f"{len(files)} clips"
    yield compare(
        f"extraction, {many}, WAV at 16 kHz",
        ours(wavs, names),
        plainly(wavs, names),
        "one clip at a time",
        ">= 3",
        empty,
    )
    yield compare(
        f"extraction, {many}, WAV at 16 kHz",
        ours(wavs, names),
        floor,
        "decoding and FFT alone, in as many processes",
        ">= 0.67",
        empty,
    )
    if kind == "MP3 at 48 kHz":
        one, both = ours(folder, files, 1), ours(folder, files, 2)
        yield compare(f"extraction, {many}, {kind}", both, plainly(folder, files), "one clip at a time", before=empty)
        yield compare(f"extraction, {many}, {kind}, two workers", both, one, "one worker", ">= 1.8", empty)
    part, egemaps = names[:128], Functionals("egemaps")
    yield compare(
        f"openSMILE's eGeMAPS, {len(part)} clips, WAV at 16 kHz, two workers",
        ours(wavs, part, 2, egemaps),
        ours(wavs, part, 1, egemaps),
        "one worker",
        ">= 1.8",
        empty,
    )


def store_rows(store: Store, contents: list[str], scratch: Path) -> Iterator[Row]:
    """Random batches of 32 crops from the store, and what a run's memory grows by with the store."""
    clips = Clips(contents, contents, store, np.zeros((len(contents), 1)), "repeat")
    for content in contents:
        np.save(scratch / f"{content}.npy", store[content])
    files = Clips(contents, contents, Files(scratch), clips.labels, "repeat")

    def through(chosen: Clips) -> None:
        for _ in training_batches(chosen, 32, 0, 0):
            pass

    batches = sum(1 for _ in training_batches(clips, 32, 0, 0))
    batch_row = compare(
        "random batches of 32 crops from the store, warm",
        lambda: through(clips),
        lambda: through(files),
        "one .npy a clip",
    )
    milliseconds = 1000 * batch_row["also"]["seconds"] / batches  # type: ignore[index]
    batch_row["also"] = {"milliseconds a batch (target 1)": milliseconds}
    yield batch_row | {"met": milliseconds < 1}
    if Path("/proc/self/status").is_file():
        sizes = [memory.fill(scratch / str(count), count) for count in (1_000, 8_000)]
        grown = []
        for _ in tqdm(range(REPEATS), "memory", leave=False, disable=None):
            peaks = [float(module("benchmarks.memory", str(scratch / str(count)))) for count in (1_000, 8_000)]
            grown.append(100 * (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]))
        against = f"% of what the store grows by, from {sizes[0]:.0f} to {sizes[1]:.0f} MB of noise"
        yield row(
            "growth of peak memory with the store over an epoch's batches and validation's, mapped files left out",
            against,
            grown,
            "<= 1",
        )


def module(name: str, *arguments: str) -> str:
    """What `python -m <name>` prints."""
    return subprocess.run([sys.executable, "-m", name, *arguments], capture_output=True, text=True, check=True).stdout


def evaluation(store: Store, contents: list[str], encoder: str, width: float) -> Row:
    """Whole clips in groups of equal length, against one at a time."""
    network = Network(encoder, 10, width).eval()
    clips = Clips(contents, contents, store, np.zeros((len(contents), 1)), "repeat")
    difference = np.abs(predict_clips(network, clips, "cpu") - predict_clips(network, clips, "cpu", batch_size=1)).max()
    return compare(
        f"evaluation, {encoder}, width {width:g}, {len(contents):,} clips of {len(set(clips.frames()))} lengths",
        lambda: predict_clips(network, clips, "cpu"),
        lambda: predict_clips(network, clips, "cpu", batch_size=1),
        "one clip at a time",
        ">= 1",
        also={"largest difference": float(difference)},
    )


def training_rows(store: Store, contents: list[str], scratch: Path) -> Iterator[Row]:
    """Epochs with their validation at full width; waiting for data; what a personalised system costs."""
    for encoder, clips, target in (("cnn10", 64, ">= 2.5"), ("cnn14", 32, ">= 1.5")):
        ours, reference, beside = learning.epoch_and_validation(
            encoder, store, contents[:clips], contents[clips : clips + clips // 4], scratch
        )
        what = f"a training epoch of {encoder}, width 1, batch 32, {clips} clips, and validation on {clips // 4}"
        against = "float32, one .npy a clip, validation one clip at a time"
        yield compare(what, ours, reference, against, target)
        yield compare(what, ours, beside, f"{against}; with our setting of malloc")
    for encoder, width, clips in (("cnn10", 1.0, 64), ("cnn10", 0.25, 300)):
        random_clips = learning.random_clips(store, contents[:clips])
        times = [learning.waiting(encoder, width, random_clips) for _ in range(REPEATS)]
        shares = [100 * waited / whole for waited, whole in times]
        yield row(f"waiting for data, {encoder}, width {width:g}, batch 32", "% of the epoch", shares, "<= 2")
    random_clips = learning.random_clips(store, contents[:200])
    for model in ("cnn14-relative", "cnn14-attention-cnn10-layernorm-full"):
        yield compare(
            f"a training epoch of {model}, width 0.25, 200 clips, batch 32",
            learning.epoch(model, 0.25, random_clips),
            learning.epoch("cnn14", 0.25, random_clips),
            "an epoch of the plain cnn14",
        )


def predictions(clips: int) -> pd.DataFrame:
    """A predictions table: 700 speakers of four countries, made up."""
    rng = np.random.default_rng(0)
    people = rng.integers(700, size=clips)
    table = pd.DataFrame({"file": [f"{clip}.wav" for clip in range(clips)], "split": "test", "scored": True})
    table["speaker"] = [f"s{person}" for person in people]
    table["country"] = np.array(["China", "South Africa", "United States", "Venezuela"])[people % 4]
    for emotion in EMOTIONS:
        table[f"truth.{emotion}"] = rng.beta(1, 3, clips)
        table[f"prediction.{emotion}"] = 0.5 * table[f"truth.{emotion}"] + 0.1 * rng.normal(size=clips)
    return table.assign(seconds=rng.gamma(4, 0.6, clips), rms_db=rng.normal(-28, 7, clips))


def interval_rows(clips: int) -> Iterator[Row]:
    """1,000 resamples of ten CCCs by clip, by speaker and per country, and the report, against loops."""
    table = predictions(clips)
    truth, prediction = (
        table[[f"{side}.{emotion}" for emotion in EMOTIONS]].to_numpy() for side in ("truth", "prediction")
    )
    speakers, countries = table["speaker"].to_numpy(), table["country"]
    intervals: dict[str, np.ndarray] = {}

    def ours() -> None:
        per_clip = ccc_statistics(truth, prediction, EMOTIONS, "emotion_ccc")
        intervals["ours"] = interval(bootstrap(per_clip)).loc["emotion_ccc", ["ci_low", "ci_high"]].to_numpy(float)

    def loop() -> None:
        rows = [resample for chunk in draws(clips, 1000, 0) for resample in chunk]
        intervals["plain"] = plain.interval(truth, prediction, rows)

    result = compare(f"1,000 resamples, {clips:,} clips, ten emotions", ours, loop, "a loop over the same", ">= 15")
    difference = float(np.abs(intervals["ours"] - intervals["plain"]).max())
    result["also"] = {"largest difference": difference}
    yield result | {"met": result["met"] and difference < 1e-9}

    def by_group() -> None:
        per_clip = score_statistics(table, TASK)
        interval(bootstrap(per_clip, groups=speakers))
        with_intervals(group_scores(per_clip, countries, "emotion_ccc"), per_clip, countries, "emotion_ccc", speakers)

    members = [np.flatnonzero(speakers == speaker) for speaker in np.unique(speakers)]

    def loop_by_speaker() -> None:
        drawn = [resample for chunk in draws(len(members), 1000, 0) for resample in chunk]
        plain.interval(truth, prediction, [np.concatenate([members[number] for number in people]) for people in drawn])

    against = "a loop for one interval by speaker alone"
    result = compare("intervals by speaker, and per country by clip and by speaker", by_group, loop_by_speaker, against)
    yield result | {"met": result["also"]["seconds"] < 2, "target": "2 s"}  # type: ignore[index]
    settings = {"model": "cnn14", "protocol": "published"}
    about = RunFacts("cnn14", "table", True, "test", "none", "none", [], settings, "", pd.DataFrame())
    against = "a loop for the interval by clip alone"
    yield compare(
        f"the whole report of {clips:,} clips",
        lambda: report_page(table, score(table, TASK), TASK, about).html(),
        loop,
        against,
    )


def serving_row() -> Row:
    """A prediction of the served model without HTTP, against the bare forward pass and log-mel."""
    network = Network("cnn14", len(EMOTIONS), 1.0, enrolment="shared", fusion="relative").eval()
    checkpoint = Checkpoint(network, TASK, FEATURES, "repeat", {})
    audio = plain.wav(2.0)
    request = pd.DataFrame({"audio": [audio], "profile": [network.typical.tolist()]})
    waveform = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32))

    def bare() -> None:
        with torch.inference_mode():
            network.predict(log_mel(waveform, FEATURES)[None], network.typical[None])

    def ours() -> None:
        answer_request(checkpoint, request)

    ours()
    bare()
    times = [(sum(seconds(ours) for _ in range(10)), sum(seconds(bare) for _ in range(10))) for _ in range(REPEATS)]
    against = "the bare forward pass and log-mel (time over theirs)"
    what = "a served prediction, cnn14-relative, width 1, 2 s, with a profile"
    milliseconds = 100 * statistics.median(our_time for our_time, _ in times)
    return row(
        what, against, [our_time / bare_time for our_time, bare_time in times], "<= 1.3", {"milliseconds": milliseconds}
    )


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder in EmoGator's layout")
    data = parser.parse_args().data or (REAL if REAL.is_dir() else None)
    began = time.perf_counter()
    has_bf16 = resolve_precision("auto", "cpu") == "bf16"
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        sample = corpora.load("sample", scratch / "sample")
        corpus = corpora.load("emogator", data) if data else sample
        files = corpus.clips["file"].tolist()[:2000]
        kind = "MP3 at 48 kHz" if data else "WAV"
        rows: list[Row] = []

        def add(new_rows: Iterator[Row]) -> None:
            for new_row in new_rows:
                rows.append(new_row)
                figures = f"{new_row['what']}: {new_row['ratio']:.2f}  {new_row['also']}"
                print(f"{time.perf_counter() - began:4.0f} s  {figures}", flush=True)

        add(extraction_rows(corpus.folder, files, scratch, kind))
        store, audio = extraction.extract(corpus.folder, files, scratch / "features", FEATURES)
        contents = list(dict.fromkeys(audio["content"][audio["problem"] == ""]))
        add(store_rows(store, contents, scratch))
        shuffled = np.random.default_rng(0).permutation(contents).tolist()
        for encoder, width, clips in (
            ("cnn10", 0.1, 2000),
            ("cnn10", 0.25, 500),
            ("cnn10", 1.0, 50),
            ("cnn14", 1.0, 50),
        ):
            add(evaluation(store, shuffled[:clips], encoder, width) for _ in range(1))
        add(training_rows(store, shuffled, scratch))
        add(ranks.rows(store))
        paths = [corpus.folder / file for file in files[: max(encoders.CLIPS.values())]]
        add(encoders.rows([read_audio(path, FEATURES).waveform for path in paths], scratch))
        add(interval_rows(20_000))
        add(startup.rows(scratch))
        add(many_runs.rows(scratch))
        add(serving_row() for _ in range(1))
        bf16: Mapping[str, object] = {}
        if has_bf16:
            store, audio = extraction.extract(sample.folder, sample.clips["file"].tolist(), scratch / "small", FEATURES)
            bf16 = learning.bf16_against_float32(sample, store, audio)
    instructions = f"{torch.backends.cpu.get_cpu_capability()} {'with' if has_bf16 else 'without'} bf16"
    measured = {
        "machine": f"{processor()}, {torch.get_num_threads()} cores, {instructions}",
        "date": date.today().isoformat(),
        "clips": "real (EmoGator)" if data else "synthetic (the sample corpus)",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "torchaudio", "numpy", "soxr", "mlflow")),
        "took": f"{(time.perf_counter() - began) / 60:.0f} minutes",
        "results": rows,
        "bf16": bf16,
    }
    (ROOT / "docs").mkdir(exist_ok=True)
    print(machines.renew(ROOT / "docs", measured))


if __name__ == "__main__":
    main()
