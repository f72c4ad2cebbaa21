"""Runs by any name that MLflow allows, runs and models that are deleted, and the systems' short names."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.cli import cli

from exvo import options
from exvo.errors import InputError
from exvo.experiments.compare import find_runs
from exvo.tracking import lookup, models, names, runs
from exvo.tracking.tags import CORPUS_TAG, DIGEST_TAG, ENTRY_TAG, MODEL_TAG, PROTOCOL_TAG, SYSTEM_TAG, TASK_TAG

from helpers.commands import ROOT, run_by_hand, run_here

pytestmark = pytest.mark.usefixtures("store")

NAMES = [
    "Anna's best (50%)",
    "both \"kinds\" of 'quotes'",
    "back\\slash \\' and \\\" more",
    "  spaces around  ",
    "a,b",
    "a; drop -- /* comment */",
    "Jose\u0301 \u2028 日本 🎉 `ticks`",
    "%",
    "_",
    "''",
    "cnn10",
    "0" * 32,
    "m-0123",
    "runs:/anything/model",
    "models:/exvo-fewshot@champion",
    "-x",
    "two\nlines",
    "x" * 249,
]
DECOYS = [
    "Annas best (50%)",
    "Anna's best (50x)",
    "both kinds of quotes",
    "backslash",
    "x",
    "cnn10-relative",
    "'",
    "%%",
]
TRAINED = {
    SYSTEM_TAG: "cnn10-random-init",
    CORPUS_TAG: "sample",
    DIGEST_TAG: "a1" * 32,
    TASK_TAG: "fewshot",
    PROTOCOL_TAG: "strict",
    ENTRY_TAG: "train",
}


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts in the test's own folder."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")


def make_run(name: str, **tags: str) -> str:
    """The id of a new run of that name."""
    run = MlflowClient().create_run("1", run_name=name, tags=tags)
    assert run.info.run_name == name
    return str(run.info.run_id)


def make_trained(name: str, **different: str) -> str:
    """A finished training run with a logged model that has no files; returns its id."""
    tags = TRAINED | {f"exvo.{tag}": value for tag, value in different.items()}
    with run_by_hand(name) as active:
        mlflow.set_tags(tags)
        runs.log_settings({"model": "cnn10", "task": "fewshot", "shots": 2, "data": "my clips", "epochs": 3}, {})
        logged = MlflowClient().create_logged_model(active.info.experiment_id, "model", active.info.run_id)
        MlflowClient().finalize_logged_model(logged.model_id, "READY")
        mlflow.set_tag(MODEL_TAG, f"models:/{logged.model_id}")
    return active.info.run_id


def refused(name: str, option: str = "run_id") -> str:
    with pytest.raises(InputError) as raised:
        lookup.find_run(name, option)
    return str(raised.value)


def test_every_name_finds_its_very_run() -> None:
    for decoy in DECOYS:
        make_run(decoy)
    ids = {name: make_run(name) for name in NAMES}
    for name, run_id in ids.items():
        assert lookup.find_run(name).info.run_id == run_id, name
        assert lookup.find_run(run_id).info.run_id == run_id
        assert lookup.find_run(f"runs:/{run_id}/model").info.run_id == run_id
    assert lookup.find_run("Jos\u00e9 \u2028 日本 🎉 `ticks`").info.run_id == ids[NAMES[6]]  # as keyboards compose it
    assert "has no run of that id or name" in refused("Anna's best (5_%)")


def test_a_name_of_several_runs_is_refused_with_the_list() -> None:
    ids = [make_run("twice's") for _ in range(2)]
    said = refused("twice's", "a")
    assert said.startswith("a=twice's is the name of 2 runs; give the id of one: ")
    assert all(run_id in said for run_id in ids)
    MlflowClient().delete_run(ids[0])
    assert lookup.find_run("twice's").info.run_id == ids[1]


def test_a_list_of_runs_may_hold_names_with_commas() -> None:
    ids = {name: make_run(name) for name in ("a,b", "c", "d, e", " f")}
    found = [run.info.run_id for run in find_runs("a,b,c, d, e, f", "runs")]
    assert found == [ids["a,b"], ids["c"], ids["d, e"], ids[" f"]]
    make_run("a")
    make_run("b")
    with pytest.raises(InputError, match="can be read in several ways, because names hold commas; give ids: "):
        find_runs("a,b,c", "runs")
    with pytest.raises(InputError, match=r"runs=nobody: .* runs=nowhere: "):
        find_runs("c,nobody,nowhere", "runs")
    MlflowClient().delete_run(ids["d, e"])
    with pytest.raises(InputError, match=r"runs=d, e: .*deleted"):
        find_runs("c,d, e", "runs")


def test_a_system_stands_for_its_newest_run_only_under_one_condition() -> None:
    make_trained("older")
    newer = make_trained("newer")
    make_trained("of a trial", trial="1")
    assert lookup.find_run("cnn10").info.run_id == newer
    assert lookup.find_run("cnn10-random-init").info.run_id == newer
    others = [
        make_trained("other corpus", corpus="emogator", corpus_digest="b2" * 32),
        make_trained("other protocol", protocol="published"),
        make_trained("other task", task="multitask"),
    ]
    said = refused("cnn10")
    assert "the system's finished runs are of several corpora, tasks or protocols; give the name or id of one" in said
    assert f"newer ({newer}): sample a1a1a1a1a1a1, task fewshot, strict protocol" in said
    assert all(run_id in said for run_id in others)
    assert "older" not in said
    own = make_run("cnn10")  # a name comes before a system
    assert lookup.find_run("cnn10").info.run_id == own


ENTRY_POINTS: list[tuple[str, str, dict[str, str]]] = [
    ("evaluate", "run_id", {}),
    ("embed", "run_id", {}),
    ("enrolment-curve", "run_id", {}),
    ("robustness", "run_id", {}),
    ("submit", "run_id", {}),
    ("register", "run_id", {}),
    ("reproduce", "run", {}),
    ("compare", "a", {"b": "other"}),
    ("compare", "runs", {}),
    ("predict", "model_uri", {"audio": "one.wav"}),
]


@pytest.mark.parametrize(("entry_point", "option", "others"), ENTRY_POINTS)
def test_every_entry_point_takes_any_name_and_says_of_a_deleted_run_how_it_comes_back(
    entry_point: str,
    option: str,
    others: dict[str, str],
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("one.wav").write_bytes((tiny_corpus / "s0-0.wav").read_bytes())
    name = "Anna's best (50%)"
    make_run("Annas best (50%)")
    make_run("other")
    run_id = make_run(name)
    assert run_here(entry_point, others | {option: name}, monkeypatch) == 2
    said = capsys.readouterr().err
    assert f"The run {name} " in said
    assert "has no run of that" not in said
    MlflowClient().delete_run(run_id)
    for given in (name, run_id):
        assert run_here(entry_point, others | {option: given}, monkeypatch) == 2
        said = capsys.readouterr().err
        assert f"{option}={given}: The run {name} ({run_id}; " in said
        assert f"mlflow runs restore --run-id {run_id}` restores it." in said


def paste(sentence: str, uri: str) -> None:
    """Runs the command of MLflow between backticks in a sentence, within this process."""
    (command,) = re.findall(r"`([^`]+)`", sentence)
    program, *words = shlex.split(command)
    assert Path(shutil.which(program) or "").resolve() == Path(sys.executable).with_name("mlflow").resolve()
    done = CliRunner().invoke(cli, words, env={"MLFLOW_TRACKING_URI": uri})
    assert done.exit_code == 0, done.output


def test_the_commands_that_restore_run_as_they_are_pasted(store: str) -> None:
    run_id = make_run("restored")
    MlflowClient().delete_run(run_id)
    paste(refused("restored"), store)
    assert lookup.find_run("restored").info.run_id == run_id
    MlflowClient().delete_experiment("1")
    said = refused("restored")
    assert "is deleted with its whole experiment. The experiment elsewhere is deleted; `" in said
    with pytest.raises(InputError, match=r"New runs can't begin\. The experiment elsewhere is deleted; "):
        runs.start_run("compare").__enter__()
    paste(said, store)
    assert lookup.find_run("restored").info.run_id == run_id


def test_a_deleted_model_is_said_with_the_command_that_trains_it_again() -> None:
    run_id = make_trained("its model is gone")
    uri = MlflowClient().get_run(run_id).data.tags[MODEL_TAG]
    version = MlflowClient().create_registered_model("exvo-fewshot") and MlflowClient().create_model_version(
        "exvo-fewshot", uri, run_id, model_id=uri.removeprefix("models:/")
    )
    MlflowClient().set_registered_model_alias("exvo-fewshot", "champion", version.version)
    MlflowClient().delete_logged_model(uri.removeprefix("models:/"))
    for given in (run_id, uri, "models:/exvo-fewshot@champion", f"models:/exvo-fewshot/{version.version}"):
        with pytest.raises(InputError) as raised:
            models.load_model(given)
        said = str(raised.value)
        assert said.startswith(f"The logged model {uri} is deleted, and MLflow has no command that restores one; ")
        assert f"of the run its model is gone ({run_id}; " in said
        assert said.endswith("exvo train '--data=my clips' --model=cnn10 --epochs=3` trains it again.")
    with pytest.raises(InputError, match=r"register one with `.*exvo register`, or give a run"):
        models.load_model("models:/other/1")


@pytest.fixture
def by_mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    options.note_launcher()
    yield
    monkeypatch.delenv("MLFLOW_RUN_ID")
    options.note_launcher()


ODD: dict[str, Any] = {"run_id": '-Anna\'s "best" (50%) $HOME `x` \\ {split}', "data": " a b ", "split": "val"}


@pytest.mark.parametrize("installed", [True, False])
def test_a_printed_command_is_exvo_s_own_outside_of_mlflow(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:  # an environment without console scripts
        (tmp_path / "python").symlink_to(sys.executable)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    words = shlex.split(options.command_line("evaluate", ODD))
    assert Path(words[0]).name == ("exvo" if installed else "python")
    assert words[1:4] == ["-m", "exvo", "evaluate"] if not installed else words[1] == "evaluate"
    given = words[words.index("evaluate") + 1 :]
    assert options.parse("evaluate", given).run_id == ODD["run_id"]
    if installed:
        assert subprocess.run([words[0], "--version"], check=True, capture_output=True).stdout.startswith(b"exvo ")


@pytest.mark.usefixtures("by_mlflow")
@pytest.mark.parametrize("typed_in", ["", "/home/ada"])
def test_a_printed_command_is_one_of_mlflow_under_mlflow(typed_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own reading of it, up to the shell in which it starts the entry point."""
    from mlflow.projects.utils import load_project

    monkeypatch.setattr(options, "launched_from", lambda: typed_in)
    words = shlex.split(options.command_line("evaluate", ODD))
    assert words[1:5] == ["run", os.getcwd() if typed_in else ".", "-e", "evaluate"]
    assert words[-2:] == ["--env-manager", "local"]
    given = dict(word.split("=", 1) for word in words[6:-2:2])
    assert given == ODD
    started = load_project(ROOT).get_entry_point("evaluate").compute_command(given, None)
    done = subprocess.run(
        ["bash", "-c", started.replace("python -m pipelines.evaluate", "printf '%s\\0'")],
        capture_output=True,
        check=True,
    )
    words = done.stdout.decode().split("\0")
    assert words[words.index("--run_id") + 1] == ODD["run_id"]
    assert words[words.index("--data") + 1] == ODD["data"]


def test_names_lists_and_addresses() -> None:
    assert names.readings("a,b,c", ["b,c"]) == [["a", "b,c"], ["a", "b", "c"]]
    assert list(names.spellings(" runs:/x/model ")) == [" runs:/x/model ", "runs:/x/model", "x/model", "x"]
