"""The commit of a run: what git says, what a checkout's files say where git does not, and why it is not known."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from exvo.tracking import provenance
from exvo.tracking.provenance import Code, code, commit_of_files

from helpers.commands import run_here


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a process knows of its code is asked for once."""
    monkeypatch.setenv("GIT_PYTHON_GIT_EXECUTABLE", "git")  # so that it is put back
    for known in (code, provenance.say_problem):
        known.cache_clear()
    yield
    for known in (code, provenance.say_problem):
        known.cache_clear()


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def make_checkout(folder: Path) -> str:
    """A repository with a file and a commit, which is returned."""
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "one.txt").write_text("one\n")
    git(folder, "add", "one.txt")
    git(folder, "commit", "-q", "-m", "one")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project is a checkout of its own."""
    make_checkout(tmp_path / "project")
    monkeypatch.setattr(provenance, "PROJECT", tmp_path / "project")
    return tmp_path / "project"


def replace_git(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell script is the only program that can be found; an empty one: none can."""
    (folder / "bin").mkdir()
    if script:
        (folder / "bin" / "git").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))


def test_the_commit_and_what_differs_from_it(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert code() == Code(head, "", "")
    (checkout / "one.txt").write_bytes(b"caf\xe9\n")  # no UTF-8
    code.cache_clear()
    known = code()
    assert known.commit == head
    assert known.changes == " M one.txt\n"
    assert "-one\n+caf\\xe9\n" in known.difference
    assert known.problem == ""


def branch(folder: Path) -> Path:
    git(folder, "checkout", "-q", "-b", "some/where")
    git(folder, "commit", "-q", "--allow-empty", "-m", "two")
    return folder


def packed(folder: Path) -> Path:
    git(branch(folder), "pack-refs", "--all")
    assert not (folder / ".git/refs/heads/some/where").exists()
    return folder


def detached(folder: Path) -> Path:
    git(branch(folder), "checkout", "-q", "--detach", "HEAD~")
    return folder


def linked(folder: Path) -> Path:
    git(folder, "worktree", "add", "-q", "-b", "other", "../linked")
    git(folder.parent / "linked", "commit", "-q", "--allow-empty", "-m", "elsewhere")
    return folder.parent / "linked"


def linked_packed(folder: Path) -> Path:
    git(linked(folder), "pack-refs", "--all")
    return folder.parent / "linked"


def submodule(folder: Path) -> Path:
    outer = folder.parent / "outer"
    make_checkout(outer)
    git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(folder), "inner")
    return outer / "inner"


SHAPES = [branch, packed, detached, linked, linked_packed, submodule]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_the_commit_of_a_checkout_that_git_refuses_is_read_from_its_files(
    shape: Callable[[Path], Path], checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shape(checkout)
    head = git(place, "rev-parse", "HEAD")
    monkeypatch.setattr(provenance, "PROJECT", place)
    assert code().commit == head
    assert code().changes is not None
    code.cache_clear()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to try it
    known = code()
    assert known.commit == head
    assert known.changes is None
    assert known.problem.startswith(f"git fails: detected dubious ownership in repository at '{place}'")


def test_a_checkout_of_another_owner_executes_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another owner")
    (checkout / "run.sh").write_text(f"#!/bin/sh\ntouch {checkout.parent}/executed\n")
    (checkout / "run.sh").chmod(0o755)
    git(checkout, "config", "core.fsmonitor", str(checkout / "run.sh"))
    git(checkout, "status")
    assert (checkout.parent / "executed").exists()  # as git does in one's own checkout
    (checkout.parent / "executed").unlink()
    for folder, _, _ in os.walk(checkout):
        os.chown(folder, 65534, 65534)
    for name in ("SUDO_UID", "GIT_CONFIG_GLOBAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(checkout.parent))
    known = code()
    assert "dubious ownership" in known.problem
    assert len(known.commit) == 40
    assert not (checkout.parent / "executed").exists()


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("", "git is not installed"),
        ("exec /bin/sleep 60", "git has not answered for 0.3 seconds"),
        ("echo 'fatal: out of order' >&2; exit 128", "git fails: out of order"),
        ("exit 3", "git fails: status 3"),
        ("kill -9 $$", "git fails: status -9"),
    ],
)
def test_without_git_the_commit_is_read_and_the_reason_given(
    script: str, problem: str, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    if "sleep" in script:
        monkeypatch.setattr(provenance, "GIT_SECONDS", 0.3)
    replace_git(tmp_path, script, monkeypatch)
    assert code() == Code(head, problem=problem)


def test_an_outer_repository_is_not_taken_for_the_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel in an environment that lies in somebody's repository; a broken checkout in one."""
    make_checkout(tmp_path / "outer")
    inner = tmp_path / "outer/site-packages"
    inner.mkdir()
    monkeypatch.setattr(provenance, "PROJECT", inner)
    assert code() == Code("none")
    (inner / ".git").mkdir()
    code.cache_clear()
    assert code().commit == "none"
    assert code().problem.startswith("git fails: not a git repository")


def test_variables_of_a_hook_do_not_lead_to_another_repository(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    make_checkout(tmp_path / "other")
    git(tmp_path / "other", "commit", "-q", "--allow-empty", "-m", "another")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    assert code().commit == head


@pytest.mark.parametrize(
    "head",
    [
        "",
        "ref: refs/heads/gone",
        "ref: refs/../../../secret",
        "ref: refs/heads/loop",
        "ref: /etc/passwd",
        "\0",
        "a" * 41,
    ],
)
def test_what_names_no_commit_gives_none(head: str, tmp_path: Path) -> None:
    (tmp_path / ".git/refs/heads").mkdir(parents=True)
    (tmp_path / "secret").write_text("a" * 40)
    (tmp_path / ".git/HEAD").write_text(head)
    (tmp_path / ".git/refs/heads/loop").write_text("ref: refs/heads/loop")
    assert commit_of_files(tmp_path / ".git") == ""
    (tmp_path / ".git/HEAD").write_bytes(b"ref: refs/\xe9")
    assert commit_of_files(tmp_path / ".git") == ""


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.usefixtures("store")
def test_two_runs_without_git_say_so_once(
    kept: bool,
    checkout: Path,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    if not kept:
        (checkout / ".git/HEAD").write_text("ref: refs/heads/none-yet")
    replace_git(tmp_path, "", monkeypatch)
    options = {"corpus": "table", "data": str(tiny_corpus)}
    assert run_here("extract", options, monkeypatch) == 0
    assert run_here("extract", options, monkeypatch) == 0
    said = capfd.readouterr()
    assert "WARNING" not in said.err
    assert (said.out + said.err).count("git is not installed") == 1
    runs = MlflowClient().search_runs(["0"])
    assert len(runs) == 2
    for run in runs:
        assert run.data.tags["git.commit"] == (head if kept else "none")
        assert run.data.tags.get("git.dirty") == ("unknown" if kept else None)
        assert run.data.tags["git.problem"] == "git is not installed"
        assert "mlflow.source.git.commit" not in run.data.tags
    assert mlflow.active_run() is None
