"""The main job in one run: extract, train, and evaluate the best epoch on the test split."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from exvo.config import TrainSettings
from pipelines.common import command
from pipelines.evaluate import evaluate
from pipelines.resume import resumable
from pipelines.train import resolve, start, train


def run(given: TrainSettings) -> None:
    """Does all in one run."""
    from exvo import networks, serving, tracking

    settings, system = resolve(given)
    with resumable("main", settings, system) as begun:
        run_id = begun.run_id
        ready = start(settings, system, begun.ready)
        train(settings, system, ready, run_id, states=begun.states)
        if settings.task == "speaker":
            print("The test split has other people than a speaker recogniser knows; the score above is all there is.")
        elif ready.rows("test").empty:
            print("The corpus has no test split; the validation score above is all there is.")
        else:
            checkpoint = networks.load(Path(settings.output) / "runs" / run_id / serving.WEIGHTS)
            evaluate(checkpoint, ready, "test", settings.device, asdict(settings), tracking.trained(asdict(settings)))
        print(tracking.where_to_look(run_id))


if __name__ == "__main__":
    command("main", run)
