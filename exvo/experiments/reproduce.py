"""Trains again from the settings of a run, and compares the two.

Exit status: 0 where all is equal, bit for bit; 1 where something differs; 2 where the run can't be repeated.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from exvo.config import SPLITS
from exvo.corpora.options import corpus_settings
from exvo.devices import resolve_device
from exvo.errors import InputError
from exvo.evaluation import scoring
from exvo.experiments import repetition
from exvo.experiments.corpus import Ready, as_trained, read_corpus, require_same
from exvo.experiments.evaluate import evaluate
from exvo.experiments.features import extractor_of_run, record
from exvo.experiments.repetition import Outcome
from exvo.experiments.train import start, train
from exvo.features.extractors import LOG_MEL, Extractor
from exvo.networks.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from exvo.settings import ReproduceSettings, TrainSettings
from exvo.systems import SystemConfig
from exvo.tracking import artifacts, experiments, lookup, models, names, runs
from exvo.tracking.lookup import Run
from exvo.tracking.tags import ENTRY_TAG, EQUAL_TAG, EVALUATED_TAG, FOLD_TAG, PARENT_TAG, REPEATS_TAG, TABLE_TAG

REPEATED = ("train", "main")
"""The entry points whose runs can be repeated."""


def run(given: ReproduceSettings) -> None:
    """Repeats a run; leaves with status 1 where the two differ."""
    source = find_training(given)
    settings, system, extractor = logged_settings(given, source)
    environment = artifacts.load_environment(source)
    checkpoint = models.checkpoint_of(source)
    logged = outcome(source, checkpoint)
    ready = as_trained(read_corpus(settings, extractor), source, settings)
    require_same(ready, source)
    torch.set_num_threads(environment.get("threads") or torch.get_num_threads())  # they order the additions
    entry_point = source.data.tags[ENTRY_TAG]
    tags = {REPEATS_TAG: source.info.run_id}
    tags |= {name: value for name, value in source.data.tags.items() if name in (FOLD_TAG, TABLE_TAG)}
    with runs.start_run(entry_point, tags=tags, output=given.output, beside=source.info.run_id) as run_id:
        print(f"repeats the run {source.info.run_name} ({source.info.run_id})")
        start(settings, system, ready)
        train(settings, system, ready, run_id)
        if "test" in logged.predictions:
            score_test(settings, ready, run_id)
        new_run = lookup.find_run(run_id)
        repeated = outcome(new_run, models.checkpoint_of(new_run))
        compared = repetition.compare_outcomes(logged, repeated, scoring.headline(checkpoint.task))
        changes = repetition.changes(environment, artifacts.load_environment(new_run))
        is_equal = bool((compared["difference"] == 0).all())
        runs.log_table(compared, "repetition/outcome.csv")
        runs.log_table(changes, "repetition/environment.csv")
        runs.set_tags({EQUAL_TAG: str(is_equal).lower()})
        print(f"\n{repetition.outcome_text(compared, changes)}\n")
        print(experiments.where_to_look(run_id))
    if not is_equal:
        raise SystemExit(1)


def find_training(given: ReproduceSettings) -> Run:
    """The run to repeat.

    Raises:
        InputError: there is none, or it trained nothing.
    """
    source = lookup.find_run(given.run, "run")
    entry_point, name = source.data.tags.get(ENTRY_TAG, ""), source.info.run_name
    if entry_point == "tune":
        raise InputError(
            f"The run {name} is a whole study; repeat its trials one by one: give run=<id of a trial>, such as the "
            f"best, {source.data.tags.get('exvo.best_run', 'which it has not found yet')}."
        )
    if entry_point not in REPEATED:
        evaluated = source.data.tags.get(EVALUATED_TAG)
        instead = f"give the training run, run={evaluated}" if evaluated else "give a training run"
        raise InputError(f"The run {name} is of `{entry_point or 'another program'}`, which trains nothing; {instead}.")
    return source


def logged_settings(given: ReproduceSettings, source: Run) -> tuple[TrainSettings, SystemConfig, Extractor]:
    """The settings, the system and the features of a training run; folder, workers and output are this command's.

    A run that started from another run's weights starts from those of the very same run.

    Raises:
        InputError: another version of exvo made it, its GPU is missing here, or the run it started from is gone.
    """
    logged = artifacts.load_settings(source)
    options, system, name = logged["options"], logged["system"], source.info.run_name
    unknown = sorted(set(options) - {field.name for field in fields(TrainSettings)})
    unknown += sorted(set(system) - {field.name for field in fields(SystemConfig)})
    extractor = extractor_of_run(source, options.get("features", LOG_MEL), resolve_device("auto"))
    if unknown or logged["features"] != record(extractor):
        differing = f"knows no {', '.join(unknown)}" if unknown else "computes other features"
        raise InputError(
            f"The run {name} was made by another version of exvo; this one {differing}. "
            f"`git checkout {source.data.tags.get('git.commit', '<its commit>')}` and repeat it there."
        )
    if options["device"] == "cuda" and not torch.cuda.is_available():
        raise InputError(f"The run {name} was trained with device=cuda, which this machine lacks; repeat it on a GPU.")
    began_with, ended_with = source.data.params.get("devices", "1"), options.get("devices", 1)
    if (began_with, ended_with) != ("1", 1):
        raise InputError(
            f"The run {name} was trained on several devices together, which can't be repeated bit for bit; train again "
            "with the same options, and compare the two runs."
        )
    parent = source.data.tags.get(PARENT_TAG)
    if parent and not lookup.run_exists(parent):
        deleted = names.run_of_id(parent)
        why = names.deleted([deleted]) if deleted else f"The run {parent} has been removed from the tracking server."
        raise InputError(f"The run {name} started from the weights of another run. {why}")
    before = {"members": SystemConfig(**system).members}
    settings = corpus_settings(given, TrainSettings(**artifacts.FORMER | before | options))
    settings = replace(settings, init=f"runs:/{parent}" if parent else settings.init)
    return settings, SystemConfig(**system), extractor


def outcome(source: Run, checkpoint: Checkpoint) -> Outcome:
    """What a training run has logged; splits that other runs have scored for it are left out."""
    run_id = source.info.run_id
    tables: dict[str, Any] = {split: artifacts.load_table(run_id, f"predictions/{split}.parquet") for split in SPLITS}
    predictions = {split: table for split, table in tables.items() if table is not None}
    metrics = dict(source.data.metrics)
    for split in predictions:
        scores = artifacts.scores(source, split)
        metrics |= {} if scores is None else scoring.every_score(scores, split)
    return Outcome(checkpoint.network.state_dict(), artifacts.history(run_id), metrics, predictions)


def score_test(settings: TrainSettings, ready: Ready, run_id: str) -> None:
    """Scores the test split, as `main` does."""
    checkpoint = load_checkpoint(Path(settings.output) / "runs" / run_id / WEIGHTS)
    evaluate(checkpoint, ready, "test", settings, runs.trained(settings))
