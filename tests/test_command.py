"""The command `exvo`: its overview, its help, and what it says to a wrong entry point."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import exvo
from exvo.__main__ import USES, about, command, overview
from exvo.settings import ENTRY_POINTS


def exvo_command(*words: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": str(columns)}
    return subprocess.run([sys.executable, "-m", "exvo", *words], env=environment, capture_output=True, text=True)


def test_each_entry_point_has_one_use() -> None:
    assert sorted(name for names in USES.values() for name in names) == sorted(ENTRY_POINTS)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_overview_lists_the_entry_points_by_use(words: list[str]) -> None:
    done = exvo_command(*words)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "usage: exvo <entry point> [--<option> <value> ...]"
    assert [line[:-1] for line in lines if re.fullmatch(r"\w.*:", line)] == list(USES)
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [
        name for names in USES.values() for name in names
    ]


def test_the_first_sentence_of_each_entry_point_fits_a_line_of_80_columns() -> None:
    for name in ENTRY_POINTS:
        first = about(name).partition("\n\n")[0]
        assert re.fullmatch(r"[A-Z][^.\n]*\.", first), name
        assert len(f"  {name:16}{first}") <= 80, name


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_no_line_of_the_overview_is_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert max(map(len, overview().splitlines())) <= min(columns, 100)


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_the_help_of_an_entry_point_begins_with_what_it_does(
    entry_point: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")  # a paragraph on one line
    with pytest.raises(SystemExit) as stop:
        command(entry_point, ["--help"])
    assert stop.value.code == 0
    usage, said, options = capsys.readouterr().out.split("\n\n")[:3]
    assert usage.startswith(f"usage: exvo {entry_point} [-h]")
    assert said == " ".join(about(entry_point).split())
    assert options.startswith("options:")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tra"], "exvo has no entry point tra; did you mean train or "),
        (["enrolment_curve"], "exvo has no entry point enrolment_curve; did you mean enrolment-curve?"),
        (["--model", "cnn14"], "exvo has no entry point --model; known are main, extract, train, "),
        (["train", "--modle", "cnn14"], "train has no option --modle; did you mean model?"),
        (["train", "cnn14"], "train has no option cnn14"),
        (["train", "--model"], "Argument --model: expected one argument; see --help."),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(words: list[str], sentence: str) -> None:
    done = exvo_command(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"exvo: {sentence}")
    assert done.stderr.count("\n") == 1


def test_the_version_has_one_home() -> None:
    assert exvo_command("--version").stdout == f"exvo {exvo.__version__}\n"
    project = (Path(exvo.__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert exvo.__version__ not in project


def test_help_takes_less_than_a_second() -> None:
    seconds = []
    for _ in range(3):
        before = time.perf_counter()
        assert exvo_command("train", "--help").returncode == 0
        seconds.append(time.perf_counter() - before)
    assert min(seconds) < 1.0
