"""The wheel, in an environment where exvo comes from it alone, in a folder outside of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import exvo
from exvo.experiments import workers
from exvo.experiments.trials import Worker

from helpers.commands import ROOT
from helpers.tables import predictions

BESIDE = ("pipelines", "tests", "benchmarks", "fuzz", "notebooks", "docs")


@dataclass(frozen=True)
class Installed:
    """The wheel, and the folder that it is installed into.

    Attributes:
        wheel: the file.
        folder: the site-packages: the libraries of the running environment come after it.
        elsewhere: an empty folder, to work in.
    """

    wheel: Path
    folder: Path
    elsewhere: Path

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A Python of this environment, with these words and with the wheel's exvo, in a folder elsewhere."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment |= {"PYTHONPATH": str(self.folder), "COLUMNS": "80", **variables}
        return subprocess.run(
            [sys.executable, *words], cwd=self.elsewhere, env=environment, capture_output=True, text=True
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built from a copy of the sources, beside all that must not get into it; no index is asked."""
    place = tmp_path_factory.mktemp("wheel")
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "exvo", place / "source" / "exvo", ignore=leave)
    for name in BESIDE:
        shutil.copytree(ROOT / name, place / "source" / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "source")
    (place / "elsewhere").mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--no-cache-dir"]
    build = ["wheel", *offline, "--no-build-isolation", "--wheel-dir", str(place), str(place / "source")]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = place.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--no-compile", "--target", str(place / "site"), str(wheel)], check=True)
    return Installed(wheel, place / "site", place / "elsewhere")


def test_the_wheel_holds_exvo_alone_and_all_of_it(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert installed.wheel.name == f"exvo-{exvo.__version__}-py3-none-any.whl"
    assert {name.partition("/")[0] for name in names} == {"exvo", f"exvo-{exvo.__version__}.dist-info"}
    tracked = [path for path in (ROOT / "exvo").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {name for name in names if name.startswith("exvo/")} == {
        path.relative_to(ROOT).as_posix() for path in tracked
    }
    assert {"exvo/evaluation/published_results.csv", "exvo/reports/page.html", "exvo/py.typed"} <= set(names)
    assert {"exvo/demo/microphone.js", "exvo/demo/page.css"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_command_and_the_version(installed: Installed) -> None:
    done = installed.run("-m", "exvo", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n  train           Trains a system" in done.stdout
    for words in (["-m", "exvo"], [str(installed.folder / "bin" / "exvo")]):  # the console script
        assert installed.run(*words, "--version").stdout == f"exvo {exvo.__version__}\n"
        assert installed.run(*words, "train", "--help").stdout.startswith("usage: exvo train [-h]")


def test_worker_processes_start_from_it(installed: Installed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The words with which `tune` starts them, with --help."""
    started: list[list[str]] = []
    monkeypatch.setattr(workers.subprocess, "Popen", lambda words, **_: started.append(words))
    work = SimpleNamespace(worker=Worker({}, "", 0, 0), given=SimpleNamespace(workers=2))
    workers.start_worker(work, tmp_path / "log")  # type: ignore[arg-type]
    ((python, *words),) = started
    assert python == sys.executable
    monkeypatch.undo()
    done = installed.run(*words, "--help")
    assert done.stdout.startswith("usage: exvo tune [-h]"), done.stderr


def test_the_library_works_from_it(installed: Installed, tmp_path: Path) -> None:
    predictions(0.5, 2).to_parquet(tmp_path / "a.parquet")
    program = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "import exvo, pandas as pd\n"
        "from exvo.evaluation.results import PUBLISHED\n"
        "from exvo.reports.page import Page\n"
        "assert len(pd.read_csv(PUBLISHED)) > 100\n"
        "assert '<title>Mine' in Page('Mine', [], [], []).html()\n"
        "print(exvo.__file__)\n"
        "print(exvo.scores(sys.argv[1])['metric'][0])"
    )
    done = installed.run("-c", program, str(tmp_path / "a.parquet"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(installed.folder / "exvo" / "__init__.py"), "high_ccc"]


@pytest.mark.slow
def test_an_entry_point_works_from_it(installed: Installed, tiny_corpus: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, installed.elsewhere / "mlflow.db")
    options = ["--corpus", "table", "--data", str(tiny_corpus), "--workers", "1"]
    done = installed.run("-m", "exvo", "extract", *options)
    assert done.returncode == 0, done.stderr
    assert "run    " in done.stdout
    assert list(installed.elsewhere.glob("output/features/**/*.arrow"))
