"""Scores a trained run on a split of its corpus, with a report.

It is the only place where the test split is ever scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from exvo.config import EvaluateSettings
from exvo.devices import resolve_device
from exvo.enrolment import EnrolmentSettings, swap
from exvo.errors import InputError
from exvo.evaluation import scoring
from exvo.experiments.corpus import Ready, describe_enrolment, log_copies, reopen
from exvo.networks.checkpoint import Checkpoint
from exvo.networks.inference import predict_each
from exvo.options import command_line
from exvo.reports.run import About, report
from exvo.tasks import Task
from exvo.tracking import artifacts, lookup, models, runs
from exvo.tracking.artifacts import Trained
from exvo.tracking.runs import log_page
from exvo.tracking.tags import ENTRY_TAG


def log_scores(
    predictions: pd.DataFrame, task: Task, split: str, model: str, ready: Ready
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Logs the predictions of a split and its scores with their intervals, and prints the main one.

    A split without labels (HUME-VB's test split) is predicted, not scored.

    Returns:
        The predictions with each clip's length and loudness, and the scores; None where nothing was scored.
    """
    predictions = ready.with_audio(predictions, split)
    runs.log_table(predictions, f"predictions/{split}.parquet")
    rows = scoring.scorable(predictions)
    where = "held-out clips of the train split" if task.name == "speaker" else f"{split} split"
    scored = f", {len(rows)} of them scored" if len(rows) < len(predictions) else ""
    print(f"\n{model} on {ready.name}, {where}, {len(predictions)} clips{scored}")
    if len(rows) < 2:
        print(f"no labels to score against; the predictions are the run's artifact predictions/{split}.parquet")
        return None
    scores = scoring.score(predictions, task)
    runs.log_table(scores, f"scores/{split}.csv")
    runs.log_metrics(scoring.as_metrics(scores, split))
    print(scoring.sentence(scores, scoring.headline(task)))
    return predictions, scores


def run(settings: EvaluateSettings) -> None:
    """Evaluates in a run of its own."""
    device = resolve_device(settings.device)
    source = lookup.find_run(settings.run_id)
    options = artifacts.training_options(source)
    if options["task"] == "speaker":
        raise InputError(
            f"The run {source.info.run_name} is a speaker recogniser: the other splits have people that it does "
            "not know; its score on held-out clips of those it knows is in the run itself."
        )
    checkpoint = models.checkpoint_of(source)
    asked, shots = settings.protocol, settings.shots or options["shots"]
    settings = replace(
        settings,
        device=device,
        protocol=options["protocol"] if settings.protocol == "auto" else settings.protocol,
        shots=shots,
    )
    if asked != "auto":
        checkpoint = replace(checkpoint, enrolment=EnrolmentSettings(settings.protocol, shots))
    with runs.start_run("evaluate", output=settings.output) as run_id:
        runs.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        runs.log_evaluated(source, settings.protocol)
        ready = reopen(settings, source, options)
        evaluate(checkpoint, ready, settings.split, device, options | asdict(settings), artifacts.trained(source))
        print(runs.where_to_look(run_id))


def evaluate(
    checkpoint: Checkpoint, ready: Ready, split: str, device: str, options: dict[str, Any], trained: Trained
) -> None:
    """Predicts and scores one split; logs predictions, scores and the report.

    Args:
        checkpoint: of the training run; enrolment clips are filled under its protocol.
        ready: its corpus.
        split: to score.
        device: cpu or cuda.
        options: of the training run, with those of the evaluation.
        trained: the training run.

    Raises:
        InputError: the split has no clips.
    """
    rows = ready.rows(split)
    if rows.empty:
        raise InputError(f"The corpus {ready.corpus.name} has no readable clips in its {split} split.")
    network, task = checkpoint.network, checkpoint.task
    clips = ready.clips(split, task, options["fill"])
    enrolment = ready.enrolment(split, options["protocol"], options["shots"])
    if network.personalised or options["protocol"] == "strict":
        print(describe_enrolment(ready, split, options["protocol"], options["shots"]), end="")
    log_copies(enrolment, split)
    enrolments: dict[str, Sequence[np.ndarray] | None] = {"right": enrolment.clips}
    enrolling = {speaker for speaker, own in zip(clips.speakers, enrolment.clips, strict=True) if len(own)}
    if network.personalised and len(enrolling) > 1:
        enrolments |= {"typical": None, "wrong": swap(enrolment, clips.speakers)}
    outputs = predict_each(network, clips, device, list(enrolments.values()), None, split, checkpoint.protocol)
    tables = [task.table(rows, one, enrolment.scored) for one in outputs]
    scored = log_scores(tables[0], task, split, options["model"], ready)
    if scored is not None:
        write_report(
            *scored, dict(zip(list(enrolments)[1:], tables[1:], strict=True)), checkpoint, ready, options, trained
        )


def write_report(
    predictions: pd.DataFrame,
    scores: pd.DataFrame,
    enrolled: dict[str, pd.DataFrame],
    checkpoint: Checkpoint,
    ready: Ready,
    options: dict[str, Any],
    trained: Trained,
) -> None:
    """Logs the report of a split and prints where it is."""
    split = predictions["split"].iloc[0]
    about = About(
        model=options["model"],
        corpus=ready.corpus.name,
        synthetic=ready.corpus.synthetic,
        split=split,
        run=f"{trained.name} ({trained.run_id})",
        digest=ready.audit.digest,
        warnings=ready.audit.warnings,
        options=options,
        commands=commands(trained, split, options),
        epochs=trained.epochs,
        enrolled=enrolled,
    )
    log_page(f"report/{split}", report(predictions, scores, checkpoint.task, about))
    print(f"report of the run: the artifact report/{split}.html")


def commands(trained: Trained, split: str, options: dict[str, Any]) -> str:
    """What repeats a training run, in a run of its own, and the scoring of one split of this one."""
    tags = trained.tags
    entry_point = tags[ENTRY_TAG]
    commit = tags.get("git.commit", "none")
    lines = [] if commit == "none" else [f"git checkout {commit}"]
    if tags.get("git.dirty") == "true":
        lines.append("git apply uncommitted.diff.txt   # an artifact of the training run; new files are not in it")
    if tags.get("git.dirty") == "unknown":
        lines.append("# git could not tell whether there were uncommitted changes")
    lines.append(command_line(entry_point, trained.options))
    if (entry_point, split) != ("main", "test"):
        chosen = {"run_id": trained.run_id, "split": split, "protocol": options["protocol"], "shots": options["shots"]}
        lines.append(command_line("evaluate", chosen))
    return "\n".join(lines)
