"""The command that the README recommends for one's own corpus, against the usual baseline, on small corpora.

.venv/bin/python -m benchmarks.small     # needs all of EmoGator beside this checkout; half an hour

Each corpus is a part of EmoGator's training speakers, never of those that validate or test: some speakers, categories
and clips, drawn by a seed. Both are scored by the same five folds of speakers, each tested by what has not heard it,
with another fold to choose the epoch or C by. The baseline is a linear SVM on ComParE's functionals. Beside them the
personalised head, with two clips and without any, paired by speaker with the plain one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score

from benchmarks.page import interval
from benchmarks.results import EMOGATOR, FOLDER, KEPT, run_of
from benchmarks.svm import best_svm, table_of
from exvo.config import POOLED
from exvo.corpora import emogator, splits
from exvo.evaluation.pairwise import paired, same_clips
from exvo.evaluation.scoring import UAR, score_epoch
from exvo.experiments.corpus import read_corpus
from exvo.settings import ExtractSettings
from exvo.tasks import make_task, task_of
from exvo.tracking import artifacts

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


def tables_by_folds(data: Path, model: str, notes: Path) -> dict[str, pd.DataFrame]:
    """The pooled predictions of a system, by enrolment; of a plain one `right` alone."""
    words = ["main", "--corpus", "table", "--data", str(data), "--model", model, "--features", FEATURES]
    run_id = run_of([*words, "--folds", str(FOLDS)], notes, model)
    paths = {"right": f"predictions/{POOLED}.parquet", "typical": f"enrolment/{POOLED}-typical.parquet"}
    tables = {name: artifacts.load_table(run_id, path) for name, path in paths.items()}
    return {name: table for name, table in tables.items() if table is not None}


def uar(table: pd.DataFrame) -> float:
    """The UAR of predictions."""
    return float(score_epoch(table, task_of(table))[UAR])


def difference(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """The first's UAR minus the second's, with its interval by speaker."""
    a, b = same_clips(second, first)
    return interval(paired(a, b, task_of(a)).set_index("metric").loc[UAR].to_dict())


def main() -> None:
    """Prints the UAR of each on each corpus, and writes them into docs/results/small.csv."""
    folder = FOLDER / "small"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    rows = []
    for name, data in write_corpora(folder):
        (plain,) = tables_by_folds(data, "frozen", folder / "done.json").values()
        personal = tables_by_folds(data, "frozen-relative", folder / "done.json")
        rows.append(
            {
                "corpus": name,
                "categories": CORPORA[name][1],
                "clips": CORPORA[name][2],
                "linear SVM": svm_by_folds(data),
                "frozen": uar(plain),
                "frozen-relative": uar(personal["right"]),
                "without clips": uar(personal["typical"]),
                "without clips - frozen": difference(personal["typical"], plain),
            }
        )
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(KEPT / "small.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
