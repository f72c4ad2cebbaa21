"""By what a run is known in lists: its name, its description, and the scores that are written on it later."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Run

from exvo.reports.description import OURS
from exvo.tracking.delivery import RunLog, now
from exvo.tracking.entries import Metrics, Tags
from exvo.tracking.tags import ENTRY_TAG, FAILURE, FOLD_TAG, NOTE, TABLE_TAG, TRIAL_TAG


def run_name(log: RunLog, system: str, details: str) -> str:
    """The name of a run, which says what it does and ends with the first digits of its id.

    A name that a user has given, or an earlier process, stays.

    Args:
        log: of the run.
        system: that it trains or looks at; empty where that is not known yet.
        details: of the training, such as `w0.25-e16-s0`.
    """
    entry_point, end = log.tags[ENTRY_TAG], log.run_id[:4]
    if not re.fullmatch(rf"[a-z]+-[a-z]+-\d+|{entry_point}-{end}", log.name):
        return str(log.name)
    trains = bool(system) and entry_point in ("train", "main")
    words = [system, details] if trains else [entry_point, system]
    if trains and TRIAL_TAG in log.tags:
        words = [f"trial-{int(log.tags[TRIAL_TAG]):03d}", system]
    if trains and TABLE_TAG in log.tags:
        words = ["on", re.sub(r"\s+", "-", log.tags[TABLE_TAG]), system, details]
    elif trains and FOLD_TAG in log.tags:
        words = [f"fold-{log.tags[FOLD_TAG]}", system, details]
    return "-".join([*filter(None, words), end])


def may_describe(note: str) -> bool:
    """Whether a description may be replaced: it is empty, or exvo has written it."""
    return not note or note.startswith(FAILURE) or OURS.match(note) is not None


def artifact_page(experiment_id: str, run_id: str, name: str) -> str:
    """The address of a run's artifact within the UI."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{name}?workflowType=machine_learning"


def write_on(source: Run, output: str, metrics: Mapping[str, float], description: str) -> None:
    """Writes scores and their description on a run that has ended; newer ones take the place of older ones.

    Where the server is away they are kept in the run's journal, see `RunLog`.

    Args:
        source: the run.
        output: the output folder.
        metrics: by name.
        description: in Markdown.
    """
    log = RunLog(source, Path(output) / "runs" / source.info.run_id / "journal")
    try:
        log.add(Metrics(metrics, 0, now()))
        if may_describe(log.tags.get(NOTE, "")):
            log.add(Tags({NOTE: description}))
    finally:
        log.close()
