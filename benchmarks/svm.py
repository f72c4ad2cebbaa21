"""The field's usual baseline: a linear SVM on openSMILE's functionals, scaled, with C chosen on validation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from exvo.experiments.corpus import Ready, read_corpus
from exvo.settings import ExtractSettings
from exvo.tasks import Task, make_task

CHOICES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Of C; the smaller, the more regular."""


def svm_table(corpus: str, data: str, features: str, output: Path) -> tuple[pd.DataFrame, float]:
    """The predictions of the test speakers, as a predictions table whose predictions are 0 and 1.

    They are kept in the output folder, by the corpus' digest, and not made again.

    Args:
        corpus, data, features: as the options of `exvo extract`; the corpus has exclusive categories.
        output: folder for features.

    Returns:
        The table, and the minutes that training all choices of C with their validation took.
    """
    settings = ExtractSettings(corpus=corpus, data=data, features=features, output=str(output), skip_unreadable=True)
    ready = read_corpus(settings)
    kept = output / f"svm-{features}-{ready.audit.digest[:12]}.parquet"
    if kept.exists():
        table = pd.read_parquet(kept)
        return table.drop(columns="minutes"), float(table["minutes"].iloc[0])
    task = make_task("fewshot", ready.corpus.clips, ready.corpus.targets, ready.corpus.name, True)
    numbers = {split: table_of(ready, task, split) for split in ("train", "val", "test")}
    began = time.perf_counter()
    best = best_svm(numbers, features)
    minutes = (time.perf_counter() - began) / 60
    chosen = best.predict(numbers["test"][0])
    table = task.table(ready.rows("test"), np.eye(len(task.targets))[chosen])
    table.assign(minutes=minutes).to_parquet(kept)
    return table, minutes


def best_svm(numbers: Mapping[str, tuple[np.ndarray, np.ndarray]], features: str) -> Pipeline:
    """The SVM with the best UAR on validation.

    Args:
        numbers: of train and val, as `table_of` gives them.
        features: what it is on, for what is printed.
    """
    best, best_recall = None, -1.0
    for choice in CHOICES:
        machine = make_pipeline(StandardScaler(), LinearSVC(C=choice))
        machine.fit(*numbers["train"])
        recall = balanced_accuracy_score(numbers["val"][1], machine.predict(numbers["val"][0]))
        print(f"linear SVM on {features}, C {choice:g}: validation UAR {recall:.4f}", flush=True)
        if recall > best_recall:
            best, best_recall = machine, recall
    assert best is not None
    return best


def table_of(ready: Ready, task: Task, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The features (clips, numbers) and the categories (clips,) of a split, as numbers."""
    clips = ready.clips(split, task, "repeat")
    features = np.stack([np.ravel(clips.features[content]) for content in clips.contents]).astype(np.float64)
    return features, clips.labels.argmax(axis=1)
