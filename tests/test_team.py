"""A server that a team shares: accounts, PostgreSQL and an object store, each of them away, refusing or full in turn.

The servers are real but for the object store, which is moto's mock of S3. Of two people ada makes the experiments, and
ben works in them with the permission EDIT.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from exvo.tracking import delivery, models

from helpers.commands import SMALL, artifacts, at_epoch, check_equal, run_here
from helpers.disks import Disk
from helpers.processes import started
from helpers.servers import free_port
from helpers.team import PASSWORDS, Team, sign_in


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    one = Team(tmp_path_factory.mktemp("team"))
    try:
        one.start()
        yield one
    finally:
        one.stop()


@pytest.fixture
def team(running: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    """The servers, asked by ada from a folder of the test's own, in an experiment that she makes."""
    settle(running, tmp_path, monkeypatch)
    return running


def settle(team: Team, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow.set_tracking_uri(team.server.uri)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", folder.name)
    monkeypatch.setattr(delivery, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(delivery, "PAUSE_FACTOR", 0)
    sign_in("ada", monkeypatch)


@pytest.fixture
def options(tiny_corpus: Path) -> dict[str, str]:
    return SMALL | {"data": str(tiny_corpus)}


def runs() -> list[Run]:
    """All runs of the test's experiment, the oldest first."""
    experiment = MlflowClient().get_experiment_by_name(os.environ["MLFLOW_EXPERIMENT_NAME"])
    return list(MlflowClient().search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


def check_complete(run: Run, whole: Run) -> None:
    """That a run has what an undisturbed one has, once, and that nothing is kept any more."""
    check_equal(run, whole)
    assert run.data.params.keys() == whole.data.params.keys()
    assert run.data.tags.keys() == whole.data.tags.keys()
    assert artifacts(run) == artifacts(whole)
    assert not list(Path("output/runs").glob("*/journal"))


def refusal(
    entry_point: str, given: dict[str, str], patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """The one sentence with which a command refuses, with status 2."""
    capsys.readouterr()
    assert run_here(entry_point, given, patch) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    (line,) = said.err.splitlines()
    assert line.startswith("exvo: ")
    return line


# The whole way, by two people


@pytest.mark.slow
def test_train_tune_evaluate_register_and_serve(
    team: Team, options: dict[str, str], tmp_path: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_here("train", options, monkeypatch) == 0
    study = {"model": "cnn10", "corpus": "table", "data": str(tiny_corpus), "epochs": "2", "width": "0.05"}
    assert run_here("tune", study | {"trials": "3", "workers": "2"}, monkeypatch) == 0
    (trained, *of_study) = runs()
    assert sorted(run.info.status for run in of_study) == ["FINISHED"] * 4
    sign_in("ben", monkeypatch)
    assert run_here("evaluate", {"run_id": trained.info.run_name}, monkeypatch) == 0
    assert run_here("register", {"run_id": trained.info.run_name, "gate": "none"}, monkeypatch) == 0
    assert "test/emotion_ccc" in MlflowClient().get_run(trained.info.run_id).data.metrics
    clip = tiny_corpus / "s0-0.wav"
    assert run_here("predict", {"audio": str(clip), "save": "predicted.csv"}, monkeypatch) == 0
    with serving(tmp_path) as port:
        row = {"audio": base64.b64encode(clip.read_bytes()).decode()}
        body = json.dumps({"dataframe_records": [row]}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        (answer,) = json.load(urllib.request.urlopen(request, timeout=30))["predictions"]
    predicted = pd.read_csv("predicted.csv").iloc[0]
    assert answer.pop("warnings") == []
    assert len(answer) > 1
    assert {name: pytest.approx(predicted[name], abs=1e-5) for name in answer} == answer


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[int]:
    """`mlflow models serve` of the champion; gives its port."""
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/exvo-fewshot@champion"]
    words += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            assert process.poll() is None, (folder / "serve.log").read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_two_people_begin_the_same_experiment_at_once(
    team: Team, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []
    for name in ("ada", "ben"):
        sign_in(name, monkeypatch)
        commands.append(started("train", options | {"output": name}, team.server.uri))
    for command in commands:
        said, _ = command.communicate()
        assert command.returncode == 0, said
    first, second = runs()
    check_equal(first, second, tuple(run_folder(run) for run in (first, second)))


def run_folder(run: Run) -> Path:
    """The output folder of ada or ben in which a run lies."""
    (folder,) = Path().glob(f"*/runs/{run.info.run_id}")
    return folder.parent.parent


# One part away


def server_of(team: Team) -> tuple[Callable[[], None], Callable[[], None]]:
    return team.server.stop, team.server.start


def database_of(team: Team) -> tuple[Callable[[], None], Callable[[], None]]:
    return team.database.stop, team.database.start


def store_of(team: Team) -> tuple[Callable[[], None], Callable[[], None]]:
    assert team.store is not None
    return team.store.gate.close, team.store.gate.open


PARTS = {
    server_of: "The tracking server of {uri} is away (Connection refused)",
    database_of: "The tracking server of {uri} is away (it answers with errors, as it does while its database or",
    store_of: "The artifact store of {uri} is away (",  # an upload may also be cut off before the answer
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.slow
def test_what_a_part_that_is_away_has_missed_is_delivered(
    part: Callable[[Team], tuple[Callable[[], None], Callable[[], None]]],
    team: Team,
    options: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_here("main", options | {"output": "whole"}, monkeypatch) == 0
    capsys.readouterr()
    stop, start = part(team)
    try:
        with monkeypatch.context() as patch:
            at_epoch(2, stop, patch)
            assert run_here("main", options, monkeypatch) == 0
        said = capsys.readouterr().out
        assert PARTS[part].format(uri=team.server.uri) in said
        assert "HTTPConnectionPool" not in said
        assert "sync` delivers it." in said
        told = refusal("evaluate", {"run_id": "cnn10-relative"}, monkeypatch, capsys)
        assert " can't be used: " in told
        assert "train" not in told  # what was computed is not to blame
        assert run_here("sync", {}, monkeypatch) == 2
    finally:
        start()
    assert run_here("sync", {}, monkeypatch) == 0
    whole, run = runs()
    check_complete(run, whole)


@pytest.mark.long
def test_one_whose_model_the_store_has_half_may_not_delete_it_and_logs_it_anew(
    team: Team, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With EDIT in another's experiment: what was logged by halves stays, and the run names what is whole."""
    assert team.store is not None
    assert run_here("train", options | {"output": "of-ada"}, monkeypatch) == 0
    sign_in("ben", monkeypatch)
    true = models._log

    def log_by_halves(*words: object) -> str:
        assert team.store is not None
        team.store.gate.close()
        return true(*words)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(models, "_log", log_by_halves)
        assert run_here("train", options, monkeypatch) == 0
    team.store.gate.open()
    assert run_here("sync", {}, monkeypatch) == 0
    run = runs()[-1]
    assert run.info.status == "FINISHED"
    assert run_here("evaluate", {"run_id": run.info.run_id}, monkeypatch) == 0


# Accounts


@pytest.mark.slow
def test_a_wrong_password_is_one_sentence(
    team: Team,
    options: dict[str, str],
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = "-".join(("a", "wrong", "one"))
    run_id = {"run_id": "cnn10-relative"}
    commands = {
        "train": options,
        "main": options,
        "tune": {"model": "cnn10", "corpus": "table", "data": str(tiny_corpus), "epochs": "2", "trials": "1"},
        "extract": {"corpus": "table", "data": str(tiny_corpus)},
        "evaluate": run_id,
        "compare": {},
        "enrolment-curve": run_id,
        "embed": run_id,
        "register": {},
        "reproduce": {"run": "cnn10-relative"},
        "predict": {"audio": str(tiny_corpus / "s0-0.wav")},
    }
    for password in (wrong, ""):
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        for entry_point, given in commands.items():
            told = refusal(entry_point, given, monkeypatch, capsys)
            assert "it does not take this user name and password; set MLFLOW_TRACKING_USERNAME and" in told
            assert wrong not in told


@pytest.mark.slow
def test_a_password_that_is_changed_while_a_run_trains_loses_nothing(
    team: Team, options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("train", options | {"output": "whole"}, monkeypatch) == 0
    changed = PASSWORDS["ada"][::-1]
    try:
        with monkeypatch.context() as patch:
            change = lambda client: client.update_user_password("ada", changed)  # noqa: E731
            at_epoch(2, lambda: team.as_admin(change), patch)
            assert run_here("train", options, monkeypatch) == 0
        assert "is away (it does not take this user name and password" in capsys.readouterr().out
        assert "set MLFLOW_TRACKING_USERNAME" in refusal("train", options, monkeypatch, capsys)
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_PASSWORD", changed)
            assert run_here("sync", {}, monkeypatch) == 0
    finally:
        team.as_admin(lambda client: client.update_user_password("ada", PASSWORDS["ada"]))
    whole, run = runs()
    check_complete(run, whole)


@pytest.mark.slow
def test_what_one_deletes_while_another_reads_it(
    team: Team, options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("train", options, monkeypatch) == 0
    client = MlflowClient()
    (run,) = runs()
    run_id, experiment = run.info.run_id, run.info.experiment_id
    model = run.data.tags["exvo.model_uri"].removeprefix("models:/")

    def as_ada(action: Callable[[], object]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            sign_in("ada", patch)
            action()

    def while_it_reads(deletes: Callable[[], object]) -> pytest.MonkeyPatch:
        true, patch = models.checkpoint_of, pytest.MonkeyPatch()

        def checkpoint_of(*words: object) -> object:
            as_ada(deletes)
            return true(*words)  # type: ignore[arg-type]

        patch.setattr(models, "checkpoint_of", checkpoint_of)
        return patch

    sign_in("ben", monkeypatch)
    with pytest.raises(MlflowException, match="Permission denied"):  # only whose it is may delete it
        client.delete_run(run_id)
    patch = while_it_reads(lambda: client.delete_run(run_id))
    assert run_here("evaluate", {"run_id": run_id}, monkeypatch) == 0  # what it wrote on the run is kept
    patch.undo()
    assert "runs restore --run-id" in capsys.readouterr().out
    as_ada(lambda: client.restore_run(run_id))
    assert run_here("sync", {}, monkeypatch) == 0
    assert "test/emotion_ccc" in client.get_run(run_id).data.metrics
    patch = while_it_reads(lambda: client.delete_experiment(experiment))
    told = refusal("evaluate", {"run_id": run_id}, monkeypatch, capsys)
    patch.undo()
    assert "is deleted; `" in told
    as_ada(lambda: client.restore_experiment(experiment))
    patch = while_it_reads(lambda: client.delete_logged_model(model))
    told = refusal("evaluate", {"run_id": run_id}, monkeypatch, capsys)
    patch.undo()
    assert "is deleted, and MLflow has no command that restores one" in told


# A full disk, and a backup


@pytest.mark.long
def test_a_full_disk_of_artifacts_gets_all_later(
    disk: Callable[[int], Disk],
    options: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = disk(60_000_000)
    with folder_team(tmp_path, small.folder / "artifacts") as team:
        settle(team, tmp_path, monkeypatch)
        assert run_here("train", options | {"output": "whole"}, monkeypatch) == 0
        capsys.readouterr()
        with monkeypatch.context() as patch:
            at_epoch(2, small.fill, patch)
            assert run_here("train", options, monkeypatch) == 0
        assert "The artifact store of http" in capsys.readouterr().out
        assert run_here("sync", {}, monkeypatch) == 2
        small.free()
        assert run_here("sync", {}, monkeypatch) == 0
        whole, run = runs()
        check_complete(run, whole)


@pytest.mark.long
def test_a_backup_gives_back_runs_accounts_and_artifacts(
    options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the commands of docs/how-to/team-server.md."""
    with folder_team(tmp_path, tmp_path / "artifacts") as team:
        settle(team, tmp_path, monkeypatch)
        assert run_here("train", options, monkeypatch) == 0
        (run,) = runs()
        logged = artifacts(run)

        def database(*words: str) -> None:
            command = [str(team.database.programs / words[0]), *words[1:]]
            subprocess.run(command, env=os.environ | team.variables, check=True)

        database("pg_dump", "--format=custom", "--file=exvo.dump")
        with tarfile.open("artifacts.tar.gz", "w:gz") as archive:
            archive.add("artifacts")
        assert run_here("train", options | {"seed": "1"}, monkeypatch) == 0  # of which the backup knows nothing
        team.as_admin(lambda client: client.delete_user("ben"))
        team.server.stop()
        Path("artifacts").rename("lost")
        database("pg_restore", "--clean", "--if-exists", "--dbname=postgres", "exvo.dump")
        with tarfile.open("artifacts.tar.gz") as archive:
            archive.extractall(filter="data")
        team.server.start()
        sign_in("ben", monkeypatch)
        assert [each.info.run_id for each in runs()] == [run.info.run_id]
        assert artifacts(run) == logged
        assert run_here("evaluate", {"run_id": run.info.run_id}, monkeypatch) == 0


@contextlib.contextmanager
def folder_team(folder: Path, kept: Path) -> Iterator[Team]:
    """Servers of the test's own that keep artifacts in a folder."""
    one = Team(folder, kept)
    try:
        one.start()
        yield one
    finally:
        one.stop()
