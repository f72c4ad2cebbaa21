"""Output folders that are copied, moved, restored, mounted elsewhere: only a copy may not do what its original does."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from exvo.experiments.folder import copied_from, folder_id, renew

from helpers.commands import at_epoch, run_here

SMALL = {"model": "cnn10", "corpus": "table", "epochs": "3", "batch_size": "4", "width": "0.05"}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output folder with an id."""
    folder = tmp_path / "output"
    folder.mkdir()
    folder_id(folder)
    return folder


def claim(folder: Path, **different: object) -> None:
    """Changes where a folder is said to lie."""
    place = json.loads((folder / "place").read_text())
    (folder / "place").write_text(json.dumps(place | different))


def test_a_copy_is_known_and_becomes_a_folder_of_its_own(output: Path, tmp_path: Path) -> None:
    (output / "runs" / "a" / "journal").mkdir(parents=True)
    copy = Path(shutil.copytree(output, tmp_path / "copy"))
    original = copied_from(copy)
    assert original is not None
    assert original.path == str(output)
    assert copied_from(output) is None
    assert folder_id(copy) == folder_id(output)  # looking changes nothing
    assert copied_from(copy) == original
    renew(copy)
    assert folder_id(copy) != folder_id(output)
    assert copied_from(copy) is None
    assert [path.name.startswith("journal-of-original-") for path in (copy / "runs" / "a").iterdir()] == [True]
    assert (output / "runs" / "a" / "journal").is_dir()


def test_what_is_no_copy(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = folder_id(output)
    renamed = output.rename(tmp_path / "renamed")
    assert copied_from(renamed) is None
    assert folder_id(renamed) == known
    moved = Path(shutil.copytree(renamed, tmp_path / "moved"))  # to another disk, by copying
    shutil.rmtree(renamed)
    assert copied_from(moved) is None
    folder_id(moved)
    shutil.copytree(moved, tmp_path / "backup")
    shutil.rmtree(moved)
    restored = (tmp_path / "backup").rename(moved)
    assert copied_from(restored) is None
    folder_id(restored)
    monkeypatch.setattr(platform, "node", lambda: "another-host")  # a network disk, a container that is started anew
    assert copied_from(restored) is None
    claim(restored, device=0, path="/elsewhere")
    assert copied_from(restored) is None
    linked = tmp_path / "linked"
    linked.symlink_to(restored)
    assert copied_from(linked) is None
    (restored / "place").unlink()  # of an earlier version, or removed by hand
    assert copied_from(restored) is None
    (restored / "place").write_text("{")
    assert copied_from(restored) is None


def test_a_copy_on_another_host_is_one(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(output, inode=1, host="another-host")
    original = copied_from(output)
    assert original is not None
    assert original.host == "another-host"


@pytest.mark.usefixtures("store")
def test_a_copy_made_while_training_does_not_join_the_run(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = SMALL | {"data": str(tiny_corpus)}
    said: list[str] = []

    def copy() -> None:
        """The same command in the copy, as another process would run it."""
        shutil.copytree("output", "copy")
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr("mlflow.active_run", lambda: None)
            assert run_here("train", given | {"output": "copy"}, monkeypatch) == 2
        said.append(capsys.readouterr().err)

    with monkeypatch.context() as patch:
        at_epoch(2, copy, patch)
        assert run_here("train", given, monkeypatch) == 0
    (line,) = [line for line in said[0].splitlines() if line.startswith("exvo: ")]
    assert "The output folder copy is a copy of " in line
    assert (
        " goes on there; resume=false begins a new run here. If that folder is gone, remove the file copy/place" in line
    )
    (run,) = MlflowClient().search_runs(["0"])
    steps = [point.step for point in MlflowClient().get_metric_history(run.info.run_id, "epoch/loss")]
    assert sorted(steps) == [1, 2, 3]
    assert run_here("train", given | {"output": "copy", "resume": "false"}, monkeypatch) == 0
    assert len(MlflowClient().search_runs(["0"])) == 2
    assert copied_from(Path("copy")) is None


@pytest.mark.usefixtures("store")
def test_a_copy_with_journals_delivers_nothing(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (output / "runs" / "a" / "journal").mkdir(parents=True)
    shutil.copytree("output", "copy")
    assert run_here("sync", {"output": "copy"}, monkeypatch) == 2
    said = capsys.readouterr().err
    assert "undelivered journals are in both; resume=false of train or main puts them aside here." in said


@pytest.mark.usefixtures("store")
def test_a_copy_does_not_join_the_study(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = SMALL | {"data": str(tiny_corpus), "epochs": "1", "trials": "1"}
    given.pop("batch_size")
    assert run_here("tune", given, monkeypatch) == 0
    shutil.copytree("output", "copy")
    before = len(MlflowClient().search_runs(["0"]))
    assert run_here("tune", given | {"output": "copy", "trials": "2"}, monkeypatch) == 2
    assert " goes on there; storage=<name>.journal begins a new one. If that" in capsys.readouterr().err
    assert len(MlflowClient().search_runs(["0"])) == before
    shutil.rmtree("output")
    assert run_here("tune", given | {"output": "copy"}, monkeypatch) == 0  # taken for moved
