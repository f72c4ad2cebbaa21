"""How time and memory grow with the number of clips: the figures of docs/explanation/scale.md.

.venv/bin/python -m benchmarks.scale               # some minutes, 8 GB of disk in a temporary folder
.venv/bin/python -m benchmarks.scale 10000 30000

The clips are noise of 0.1 s in files of their own, a hundred clips a speaker, 30 categories in turn: what grows with
their length is left out. Each size is measured in a process of its own, whose steps follow each other as in
`extract` and the commands after it, which find the features computed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from exvo.config import FeatureConfig
from exvo.corpora.audit import audit
from exvo.corpora.options import load_corpus
from exvo.experiments.corpus import Ready
from exvo.features.extraction import extract
from exvo.features.log_mel import LogMel
from exvo.features.store import Store
from exvo.settings import ExtractSettings
from exvo.tasks import make_task

SIZES = (10_000, 100_000, 1_000_000)
FOLDER = 1_000
"""Clips in a folder of files."""


def make_corpus(folder: Path, count: int) -> None:
    """Writes a table corpus of so many clips."""
    generator = np.random.default_rng(0)
    rate = FeatureConfig().sample_rate
    wave = io.BytesIO()
    soundfile.write(wave, np.zeros(rate // 10), rate, "PCM_16", format="WAV")
    header, size = wave.getvalue()[:44], len(wave.getvalue()) - 44
    files = [f"{number // FOLDER:04}/{number:07}.wav" for number in range(count)]
    for number, file in enumerate(files):
        path = folder / file
        if number % FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(header + generator.bytes(size))
    numbers = np.arange(count)
    speakers, categories = (numbers // 100).astype(str), (numbers % 30).astype(str)
    table = pd.DataFrame({"file": files, "speaker": speakers, "category": categories})
    table.assign(category="c" + table["category"], speaker="s" + table["speaker"]).to_csv(
        folder / "clips.csv", index=False
    )


def steps(folder: Path) -> Iterator[tuple[str, float]]:
    """The seconds of each step."""
    began = time.perf_counter()

    def taken() -> float:
        nonlocal began
        before, began = began, time.perf_counter()
        return began - before

    settings = ExtractSettings(corpus="table", data=str(folder), output=str(folder / "output"))
    corpus = load_corpus(settings)
    yield "read the table", taken()
    files, features, extractor = corpus.clips["file"].tolist(), folder / "features", LogMel(FeatureConfig())
    extract(corpus.folder, files, features, extractor)
    yield "extract", taken()
    store, audio = extract(corpus.folder, files, features, extractor)
    yield "extract again", taken()
    audited = audit(corpus, audio)
    yield "audit", taken()
    audited.text("log-mel")
    ready = Ready(corpus, store, extractor, audio, audited)
    task = make_task("fewshot", corpus.clips, corpus.targets, corpus.name, True)
    clips = ready.clips("train", task, "repeat")
    yield "clips to train on", taken()
    ready.enrolment("val", "independent", 2)
    yield "who enrols whom in val", taken()
    assert len(clips.contents)
    opened = Store(features, extractor.features)
    yield "open the store", taken()
    assert len(opened) == len(files)


def measure(folder: Path) -> dict[str, float]:
    """The seconds of each step, the largest memory up to its end (GiB), and the files that are open at the end."""
    figures: dict[str, float] = {}
    for name, seconds in steps(folder):
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        figures |= {f"{name}, s": round(seconds, 2), f"{name}, GiB": round(memory, 2)}
        print(f"{name}: {seconds:.1f} s, {memory:.2f} GiB", file=sys.stderr, flush=True)
    return figures | {"open files": len(os.listdir("/proc/self/fd"))}


def main() -> None:
    """Measures each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=list(SIZES), help="numbers of clips")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        print(json.dumps(measure(Path(given.folder))))
        return
    rows = []
    for count in given.sizes:
        with tempfile.TemporaryDirectory() as name:
            make_corpus(Path(name), count)
            command = [sys.executable, "-m", "benchmarks.scale", "--folder", name]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            rows.append({"clips": count} | json.loads(said.splitlines()[-1]))
    table = pd.DataFrame(rows)
    print(table.T.to_string())


if __name__ == "__main__":
    main()
