"""Extracts, trains and evaluates, all in one run.

What is evaluated is the best epoch, on the test split.
"""

from __future__ import annotations

from pathlib import Path

from exvo.experiments import several
from exvo.experiments.evaluate import evaluate
from exvo.experiments.folds import cross_validate
from exvo.experiments.resume import resumable
from exvo.experiments.train import resolve, start, train
from exvo.networks.checkpoint import WEIGHTS, load_checkpoint
from exvo.settings import TrainSettings
from exvo.systems import SystemConfig
from exvo.tracking import experiments, runs


def run(given: TrainSettings) -> None:
    """Does all in one run."""
    settings, system = resolve(given)
    several.run("main", given, settings, system, lambda: run_here(settings, system))


def run_here(settings: TrainSettings, system: SystemConfig) -> None:
    """Does all in one run, as the only rank or the first of several."""
    if settings.folds:
        cross_validate("main", settings, system)
        return
    with resumable("main", settings, system) as begun:
        run_id = begun.run_id
        ready = start(settings, system, begun.ready)
        train(settings, system, ready, run_id, states=begun.states)
        if settings.task == "speaker":
            print("The test split has other people than a speaker recogniser knows; the score above is all there is.")
        elif ready.rows("test").empty:
            print("The corpus has no test split; the validation score above is all there is.")
        else:
            checkpoint = load_checkpoint(Path(settings.output) / "runs" / run_id / WEIGHTS)
            evaluate(checkpoint, ready, "test", settings, runs.trained(settings))
        print(experiments.where_to_look(run_id))
