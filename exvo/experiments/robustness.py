"""Scores a run on worse signals: noise, a telephone, a room.

The same clips are scored clean and made worse: by noise, other voices, narrow bands, coding, clipping and a room.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from exvo.devices import resolve_device
from exvo.errors import InputError
from exvo.evaluation.robustness import CLEAN, robustness_table
from exvo.experiments.augment import voices_of, worse_store
from exvo.experiments.corpus import Ready, reopen
from exvo.features.signals import SIGNALS
from exvo.networks.checkpoint import Checkpoint
from exvo.networks.inference import predict_enrolments
from exvo.reports.robustness import robustness_columns, robustness_page, robustness_verdict
from exvo.reports.tables import markdown
from exvo.settings import RobustnessSettings, TrainSettings
from exvo.tracking import artifacts, experiments, lookup, models, runs


def run(settings: RobustnessSettings) -> None:
    """Scores in a run of its own."""
    settings = replace(settings, device=resolve_device(settings.device))
    source = lookup.find_run(settings.run_id)
    training = replace(artifacts.require_training(source), device=settings.device)
    if training.task == "speaker":
        raise InputError(
            f"The run {source.info.run_name} is a speaker recogniser, which knows nobody of the other splits; choose "
            "a run that recognises emotion."
        )
    checkpoint = models.checkpoint_of(source)
    with runs.start_run("robustness", output=settings.output, beside=source.info.run_id) as run_id:
        runs.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        runs.log_evaluated(source, training.protocol)
        ready = reopen(settings, source, training)
        tables = {CLEAN: predictions(checkpoint, ready, settings.split, training, CLEAN)}
        voices = voices_of(ready)
        for number, signal in enumerate(SIGNALS, 1):
            print(f"signal {number} of {len(SIGNALS)}: {signal.name}", flush=True)
            with tempfile.TemporaryDirectory(prefix="worse-", dir=settings.output) as folder:
                store = worse_store(ready, settings.split, signal, voices, Path(folder), settings.workers)
                worse = replace(ready, store=store)
                tables[signal.name] = predictions(checkpoint, worse, settings.split, training, signal.name)
        table = robustness_table(tables, checkpoint.task)
        runs.log_table(table, f"robustness/{settings.split}.csv")
        title = f"{training.model} on {ready.name}, {settings.split} split, {table['n'].iloc[0]:,} clips"
        print(f"\n{title}\n\n{markdown(robustness_columns(table))}\n\n{robustness_verdict(table)}")
        about = f"run {source.info.run_name} ({source.info.run_id})"
        runs.log_page("robustness", robustness_page(table, f"Worse signals: {title}", about))
        print(experiments.where_to_look(run_id))


def predictions(
    checkpoint: Checkpoint, ready: Ready, split: str, training: TrainSettings, progress: str
) -> pd.DataFrame:
    """The predictions table of a split, with enrolment as in training.

    Raises:
        InputError: the split has no clips.
    """
    rows, task = ready.rows(split), checkpoint.task
    if rows.empty:
        raise InputError(f"The corpus {ready.corpus.name} has no readable clips in its {split} split.")
    clips = ready.clips(split, task, training.fill)
    enrolment = ready.enrolment(split, training.protocol, training.shots)
    lists = [enrolment.clips]
    (output,) = predict_enrolments(
        checkpoint.network, clips, training.device, lists, None, progress, checkpoint.protocol
    )
    return task.table(rows, output, enrolment.scored, checkpoint.temperature)
