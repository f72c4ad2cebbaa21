"""The notebooks: committed without outputs, they define nothing, and every cell runs."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from exvo.errors import InputError

from helpers.commands import ROOT, run_here

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
THREE = ["01-corpus", "02-comparing-runs", "03-enrolment"]
SMALL = {"corpus": "table", "epochs": "1", "batch_size": "4", "width": "0.05", "learning_rate": "0.01"}

every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code"]


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == THREE


@every
def test_committed_without_outputs(path: Path) -> None:
    for cell in cells(path):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    text = path.read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert not any(f'"{folder}/' in text for folder in ("/home", "/root", "/tmp", "/work", "/Users"))


@every
def test_defines_nothing(path: Path) -> None:
    nodes = [node for source in code(path) for node in ast.walk(ast.parse(source))]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [ast.unparse(node) for node in nodes if isinstance(node, kinds)]


@every
def test_every_cell_of_code_is_introduced(path: Path) -> None:
    kinds = [cell["cell_type"] for cell in cells(path)]
    first, *rest = [place for place, kind in enumerate(kinds) if kind == "code"]
    assert kinds[:first] == ["markdown"]
    unsaid = [place for place in rest if kinds[place - 1] == "code"]
    assert len(unsaid) <= 1  # the imports


@pytest.fixture
def project(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the notebooks, to take the project's place, and a store of its own."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    with mpl.rc_context(), pd.option_context("display.float_format", None):
        yield tmp_path
    plt.close("all")


def execute(project: Path, name: str, changes: dict[str, str]) -> dict[str, Any]:
    """Runs the cells of a notebook here, with `changes` of its text; returns what they have named."""
    path = project / "notebooks" / f"{name}.ipynb"
    source = "\n".join(code(path))
    for old, new in {"os.chdir(PROJECT)": f"os.chdir({str(project)!r})", **changes}.items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    names: dict[str, Any] = {}
    exec(compile(source, path.name, "exec"), names)
    return names


@pytest.mark.parametrize("name", THREE[1:])
def test_says_what_to_do_where_a_run_is_missing(name: str, project: Path) -> None:
    with pytest.raises(InputError, match=r"=cnn10.* no finished training run .*make personalisation"):
        execute(project, name, {})


def test_every_cell_runs(
    project: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = SMALL | {"data": str(tiny_corpus), "protocol": "strict"}
    for model in ("cnn10", "cnn10-relative"):
        assert run_here("train", options | {"model": model}, monkeypatch) == 0
    capsys.readouterr()

    here = {'CORPUS, FOLDER = "sample", "output/sample"': f'CORPUS, FOLDER = "table", {str(tiny_corpus)!r}'}
    found = execute(project, "01-corpus", here)
    assert len(found["clips"]) == 32
    assert found["correlation"].shape == (2, 2)

    found = execute(project, "02-comparing-runs", {})
    assert len(found["finished"]) == 2
    for side, run in zip("ab", found["runs"].values(), strict=True):
        assert found["table"][side].iloc[0] == pytest.approx(run.data.metrics["val/emotion_ccc"])

    found = execute(project, "03-enrolment", {})
    with_own_clips = found["scores"][1]["value"]
    assert with_own_clips == pytest.approx(found["run"].data.metrics["val/emotion_ccc"], abs=1e-4)
    assert set(found["found"]["enrolment"]) == {"typical", "right", "wrong"}
    assert set(found["people"].index) == set(found["speakers"])
