"""The clips that a run gets most wrong and most right, to be heard in its report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from exvo.evaluation.calibration import has_shares
from exvo.evaluation.metrics import FloatArray
from exvo.reports.page import Section, Sound
from exvo.tasks import Task

EACH = 4
"""Clips of either kind, at most."""

MAY_BE_PASSED_ON = ("sample", "emogator")
"""Corpora whose licence is known to allow that a report holds clips: HUME-VB's forbids it, a table's is not known."""


def worst_and_best(rows: pd.DataFrame, task: Task) -> tuple[list[int], list[int]]:
    """The places of the clips that a run gets most wrong, the worst first, and most right, the best first.

    Of exclusive categories the worst is the one of whose true category the run says least; of intensities it is the
    one with the largest absolute error, mean over the emotions.

    Args:
        rows: the scored rows of a predictions table.
        task: which columns it has.

    Returns:
        Places in `rows`, none in both lists; of equal clips the earlier one.
    """
    truth, prediction = (_values(rows, side, task) for side in ("truth", "prediction"))
    errors = np.abs(truth - prediction).mean(axis=1)
    if task.categories:
        index = {target: place for place, target in enumerate(task.targets)}
        errors = -prediction[np.arange(len(rows)), rows["truth.category"].map(index).to_numpy()]
    count = min(EACH, len(rows) // 2)
    return np.argsort(-errors, kind="stable")[:count].tolist(), np.argsort(errors, kind="stable")[:count].tolist()


def listening_section(rows: pd.DataFrame, task: Task, sounds: Mapping[str, bytes]) -> Section | None:
    """The worst and the best clips with what the run said of them; None: there are no sounds.

    Args:
        rows, task: as for `worst_and_best`.
        sounds: MP3 by file; clips without one are left out.
    """
    clips = []
    for kind, places in zip(("worst", "best"), worst_and_best(rows, task), strict=True):
        for rank, place in enumerate(places, 1):
            row = rows.iloc[place]
            mp3 = sounds.get(row["file"])
            if mp3 is not None:
                source = f"{row['file']}, {row['speaker'] or 'speaker unknown'}"
                clips.append(Sound(f"{kind} {rank}", _said(rows.iloc[[place]], task), source, mp3))
    if not clips:
        return None
    size = sum(len(clip.mp3) for clip in clips)
    measure = (
        "of whose true category the model says least, and most"
        if task.categories
        else "with the largest and the smallest absolute error, mean over the emotions"
    )
    text = [
        f"The clips {measure}, as the model heard them (mono, 16 kHz, at most 10 s): {len(clips)} MP3 of "
        f"{size / 1000:,.0f} kB together, in this page. Extremes show wrong labels and broken recordings, not the rule."
    ]
    return Section("Worst and best clips", text, sounds=clips)


def _values(rows: pd.DataFrame, side: str, task: Task) -> FloatArray:
    return rows[[f"{side}.{target}" for target in task.targets]].to_numpy(np.float64)


def _said(row: pd.DataFrame, task: Task) -> str:
    """The truth and the two strongest predictions of a clip, (1, columns)."""
    predicted = dict(zip(task.targets, _values(row, "prediction", task)[0].tolist(), strict=True))
    write = "{:.0%}" if task.categories and has_shares(row, task.targets) else "{:.2f}"
    if task.categories:
        true = row["truth.category"].iloc[0]
        names = dict.fromkeys([*_strongest(predicted), true])
        return f"{true}; heard as {', '.join(f'{name} {write.format(predicted[name])}' for name in names)}"
    truth = dict(zip(task.targets, _values(row, "truth", task)[0].tolist(), strict=True))
    names = dict.fromkeys([*_strongest(truth), *_strongest(predicted)])
    return "; ".join(f"{name} {truth[name]:.2f}, heard as {predicted[name]:.2f}" for name in names)


def _strongest(values: Mapping[str, float]) -> list[str]:
    return sorted(values, key=lambda name: -values[name])[:2]
