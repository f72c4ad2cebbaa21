"""Finds runs with predictions to compare, and reads the predictions back."""

from __future__ import annotations

import io
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from mlflow.entities import Run

from exvo.config import POOLED
from exvo.errors import InputError
from exvo.evaluation import results
from exvo.evaluation.pairwise import Scored
from exvo.evaluation.results import Condition
from exvo.evaluation.scoring import every_score
from exvo.options import command_line
from exvo.settings import TrainSettings
from exvo.tracking import artifacts, lookup, names
from exvo.tracking.artifacts import artifact
from exvo.tracking.tags import (
    AS_TRAINED,
    CORPUS_TAG,
    DIGEST_TAG,
    ENTRY_TAG,
    EVALUATED_TAG,
    PROTOCOL_TAG,
    SEEDS_TAG,
    SYSTEM_TAG,
    TASK_TAG,
)

SPLIT = "val"
"""The split that chooses; the test split never does."""


def condition(run: Run) -> Condition:
    """The conditions under which a training run was validated."""
    tags = (run.data.tags.get(name, "") for name in (CORPUS_TAG, DIGEST_TAG, TASK_TAG, PROTOCOL_TAG))
    return results.make_condition(tags, SPLIT)


def validated(run: Run) -> Scored:
    """A training run's predictions of the validation split.

    Raises:
        InputError: it has none.
    """
    predictions = artifacts.load_table(run.info.run_id, f"predictions/{SPLIT}.parquet")
    if predictions is None:
        raise InputError(
            f"The run {run.info.run_name} has no predictions of the {SPLIT} split, without which it can't be compared "
            "with the champion; train it again."
        )
    return Scored(run.info.run_name, condition(run), artifacts.training_settings(run).shots, predictions)


def prior_of_run(trained: Run) -> dict[str, float | str]:
    """What the training labels of a run say without hearing anything, see `prior_of`; empty for early versions' runs.

    Raises:
        InputError: its prior.json is damaged.
    """
    prior = artifacts.load_json(trained, "prior.json")
    if any(not isinstance(value, (int, float, str)) for value in prior.values()):
        raise InputError(f"The prior.json of the run {trained.info.run_name} is damaged; give another run.")
    return prior


def evaluations(trained: Run, split: str) -> list[Run]:
    """The runs with predictions of a split under the options of training: itself, then its evaluations, newest first.

    Whether they do have predictions is left to `artifacts.load_table`.
    """
    same = (split, artifacts.training_settings(trained).shots)
    protocol = f"tags.`{PROTOCOL_TAG}` = '{condition(trained).protocol}'"
    runs = [(run, artifacts.load_settings(run)["options"]) for run in runs_about(trained, "evaluate", protocol)]
    return [trained, *(run for run, options in runs if (options["split"], options["shots"]) == same)]


def runs_about(trained: Run, entry_point: str, query: str = "") -> list[Run]:
    """The finished runs of an entry point that look at a training run, newest first; `query` narrows them."""
    about_it = f"tags.`{EVALUATED_TAG}` = '{trained.info.run_id}' and tags.`{ENTRY_TAG}` = '{entry_point}'"
    return names.search(f"{about_it} and attributes.status = 'FINISHED'{f' and {query}' if query else ''}")


def newest_curve(trained: Run) -> tuple[str, pd.DataFrame] | None:
    """The split and the table of the newest `enrolment-curve` of a training run; None where there is none."""
    for run in runs_about(trained, "enrolment-curve"):
        text = artifact(run, "enrolment/curve.csv")
        if text is not None:
            return artifacts.load_settings(run)["options"]["split"], pd.read_csv(io.StringIO(text))
    return None


def newest_robustness(trained: Run) -> tuple[str, pd.DataFrame] | None:
    """The same of the newest `robustness` of a training run."""
    for run in runs_about(trained, "robustness"):
        split = artifacts.load_settings(run)["options"]["split"]
        text = artifact(run, f"robustness/{split}.csv")
        if text is not None:
            return split, pd.read_csv(io.StringIO(text))
    return None


@dataclass(frozen=True)
class SystemRun:
    """A finished run of a system, in a table of results.

    Attributes:
        run_id: of the run that has made the predictions.
        training_id: of the training run; the same where that has made the predictions.
        run: the training run's name.
        evaluation: the evaluation's name; empty where the training run has made the predictions.
        system: that was trained.
        condition: of its scores.
        metrics: the scores of the condition's split, by name without the split.
        settings: with which it was trained; the shots are those of the predictions.
    """

    run_id: str
    training_id: str
    run: str
    evaluation: str
    system: str
    condition: Condition
    metrics: Mapping[str, float]
    settings: TrainSettings


def system_runs(table: pd.DataFrame, split: str) -> list[SystemRun]:
    """The runs of a table with columns as `results.newest` gives them, with how they were trained.

    Raises:
        InputError: the settings of a run are missing or damaged.
    """
    return [_system_run(row, split) for row in table.to_dict("records")]


def _system_run(row: Mapping[Hashable, Any], split: str) -> SystemRun:
    training_id = row["evaluated_run"] or row["run_id"]
    source = lookup.require_run(training_id)
    settings, evaluation = artifacts.training_settings(source), ""
    if training_id != row["run_id"]:
        evaluation = row["run"]
        options = artifacts.load_settings(lookup.require_run(row["run_id"]))["options"]
        settings = replace(settings, shots=options.get("shots", settings.shots))
    return SystemRun(
        run_id=row["run_id"],
        training_id=training_id,
        run=source.info.run_name,
        evaluation=evaluation,
        system=row["system"],
        condition=results.make_condition((row[key] for key in results.KEYS), split),
        metrics=row["metrics"] | _scores(lookup.require_run(row["run_id"]), split),
        settings=settings,
    )


def _scores(run: Run, split: str) -> dict[str, float]:
    """All scores of a split with their intervals, from the table of a run; empty where early versions logged none."""
    table = artifacts.scores(run, split)
    return {} if table is None else results.of_split(every_score(table, split), split)


def as_table(runs: Iterable[SystemRun]) -> pd.DataFrame:
    """Runs as `results.results_table` takes them: run_id, system, run, evaluation, metrics, the columns `TRAINING`."""
    columns = ["run_id", "system", "run", "evaluation", "metrics"]
    rows = [
        [getattr(run, name) for name in columns] + [getattr(run.settings, name) for name in results.TRAINING]
        for run in runs
    ]
    return pd.DataFrame(rows, columns=[*columns, *results.TRAINING])


def scored_run(source: Run, option: str, split: str) -> tuple[Scored, SystemRun]:
    """A run's predictions of a split, its own or those of its newest evaluation, and the run that has made them.

    Args:
        source: the run.
        option: by which the user chose it, for the sentences of errors.
        split: train, val or test.

    Raises:
        InputError: it has not finished, it is no run of a system, or it has no predictions.
    """
    subject = f"The run {source.info.run_name} ({option})"
    status = source.info.status
    if status != "FINISHED":
        state = {"FAILED": "has failed", "KILLED": "was stopped"}.get(status, f"is {status.lower()}")
        raise InputError(f"{subject} {state}; give a run that has finished.")
    run_id = source.info.run_id
    if not source.data.tags.get(SYSTEM_TAG):
        raise InputError(
            f"{subject} names no system; give a run that train, main or evaluate of this version has made."
        )
    evaluations = names.search(f"{lookup.OF_SYSTEM} and tags.`{EVALUATED_TAG}` = '{run_id}' and {AS_TRAINED}")
    table = lookup.as_rows([source, *evaluations])
    table = table.assign(metrics=table["metrics"].map(lambda metrics: results.of_split(metrics, split)))
    for row in table.to_dict("records"):
        run = _system_run(row, split)
        predictions = predictions_of(run)
        if predictions is not None:
            return replace(predictions, run=source.info.run_name), run
    if SEEDS_TAG in source.data.tags:
        raise InputError(
            f"{subject} has no predictions of the {split} split: `main` with seeds has those of test, `train` of val "
            "alone; give the runs beneath it, or another split."
        )
    raise InputError(f"{subject} {no_predictions(table['evaluated_run'].iloc[0] or run_id, split)}")


def predictions_of(run: SystemRun) -> Scored | None:
    """The predictions of a run; None where it has none of the condition's split."""
    split, settings = run.condition.split, run.settings
    if settings.seeds > 1 and run.run_id == run.training_id:
        seeds = range(settings.seed, settings.seed + settings.seeds)
        tables = {seed: artifacts.load_table(run.run_id, artifacts.seed_table(split, seed)) for seed in seeds}
        found = {seed: table for seed, table in tables.items() if table is not None}
        complete = len(found) == len(tables)
        return Scored(run.run, run.condition, settings.shots, found[settings.seed], found) if complete else None
    predictions = artifacts.load_table(run.run_id, f"predictions/{split}.parquet")
    return None if predictions is None else Scored(run.run, run.condition, settings.shots, predictions)


def no_predictions(training_id: str, split: str) -> str:
    """The end of a sentence about a run without predictions, with the command that makes them."""
    if split == POOLED:
        return f"is no cross-validation; `{command_line('train', {'folds': 5})}` and the system's options make one."
    command = command_line("evaluate", {"run_id": training_id, "split": split})
    return f"has no predictions of the {split} split; write them with `{command}`."
