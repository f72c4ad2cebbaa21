"""What `predict` keeps of its answers, and how the same command goes on with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exvo.experiments import predict
from exvo.experiments.answers import KeptAnswers
from exvo.networks.checkpoint import Checkpoint
from exvo.networks.network import Network
from exvo.serving.prediction import FileAnswer, FilePredictor
from exvo.tasks import Task

from helpers.features import CONFIG, write_clips

FILES = 10


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of which a block has two, as the true ones have some: so the networks' batches are the same."""
    monkeypatch.setattr(predict, "PART_FILES", 2)


@pytest.fixture
def predictor() -> FilePredictor:
    torch.manual_seed(0)
    network = Network("cnn5", 2, width=0.05).eval()
    task = Task("fewshot", ("High", "Loud"))
    return FilePredictor(Checkpoint(network, task, CONFIG, "repeat", {}), None, "cpu")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "audio"
    folder.mkdir()
    paths = [folder / name for name in write_clips(folder, FILES)]
    paths[4].write_bytes(b"no audio")
    return paths


def asked(
    predictor: FilePredictor, files: Sequence[Path], place: Path, patch: pytest.MonkeyPatch, most: int = FILES
) -> tuple[list[FileAnswer] | None, list[str]]:
    """The answers in blocks of four files, and the names of those that were predicted; stopped after `most` of them."""
    names: list[str] = []
    true: Callable[..., Any] = predict.answers_of_block

    def counted(one: FilePredictor, block: Sequence[Path], *words: Any) -> list[FileAnswer]:
        if len(names) >= most:
            raise KeyboardInterrupt
        names.extend(file.name for file in block)
        return list(true(one, block, *words))

    with patch.context() as within:
        within.setattr(predict, "answers_of_block", counted)
        within.setattr(predict, "BLOCK_FILES", 4)
        if most < FILES:
            with pytest.raises(KeyboardInterrupt, match="Stopped; the same command goes on after 8 files"):
                predict.answers_of(predictor, files, "", KeptAnswers(place, predictor))
            return None, names
        return predict.answers_of(predictor, files, "", KeptAnswers(place, predictor)), names


def test_a_stopped_command_goes_on(
    predictor: FilePredictor,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "all.parquet"
    whole = predict.answers_of(predictor, files, "", None)
    stopped, first = asked(predictor, files, place, monkeypatch, most=8)
    assert stopped is None
    assert first == [file.name for file in files[:8]]
    capsys.readouterr()
    answers, rest = asked(predictor, files, place, monkeypatch)
    assert rest == [file.name for file in files[8:]]
    assert capsys.readouterr().out.startswith(f"goes on after 8 of 10 files, whose answers are kept in {place}.parts")
    assert answers is not None
    for one, other in zip(answers, whole, strict=True):
        assert (one.warnings, one.note, one.problem) == (other.warnings, other.note, other.problem)
        if other.outputs is None:
            assert one.outputs is None
        else:
            assert one.outputs is not None
            assert one.outputs.dtype == other.outputs.dtype
            np.testing.assert_array_equal(one.outputs, other.outputs)
    assert [answer.problem != "" for answer in answers] == [number == 4 for number in range(FILES)]
    (Path(f"{place}.parts") / "mine.parquet").touch()
    KeptAnswers(place, predictor).remove()
    (left,) = Path(f"{place}.parts").iterdir()
    assert left.name == "mine.parquet"
    left.unlink()
    KeptAnswers(place, predictor).remove()
    assert not Path(f"{place}.parts").exists()


def test_what_has_changed_is_predicted_anew(
    predictor: FilePredictor, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "all.csv"
    asked(predictor, files, place, monkeypatch)
    assert asked(predictor, files, place, monkeypatch)[1] == []
    shutil.copyfile(files[0], files[4])  # it can be read now
    assert asked(predictor, files, place, monkeypatch)[1] == [file.name for file in files[4:8]]
    profile = FilePredictor(predictor.checkpoint, np.zeros(3), "cpu")
    assert KeptAnswers(place, profile).read(files[:4]) is None
    with torch.no_grad():
        next(predictor.checkpoint.network.parameters()).add_(1e-3)
    assert asked(predictor, files, place, monkeypatch)[1] == [file.name for file in files]


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"PAR1 and no more PAR1"])
def test_damaged_answers_are_made_anew(
    damage: bytes, predictor: FilePredictor, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "all.csv"
    asked(predictor, files, place, monkeypatch)
    for path in Path(f"{place}.parts").iterdir():
        path.write_bytes(damage)
    assert asked(predictor, files, place, monkeypatch)[1] == [file.name for file in files]
