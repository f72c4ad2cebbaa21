"""Fits the temperature of a model's shares, measures what it is worth, and chooses how sure answers must be."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from exvo.evaluation import calibration, scoring, selective
from exvo.features.conditions import Ranges
from exvo.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from exvo.tasks import Level, Task


def finish(
    file: Path,
    rows: pd.DataFrame,
    outputs: np.ndarray,
    scored: np.ndarray | None,
    people: str,
    ranges: Ranges | None = None,
) -> Checkpoint:
    """Writes a model file anew, with how good it is on validation; where it gives shares with temperature and levels.

    Args:
        file: of `save_checkpoint`.
        rows: the validation clips, rows of the corpus' table.
        outputs: (clips, outputs), of the network.
        scored: (clips,), see `Task.table`.
        people: whose clips these are, for a sentence.
        ranges: within what the training clips lie; None: not known.

    Returns:
        The model with all that. Its notes gain `people`, `metric`, the headline score, whose value is their `score`,
        and of exclusive categories `accuracy`.
    """
    checkpoint = load_checkpoint(file)
    task = checkpoint.task
    notes: dict[str, str | int | float | bool | None] = dict(checkpoint.notes)
    notes |= {"metric": scoring.headline(task), "people": people}
    table = task.table(rows.reset_index(drop=True), outputs, scored)
    clips = scoring.scorable(table)
    if task.categories:
        notes["accuracy"] = float((clips["truth.category"] == clips["prediction.category"]).mean())
    temperature, levels = None, tuple[Level, ...]()
    if task.objective == "cross-entropy" and task.categories:
        labels = pd.Index(task.targets).get_indexer(pd.Index(clips["truth.category"]))
        temperature = calibration.fit_temperature(outputs[clips.index], labels)
        shares = task.shares(outputs[clips.index], temperature)
        levels = selective.choose_levels(shares.max(axis=1), shares.argmax(axis=1) == labels)
    final = replace(checkpoint, notes=notes, temperature=temperature, levels=levels, ranges=ranges)
    save(file, final)
    return final


def save(file: Path, checkpoint: Checkpoint) -> None:
    """Writes a model file."""
    network = checkpoint.network
    save_checkpoint(
        file,
        network,
        network.state_dict(),
        checkpoint.task,
        checkpoint.features,
        checkpoint.fill,
        checkpoint.notes,
        checkpoint.enrolment,
        checkpoint.temperature,
        checkpoint.levels,
        checkpoint.ranges,
    )


def log_loss_of(predictions: pd.DataFrame, task: Task) -> float:
    """The log loss of a predictions table; NaN where it holds no shares, or no clip is scored and labelled."""
    table = scoring.scorable(predictions)
    if table.empty or not (task.categories and calibration.has_shares(table, task.targets)):
        return math.nan
    return calibration.log_loss(calibration.shares_of(table, task.targets)["true_share"])


def log_loss_metric(split: str) -> str:
    """The name of the metric that the log loss of a split at temperature 1 is logged as."""
    return f"{split}/{calibration.LOG_LOSS}_uncalibrated"
