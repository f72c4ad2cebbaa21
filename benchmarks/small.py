"""The command that the README recommends for one's own corpus, against the usual baseline, on small corpora.

.venv/bin/python -m benchmarks.small     # needs all of EmoGator beside this checkout; half an hour

Each corpus is a part of EmoGator's training speakers, never of those that validate or test: some speakers, categories
and clips, drawn by a seed. Both are scored by the same five folds of speakers, each tested by what has not heard it,
with another fold to choose the epoch or C by. The baseline is a linear SVM on ComParE's functionals.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score

from benchmarks.results import EMOGATOR, FOLDER, exvo
from benchmarks.svm import best_svm, table_of
from exvo.corpora import emogator, splits
from exvo.experiments.corpus import read_corpus
from exvo.settings import ExtractSettings
from exvo.tasks import make_task

CORPORA = {
    "10 people": (10, 7, 210),
    "24 people": (24, 10, 700),
    "60 people": (60, 12, 1000),
    "120 people": (120, 16, 900),
    "215 people, few clips": (215, 8, 600),
    "215 people": (215, 15, 1000),
}
"""Speakers, categories and clips of each."""

FOLDS, SEED, FEATURES = 5, 7, "compare2016"
MODEL = ("--model", "frozen", "--features", FEATURES)


def write_corpora(folder: Path) -> Iterator[tuple[str, Path]]:
    """Writes the corpora, and gives the name and the folder of each."""
    corpus = emogator.read(EMOGATOR)
    targets = np.array(corpus.targets)
    clips = corpus.clips[corpus.clips["split"] == "train"]
    clips = clips.assign(category=targets[clips[list(targets)].to_numpy().argmax(axis=1)])
    generator = np.random.default_rng(SEED)
    for number, (name, (speakers, categories, count)) in enumerate(CORPORA.items()):
        people = generator.choice(sorted(clips["speaker"].unique()), speakers, replace=False)
        chosen = generator.choice(targets, categories, replace=False)
        part = clips[clips["speaker"].isin(people) & clips["category"].isin(chosen)]
        part = part.iloc[np.sort(generator.permutation(len(part))[:count])]
        place = folder / f"corpus-{number}"
        for file in part["file"]:
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(EMOGATOR / file, place / file)
        part[["file", "speaker", "category"]].to_csv(place / "clips.csv", index=False)
        yield name, place


def svm_by_folds(data: Path) -> float:
    """The pooled UAR of the baseline."""
    settings = ExtractSettings(corpus="table", data=str(data), features=FEATURES, output=str(FOLDER))
    ready = read_corpus(settings)
    ready = replace(ready, corpus=splits.with_folds(ready.corpus, FOLDS))
    truth, predicted = [], []
    for number in range(1, FOLDS + 1):
        fold = ready.fold(number, FOLDS)
        task = make_task("fewshot", fold.corpus.clips, fold.corpus.targets, fold.corpus.name, True)
        numbers = {split: table_of(fold, task, split) for split in ("train", "val", "test")}
        truth.append(numbers["test"][1])
        predicted.append(best_svm(numbers, FEATURES).predict(numbers["test"][0]))
    return float(balanced_accuracy_score(np.concatenate(truth), np.concatenate(predicted)))


def main() -> None:
    """Prints the UAR of both on each corpus, and writes them into output/results/small.csv."""
    folder = FOLDER / "small"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    rows = []
    for name, data in write_corpora(folder):
        words = ["--corpus", "table", "--data", str(data), *MODEL, "--folds", str(FOLDS), "--output", str(FOLDER)]
        said = exvo("main", *words)
        ours = float(re.findall(r"UAR (0\.\d+)", said)[-1])
        rows.append((name, *CORPORA[name][1:], svm_by_folds(data), ours))
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows, columns=["corpus", "categories", "clips", "linear SVM", "frozen"])
    table.to_csv(FOLDER / "small.csv", index=False)
    print(table.to_string(index=False))
    print(f"mean: linear SVM {table['linear SVM'].mean():.3f}, frozen {table['frozen'].mean():.3f}")


if __name__ == "__main__":
    main()
