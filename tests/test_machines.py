"""A study on two machines (network namespaces) with one PostgreSQL and one MLflow server; one machine is lost."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from helpers.machines import Machine
from helpers.servers import Database, Server
from helpers.studies import STUDY, counts, new_study, trial_runs

pytestmark = pytest.mark.slow

PASSWORD = "-".join(("one", "for", "all"))


@pytest.fixture
def database() -> Iterator[Database]:
    folder = Path(mkdtemp(prefix="exvo-postgres-"))
    one = Database(folder, PASSWORD)
    one.start()
    try:
        yield one
    finally:
        one.stop()
        shutil.rmtree(folder)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    made: list[Machine] = []
    try:
        for number in (1, 2):
            made.append(Machine(number, tmp_path))
        yield made
    finally:
        for machine in made:
            machine.stop()


def study_in(database: Database) -> optuna.Study:
    url = database.uri.replace("postgresql:", "postgresql+psycopg:")
    return new_study(RDBStorage(url, {"poolclass": NullPool}))


def trial_in_the_middle(database: Database, machine: Machine, process: subprocess.Popen[bytes]) -> int:
    """The number of a trial in mid-training there."""
    study, until = None, time.monotonic() + 120
    while time.monotonic() < until:
        assert process.poll() is None, machine.printed()
        with contextlib.suppress(SQLAlchemyError, ValueError):  # its tables are being made
            study = study or study_in(database)
            for trial in study.trials:
                its = trial.user_attrs.get("worker", {}).get("host") == machine.name
                if its and trial.state == TrialState.RUNNING and trial.intermediate_values:
                    return trial.number
        time.sleep(0.02)
    pytest.fail("no trial has begun")


def test_the_trial_of_a_machine_that_is_lost_is_repeated_by_the_other(
    machines: list[Machine], database: Database, own_server: Server, tiny_corpus: Path
) -> None:
    first, second = machines
    options = STUDY | {"data": str(tiny_corpus), "epochs": "16", "trials": "3"}
    commands = []
    for machine in machines:
        storage = machine.reach(database.uri, database.port)
        tracking = machine.reach(own_server.uri, own_server.port)
        commands.append(machine.start("tune", options | {"storage": storage}, tracking))
    lost = trial_in_the_middle(database, first, commands[0])
    first.stop()  # with its network
    with contextlib.suppress(subprocess.TimeoutExpired):
        commands[1].wait(150)
    said = second.printed()
    assert commands[1].poll() == 0, said
    study = study_in(database).trials
    found = counts(study)
    assert found["COMPLETE"] + found.get("PRUNED", 0) == 3
    assert study[lost].state == TrialState.FAIL
    assert study[lost].user_attrs["problem"] == "Its worker was killed or lost."
    (again,) = [trial for trial in study if trial.user_attrs.get("again")]
    assert again.params == study[lost].params
    assert again.user_attrs["worker"]["host"] == second.name
    (parent,), trials = trial_runs()
    assert parent.info.status == "FINISHED"
    assert "RUNNING" not in {run.info.status for run in trials}
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    (killed,) = [run for run in trials if run.data.tags["exvo.trial"] == str(lost)]
    assert killed.info.status == "KILLED"
    assert PASSWORD not in said
