"""Several seeds: a run with a run for each seed beneath it, and the mean, the range and each of their scores."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from exvo.evaluation import scoring
from exvo.evaluation.prior import prior_of
from exvo.evaluation.results import seed_metric
from exvo.evaluation.seeds import mean_scores
from exvo.experiments.children import Child, read_child, write_child
from exvo.experiments.corpus import Ready
from exvo.experiments.evaluate import ScoredSplit, evaluate_best
from exvo.experiments.resume import Begun, resumable
from exvo.experiments.train import start, train_and_validate, training_task
from exvo.networks.checkpoint import WEIGHTS
from exvo.reports.description import description
from exvo.reports.seeds import seeds_page, seeds_text
from exvo.settings import TrainSettings
from exvo.systems import SystemConfig
from exvo.tasks import Task, task_of
from exvo.tracking import experiments, lookup, runs
from exvo.tracking.artifacts import seed_table
from exvo.tracking.tags import BEST_SEED_TAG, SEED_TAG, SEEDS_TAG, TUNED_TAG
from exvo.training.states import States


def train_seeds(entry_point: str, settings: TrainSettings, system: SystemConfig) -> None:
    """Does what the entry point does once for each seed, in a run beneath the command's, then logs what they reach.

    Seeds that are done are not done again by the command that goes on with a run.

    Args:
        entry_point: train or main.
        settings: without `auto`.
        system: that they train.
    """
    with resumable(entry_point, settings, system) as begun:
        train_each(entry_point, settings, system, begun)
        print(experiments.where_to_look(begun.run_id))
    shutil.rmtree(folder_of(settings, begun.run_id), ignore_errors=True)


def train_beneath(
    parent: str, what: str, settings: TrainSettings, system: SystemConfig, ready: Ready
) -> tuple[dict[int, float], str]:
    """The same beneath the run of a study, in the run of an earlier command where there is one.

    Args:
        parent: id of the study's run.
        what: is trained, the trial and the seeds, by which the earlier run is found.
        settings: without `auto`.
        system: that they train.
        ready: the corpus.

    Returns:
        The headline score of each seed on validation, and the id of the run of all seeds.
    """
    headline = f"val/{scoring.headline(training_task(settings, system, ready.corpus))}"
    earlier = lookup.run_beneath(parent, TUNED_TAG, what)
    if earlier and lookup.has_finished(earlier):
        metrics = lookup.require_run(earlier).data.metrics
        seeds = range(settings.seed, settings.seed + settings.seeds)
        return {seed: metrics.get(seed_metric(headline, seed), math.nan) for seed in seeds}, earlier
    with runs.start_run("train", earlier, parent=parent, tags={TUNED_TAG: what}, output=settings.output) as run_id:
        states = States(Path(settings.output) / "runs" / run_id / WEIGHTS, run_id)
        table = train_each("train", settings, system, Begun(run_id, run_id, states, ready))
    shutil.rmtree(folder_of(settings, run_id), ignore_errors=True)
    return dict(zip(table["seed"], table[headline], strict=True)), run_id


def folder_of(settings: TrainSettings, run_id: str) -> Path:
    """Where what the seeds of a run gave is kept until all are done."""
    return Path(settings.output) / "runs" / run_id / "seeds"


def train_each(entry_point: str, settings: TrainSettings, system: SystemConfig, begun: Begun) -> pd.DataFrame:
    """Trains each seed beneath the present run, and logs in this what they reach.

    Args:
        entry_point: train or main.
        settings: without `auto`.
        system: that they train.
        begun: the present run.

    Returns:
        See `seeds_table`.
    """
    ready = start(settings, system, begun.ready)
    runs.set_tags({SEEDS_TAG: settings.seeds})
    if settings.task != "speaker":
        task = training_task(settings, system, ready.corpus)
        runs.log_resolved({"objective": task.objective})
        runs.log_json("prior.json", prior_of(ready.rows("train"), task))
    runs.keep_run()
    print(f"{settings.seeds} seeds, each a training of {settings.epochs} epochs at most")
    folder = folder_of(settings, begun.run_id)
    children: dict[int, Child] = {}
    for seed in range(settings.seed, settings.seed + settings.seeds):
        done = read_child(folder, seed)
        if done is None:
            begun.seed = seed
            done = train_seed(entry_point, replace(settings, seed=seed, seeds=1), system, ready, begun)
            write_child(folder, seed, done)
        else:
            print(f"seed {seed} is done: run {done.run} ({done.run_id})")
        children[seed] = done
    return log_seeds(settings, ready, children)


def train_seed(entry_point: str, settings: TrainSettings, system: SystemConfig, ready: Ready, begun: Begun) -> Child:
    """Trains one seed in a run beneath the command's, in that of an earlier command where there is one.

    Args:
        entry_point: train or main, which also scores the test split.
        settings: of the seed.
        system: that is trained.
        ready: the corpus.
        begun: the command's run.
    """
    print(f"\nseed {settings.seed}", flush=True)
    earlier = lookup.run_beneath(begun.run_id, SEED_TAG, settings.seed)
    tags = {SEED_TAG: str(settings.seed)}
    with runs.start_run(entry_point, earlier, parent=begun.run_id, tags=tags, output=settings.output) as run_id:
        best_file = Path(settings.output) / "runs" / run_id / WEIGHTS
        begun.states = States(best_file, f"{begun.command}-{settings.seed}")
        start(settings, system, ready)
        best, validation = train_and_validate(settings, system, ready, run_id, states=begun.states)
        scored: dict[str, ScoredSplit | None] = {"val": validation}
        if entry_point == "main":
            scored["test"] = evaluate_best(settings, ready, run_id)
        name = runs.present_run().name
    begun.states.clear()
    tables = {split: each.predictions for split, each in scored.items() if each is not None}
    return Child(run_id, name, best.number, tables)


def log_seeds(settings: TrainSettings, ready: Ready, children: dict[int, Child]) -> pd.DataFrame:
    """Logs of each split the mean of the seeds' scores, their range and each, and which seed is the best on validation.

    Args:
        settings: of the command.
        ready: the corpus.
        children: by seed.

    Returns:
        See `seeds_table`.
    """
    some = next(table for child in children.values() for table in child.predictions.values())
    task = task_of(some, settings.task)
    headline, scored = scoring.headline(task), scoring.scorable(some)
    table = seeds_table(children, task)
    runs.log_table(table, "seeds.csv")
    means: dict[str, pd.DataFrame] = {}
    for split in [name for name in ("val", "test") if f"{name}/{headline}" in table]:
        predictions = {seed: child.predictions[split] for seed, child in children.items()}
        for seed, rows in predictions.items():
            runs.log_table(rows, seed_table(split, seed))
        means[split] = mean_scores(list(predictions.values()), task)
        runs.log_table(means[split], f"scores/{split}.csv")
        each = dict(zip(table["seed"], table[f"{split}/{headline}"], strict=True))
        named = {seed_metric(f"{split}/{headline}", seed): score for seed, score in each.items()}
        runs.log_metrics(scoring.as_metrics(means[split], split) | named)
        print(f"\n{seeds_text(means[split], each, headline, split)}")
        scored = scoring.scorable(next(iter(predictions.values())))
        speakers = set(scored["speaker"])
        count = 0 if "" in speakers else len(speakers)
        address = runs.artifact_page("report/seeds.html")
        text = description(split, means[split], task, settings, ready.name, count, address)
        runs.describe(f"{text}\n\n{seeds_text(means[split], each, headline, split)}")
    validated = table.get(f"val/{headline}", pd.Series(math.nan, index=table.index))
    best = table.iloc[int(np.argmax(validated.fillna(-math.inf)))]
    runs.set_tags({BEST_SEED_TAG: best["run_id"]})
    print(f"\nthe best seed on validation is {best['seed']}: run {best['run']} ({best['run_id']})")
    synthetic = ready.corpus.synthetic
    runs.log_page("report/seeds", seeds_page(settings.model, ready.name, table, means, scored, task, synthetic))
    print("report of the seeds: the artifact report/seeds.html")
    return table


def seeds_table(children: dict[int, Child], task: Task) -> pd.DataFrame:
    """A row a seed: the seed, the headline score of each split that all have, the best epoch, and the run."""
    headline = scoring.headline(task)
    table = pd.DataFrame({"seed": list(children)})
    for split in ("val", "test"):
        if all(split in child.predictions for child in children.values()):
            tables = [child.predictions[split] for child in children.values()]
            table[f"{split}/{headline}"] = [float(scoring.score_epoch(rows, task)[headline]) for rows in tables]
    for name in ("best_epoch", "run", "run_id"):
        table[name] = [getattr(child, name) for child in children.values()]
    return table
