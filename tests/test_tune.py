"""`tune` as a user types it, read back from MLflow and from Optuna: resumed, killed, stopped, by several workers."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import optuna
import pytest
from conftest import run_here
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy.pool import NullPool
from test_pipelines import environment

from exvo.config import InputError
from exvo.training import Epoch, TrainingError
from exvo.tuning.study import Pruned, Trial
from pipelines import trials as trials_module

pytestmark = pytest.mark.usefixtures("store")

PASSWORD = "s3cret-Pa55"
SMALL = {"model": "cnn10-relative", "corpus": "table", "epochs": "3", "width": "0.05", "trials": "3"}


@pytest.fixture
def options(tiny_corpus: Path) -> dict[str, str]:
    return SMALL | {"data": str(tiny_corpus)}


def runs() -> tuple[list[Run], list[Run]]:
    """The runs of `tune`, and the trials in their order."""
    found = MlflowClient().search_runs(["0"], order_by=["attributes.start_time"])
    parents = [run for run in found if run.data.tags.get("exvo.entry_point") == "tune"]
    trials = [run for run in found if "exvo.trial" in run.data.tags]
    return parents, sorted(trials, key=lambda run: int(run.data.tags["exvo.trial"]))


def study(storage: object = None) -> optuna.Study:
    """The only study in the storage, through Optuna alone."""
    opened = storage or JournalStorage(JournalFileBackend("output/studies.journal"))
    (name,) = optuna.get_all_study_names(opened)  # type: ignore[arg-type]
    return optuna.load_study(study_name=name, storage=opened)  # type: ignore[arg-type]


def typed(options: dict[str, str], store: str) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    words = [sys.executable, "-m", "pipelines.tune", *(word for pair in options.items() for word in pair)]
    words = [f"--{word}" if number % 2 else word for number, word in enumerate(words[3:], 1)]
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.tune", *words],
        env=environment(store),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(what: str, check: object, process: subprocess.Popen[str], seconds: float = 90) -> object:
    """The first truth that `check` gives."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if found := check():  # type: ignore[operator]
                return found
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"{what} did not come: {process.communicate()[0]}")


def running_worker(of: optuna.Study | None = None, besides: int = 0) -> int:
    """The process of a trial that has told of an epoch; 0 while there is none."""
    for trial in (of or study()).trials:
        pid = trial.user_attrs.get("worker", {}).get("pid", besides)
        if trial.state == TrialState.RUNNING and trial.intermediate_values and pid != besides:
            return int(pid)
    return 0


def counts(trials: list[optuna.trial.FrozenTrial]) -> dict[str, int]:
    states = [trial.state.name for trial in trials]
    return {state: states.count(state) for state in sorted(set(states))}


def test_a_study_goes_on_to_its_total_and_its_best_trial_can_be_repeated(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("tune", options | {"trials": "2"}, monkeypatch) == 0
    assert run_here("tune", options | {"trials": "4"}, monkeypatch) == 0
    capsys.readouterr()
    assert run_here("tune", options | {"trials": "4"}, monkeypatch) == 0  # nothing left: the best is printed again
    said = capsys.readouterr().out
    assert "\nepoch " not in said
    assert "number" not in said
    (parent,), trials = runs()
    assert [run.data.tags["exvo.trial"] for run in trials] == ["0", "1", "2", "3"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *trials]} == {"FINISHED"}
    kept = study().trials
    assert [trial.user_attrs["run_id"] for trial in kept] == [run.info.run_id for run in trials]
    assert [trial.value for trial in kept] == [run.data.metrics["val/emotion_ccc"] for run in trials]
    assert [str(2 ** trial.params["log2_batch_size"]) for trial in kept] == [
        run.data.params["batch_size"] for run in trials
    ]
    top = max(trials, key=lambda run: run.data.metrics["val/emotion_ccc"])
    assert parent.data.tags["exvo.best_run"] == top.info.run_id
    assert parent.data.metrics["study/best_emotion_ccc"] == top.data.metrics["val/emotion_ccc"]
    assert parent.data.metrics["study/finished"] == 4
    assert parent.data.params["learning_rate"] == "0.0001 to 0.1, log"
    for run in trials:  # all that a training run logs
        assert re.fullmatch(r"trial-\d{3}-cnn10-relative-[a-z]+-[a-z]+-\d+", run.info.run_name)
        assert {"exvo.model_uri", "exvo.corpus_digest", "git.commit", "exvo.study"} <= set(run.data.tags)
        assert run.data.tags["exvo.trial_state"] == "finished"
        assert {"epoch/loss", "best_epoch", "val/emotion_ccc_lo_by_speaker"} <= set(run.data.metrics)
        artifacts = {item.path for item in MlflowClient().list_artifacts(run.info.run_id)}
        assert {"settings.json", "predictions", "scores", "environment.json"} <= artifacts
    page = mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/study.html")
    assert "4 finished" in page
    pictures = {item.path for item in MlflowClient().list_artifacts(parent.info.run_id, "study")}
    names = ("history", "importances", "parallel-coordinates", "slice-batch_size", "slice-learning_rate")
    assert {f"study/{name}.png" for name in names} | {"study/trials.csv", "study/trials.parquet"} <= pictures
    (again,) = re.findall(r"^again  mlflow run \. -e train (.*)$", said, flags=re.MULTILINE)
    repeated = dict(word.split("=", 1) for word in shlex.split(again) if word != "-P")
    assert run_here("train", repeated, monkeypatch) == 0
    newest = MlflowClient().search_runs(["0"], "tags.`exvo.entry_point` = 'train'", order_by=["start_time DESC"])[0]
    assert "exvo.trial" not in newest.data.tags
    assert newest.data.metrics["val/emotion_ccc"] == top.data.metrics["val/emotion_ccc"]


def test_pruned_failed_and_undefined_trials_show_as_such(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes: Iterator[float | Exception] = iter(
        [0.25, Pruned(), TrainingError("The loss is nan."), math.nan, 0.3, RuntimeError("out of memory"), 0.5]
    )

    def train(settings, system, ready, run_id, watch):  # type: ignore[no-untyped-def]
        outcome = next(outcomes)
        weights = Path(settings.output) / "runs" / run_id / "exvo.safetensors"
        weights.parent.mkdir(parents=True)
        score = outcome if isinstance(outcome, float) else 0.1
        watch(Epoch(1, 1.0, 0.1, 1.0, score, True))
        if isinstance(outcome, Exception):
            raise outcome
        return Epoch(1, 1.0, 0.1, 1.0, score, True)

    monkeypatch.setattr(trials_module, "train", train)
    assert run_here("tune", options | {"trials": "4"}, monkeypatch) == 0
    (parent,), trials = runs()
    told = [(run.info.status, run.data.tags["exvo.trial_state"], run.data.tags.get("exvo.problem")) for run in trials]
    undefined = "The validation score was undefined in every epoch, so there is nothing to compare."
    assert told == [
        ("FINISHED", "finished", None),
        ("KILLED", "pruned", None),
        ("FAILED", "failed", "The loss is nan."),
        ("FAILED", "failed", undefined),
        ("FINISHED", "finished", None),
        ("FAILED", "failed", "out of memory"),
        ("FINISHED", "finished", None),
    ]
    kept = study().trials
    assert [trial.state.name for trial in kept] == [
        "COMPLETE",
        "PRUNED",
        "FAIL",
        "FAIL",
        "COMPLETE",
        "FAIL",
        "COMPLETE",
    ]
    assert [trial.user_attrs.get("problem") for trial in kept] == [problem for *_, problem in told]
    assert kept[1].intermediate_values == {1: 0.1}
    assert not kept[3].intermediate_values
    metrics = parent.data.metrics
    assert (metrics["study/finished"], metrics["study/pruned"], metrics["study/failed"]) == (3, 1, 3)
    assert parent.data.tags["exvo.best_trial"] == "6"
    said = capsys.readouterr().out
    assert re.search(r"trial +4/4  number +6  finished +0\.5000  best 0\.5000 \(trial 6\)", said)
    assert said.count("The loss is nan.") == 1


@pytest.mark.parametrize(
    ("error", "status", "tried", "sentence"),
    [
        (TrainingError("It diverged."), 1, 3, "because 3 of its trials have failed; the last one: It diverged."),
        (InputError("The disk is full."), 2, 1, "exvo: The disk is full."),
    ],
)
def test_a_study_stops_where_going_on_is_useless(
    error: Exception,
    status: int,
    tried: int,
    sentence: str,
    options: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(*_: object) -> None:
        raise error

    monkeypatch.setattr(trials_module, "train", train)
    assert run_here("tune", options, monkeypatch) == status
    (parent,), trials = runs()
    assert [run.info.status for run in [parent, *trials]] == ["FAILED"] * (tried + 1)
    assert sentence in capsys.readouterr().err


def test_a_storage_that_goes_away_is_said(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(*_: object) -> None:
        raise StorageInternalError("the server has closed the connection")

    def train(settings, system, ready, run_id, watch):  # type: ignore[no-untyped-def]
        monkeypatch.setattr(Trial, "end", report)
        report()

    monkeypatch.setattr(trials_module, "train", train)
    assert run_here("tune", options, monkeypatch) == 2
    said = capsys.readouterr().err
    assert (
        "exvo: storage=output/studies.journal can't be used any more (the server has closed the connection); " in said
    )
    assert {run.info.status for runs_of in runs() for run in runs_of} == {"FAILED"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"search": "width,batch_sise"}, "batch_sise can't be searched; did you mean batch_size?"),
        (
            {"batch_size": "8", "search": "batch_size,width"},
            "batch_size=8, width=0.05: what is searched can't be given",
        ),
        ({"model": "cnn14-random-init-continued", "search": "dropout"}, "search=dropout: dropout can't be searched"),
        ({"storage": "studies.db"}, "storage=studies.db is neither a journal file"),
        ({"trials": "0"}, "trials=0 is out of range"),
        ({"data": "nowhere"}, "the folder nowhere of corpus table is not there"),
    ],
)
def test_a_users_mistake_leaves_no_study(
    given: dict[str, str],
    sentence: str,
    options: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_here("tune", options | given, monkeypatch) == 2
    assert sentence in capsys.readouterr().err
    assert runs() == ([], [])
    assert not Path("output/studies.journal").exists()


def test_dropout_width_and_optimiser_reach_network_and_command(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def train(settings, system, ready, run_id, watch):  # type: ignore[no-untyped-def]
        assert system.dropout == settings.dropout
        seen.append((settings.width, settings.dropout, settings.optimizer))
        return Epoch(1, 1.0, 0.1, 1.0, float(len(seen)), True)

    monkeypatch.setattr(trials_module, "train", train)
    given = {name: value for name, value in options.items() if name != "width"}
    assert run_here("tune", given | {"search": "dropout,width,optimizer"}, monkeypatch) == 0
    assert seen[0] == (1.0, 0.2, "sgd")  # the system's own
    assert len(set(seen)) == 3
    width, dropout, optimizer = seen[-1]
    said = capsys.readouterr().out
    (again,) = re.findall(r"^again  (.*)$", said, flags=re.MULTILINE)
    assert {f"width={width:g}", f"dropout={dropout:g}"} <= set(shlex.split(again))
    assert optimizer == "sgd" or f"optimizer={optimizer}" in shlex.split(again)
    assert runs()[1][-1].data.params["dropout"] == f"{dropout:g}"


def test_a_killed_command_goes_on_in_the_same_run(
    options: dict[str, str], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options |= {"trials": "1", "epochs": "40"}
    process = typed(options, store)
    assert wait_for("an epoch", running_worker, process) == process.pid
    process.kill()
    process.wait()
    assert runs()[1][0].info.status == "RUNNING"
    assert run_here("tune", options, monkeypatch) == 0
    (parent,), trials = runs()
    assert [run.info.status for run in [parent, *trials]] == ["FINISHED", "KILLED", "FINISHED"]
    assert [run.data.tags["exvo.trial_state"] for run in trials] == ["killed", "finished"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert counts(study().trials) == {"COMPLETE": 1, "FAIL": 1}
    assert study().trials[0].user_attrs["problem"] == "Its worker was killed or lost."


def test_the_same_command_twice_shares_one_study_and_one_run(options: dict[str, str], store: str) -> None:
    options |= {"trials": "8"}
    commands = [typed(options, store) for _ in range(2)]
    said = [command.communicate(timeout=120)[0] for command in commands]
    assert [command.returncode for command in commands] == [0, 0], said
    found = counts(study().trials)
    assert found["COMPLETE"] + found.get("PRUNED", 0) == 8
    assert found.get("FAIL", 0) <= 1  # that which stepped back
    (parent,), trials = runs()
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert len(trials) == 8
    assert {trial.user_attrs["worker"]["pid"] for trial in study().trials} == {command.pid for command in commands}


def test_ctrl_c_ends_all_within_seconds(options: dict[str, str], store: str) -> None:
    process = typed(options | {"epochs": "400", "workers": "2"}, store)
    first = int(str(wait_for("an epoch", running_worker, process)))
    second = int(str(wait_for("an epoch", lambda: running_worker(besides=first), process)))
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 15
    assert process.returncode == 130
    assert "Stopped; the same command goes on where this one was." in said
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    (parent,), trials = runs()
    assert [run.info.status for run in [parent, *trials]] == ["KILLED"] * 3
    assert [trial.user_attrs["problem"] for trial in study().trials] == ["Stopped."] * 2


def test_the_run_that_mlflow_made_is_tagged_with_the_one_that_goes_on(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Epoch(1, 1.0, 0.1, 1.0, 0.5, True)
    monkeypatch.setattr(trials_module, "train", lambda *_: score)
    assert run_here("tune", options | {"trials": "1"}, monkeypatch) == 0
    made = MlflowClient().create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    assert run_here("tune", options | {"trials": "2"}, monkeypatch) == 0
    (first, second), trials = runs()
    assert second.info.run_id == made.info.run_id
    assert second.data.tags["exvo.continues"] == first.info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {first.info.run_id}
    assert [run.info.status for run in (first, second, *trials)] == ["FINISHED"] * 4


def test_optuna_dashboard_opens_on_the_journal(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials_module, "train", lambda *_: Epoch(1, 1.0, 0.1, 1.0, 0.5, True))
    assert run_here("tune", options, monkeypatch) == 0
    (command,) = re.findall(r"live: (optuna-dashboard .*)$", capsys.readouterr().out, flags=re.MULTILINE)
    port = free_port()
    words = [str(Path(sys.executable).parent / "optuna-dashboard"), *shlex.split(command)[1:], "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies") as answer:
                    assert answer.status == 200
                    shown = json.load(answer)
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/dashboard") as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        process.wait()
    assert study().study_name in json.dumps(shown)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of an empty database on a server of the test's own, which asks for a password."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("there is no PostgreSQL in /usr/lib/postgresql; Debian's package is called postgresql")
    folder = Path(tempfile.mkdtemp(prefix="exvo-postgres-"))
    as_user = []
    if os.geteuid() == 0:  # which the server refuses to run as
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")

    def server(program: str, *words: str) -> None:
        command = [*as_user, str(found[-1].with_name(program)), "-D", str(folder / "data"), *words]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=60)

    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    port = free_port()
    server("initdb", "-U", "ada", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")
    places = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    server("pg_ctl", "-w", "-l", str(folder / "log"), "-o", places, "start")
    try:
        yield f"postgresql://ada:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        server("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def test_postgresql_keeps_a_study_of_two_workers_one_killed_and_no_password_is_logged(
    postgres: str,
    options: dict[str, str],
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def kept() -> optuna.Study:
        url = postgres.replace("postgresql:", "postgresql+psycopg:")
        return study(RDBStorage(url, {"poolclass": NullPool}))  # closes its connections at once

    options |= {"storage": postgres, "workers": "2", "epochs": "12"}
    process = typed(options, store)
    killed = int(str(wait_for("an epoch", lambda: running_worker(kept()), process)))
    os.kill(killed, signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "a worker was killed (SIGKILL); another takes its place" in said
    found = counts(kept().trials)
    assert (found["FAIL"], found["COMPLETE"] + found.get("PRUNED", 0)) == (1, 3)
    assert run_here("tune", options | {"workers": "1", "trials": "4"}, monkeypatch) == 0
    found = counts(kept().trials)
    assert (found["FAIL"], found["COMPLETE"] + found.get("PRUNED", 0)) == (1, 4)
    (parent,), trials = runs()
    assert [trial.user_attrs["run_id"] for trial in kept().trials] == [run.info.run_id for run in trials]
    assert sorted(run.data.tags["exvo.trial_state"] for run in trials).count("killed") == 1
    assert "RUNNING" not in {run.info.status for run in [parent, *trials]}
    assert len({trial.user_attrs["worker"]["pid"] for trial in kept().trials}) >= 3
    hidden = postgres.replace(f":{PASSWORD}", "").replace("postgresql:", "postgresql+psycopg:")
    assert parent.data.params["storage"] == parent.data.tags["exvo.storage"] == hidden
    assert hidden in said
    printed = capsys.readouterr()
    assert PASSWORD not in said + printed.out + printed.err
    for run in [parent, *trials]:
        mlflow.artifacts.download_artifacts(run.info.artifact_uri, dst_path=str(tmp_path / run.info.run_id))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 40
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]


def test_a_password_that_mlflow_run_has_logged_is_refused(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    given = {"storage": f"postgresql://ada:{PASSWORD}@127.0.0.1/studies"}
    assert run_here("tune", options | given, monkeypatch) == 2
    said = capsys.readouterr().err
    assert "storage holds a password, which `mlflow run` has just logged as a param" in said
    assert PASSWORD not in said
