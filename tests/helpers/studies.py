"""Studies of options."""

from __future__ import annotations

from pathlib import Path

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from exvo.tuning.storage import open_storage
from exvo.tuning.study import Study, Trial

STUDY = {"model": "cnn10-relative", "corpus": "table", "epochs": "3", "width": "0.05", "trials": "3"}


def trial_runs() -> tuple[list[Run], list[Run]]:
    """The runs of `tune`, and the trials in their order."""
    found = MlflowClient().search_runs(["0"], order_by=["attributes.start_time"])
    parents = [run for run in found if run.data.tags.get("exvo.entry_point") == "tune"]
    trials = [run for run in found if "exvo.trial" in run.data.tags]
    return parents, sorted(trials, key=lambda run: int(run.data.tags["exvo.trial"]))


def new_study(storage: object = None) -> optuna.Study:
    """The only study in the storage, through Optuna alone."""
    opened = storage or JournalStorage(JournalFileBackend("output/studies.journal"))
    (name,) = optuna.get_all_study_names(opened)  # type: ignore[arg-type]
    return optuna.load_study(study_name=name, storage=opened)  # type: ignore[arg-type]


def counts(trials: list[optuna.trial.FrozenTrial]) -> dict[str, int]:
    states = [trial.state.name for trial in trials]
    return {state: states.count(state) for state in sorted(set(states))}


SEARCH = ("batch_size", "learning_rate")


def memory_study(folder: Path, epochs: int = 8, search: tuple[str, ...] = SEARCH, seed: int = 0) -> Study:
    return Study(open_storage("", folder), "tried", search, epochs, seed)


def begin(of: Study, total: int = 1000) -> Trial:
    trial = of.begin(total)
    assert trial is not None
    return trial
