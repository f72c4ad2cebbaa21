"""Extracts, trains and evaluates, all in one run.

What is evaluated is the best epoch, on the test split.
"""

from __future__ import annotations

from exvo.experiments import several
from exvo.experiments.evaluate import evaluate_best
from exvo.experiments.folds import cross_validate
from exvo.experiments.resume import resumable
from exvo.experiments.seeds import train_seeds
from exvo.experiments.train import resolve, start, train
from exvo.settings import TrainSettings
from exvo.systems import SystemConfig
from exvo.tracking import experiments


def run(given: TrainSettings) -> None:
    """Does all in one run."""
    settings, system = resolve(given)
    several.run("main", given, settings, system, lambda: run_here(settings, system))


def run_here(settings: TrainSettings, system: SystemConfig) -> None:
    """Does all in one run, as the only rank or the first of several."""
    if settings.folds:
        cross_validate("main", settings, system)
        return
    if settings.seeds > 1:
        train_seeds("main", settings, system)
        return
    with resumable("main", settings, system) as begun:
        run_id = begun.run_id
        ready = start(settings, system, begun.ready)
        train(settings, system, ready, run_id, states=begun.states)
        evaluate_best(settings, ready, run_id)
        print(experiments.where_to_look(run_id))
