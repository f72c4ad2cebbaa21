"""The repository itself: options and pins have one home, and modules import only whom they may."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conda_pins import conda_yaml, pins

from exvo.config import ENTRY_POINTS, default_text

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for folder in ("exvo", "pipelines") for path in (ROOT / folder).rglob("*.py"))

TRACKED = (
    "exvo/server.py",
    "exvo/names.py",
    "exvo/lookup.py",
    "exvo/delivery.py",
    "exvo/tracking.py",
    "exvo/registry.py",
)


def test_mlproject_has_the_options_and_defaults_of_the_code() -> None:
    project = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
    assert project["conda_env"] == "conda.yaml"
    assert set(project["entry_points"]) == set(ENTRY_POINTS)
    for name, entry in project["entry_points"].items():
        fields = dataclasses.fields(ENTRY_POINTS[name])
        defaults = {option: given["default"] for option, given in entry["parameters"].items()}
        assert defaults == {field.name: default_text(field.default) for field in fields}
        passed = " ".join(f"--{field.name} {{{field.name}}}" for field in fields)
        assert entry["command"] == f"python -m pipelines.{name.replace('-', '_')} {passed}"


def test_conda_yaml_has_the_pins_of_the_lock() -> None:
    assert (ROOT / "conda.yaml").read_text(encoding="utf-8") == conda_yaml()


def test_the_lock_pins_every_dependency_and_names_no_index() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    assert "--index" not in lock
    assert "--find-links" not in lock
    pinned = {re.split(r"==", pin)[0] for pin in pins(lock)}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.findall(r'^    "([a-z0-9-]+)', project, flags=re.MULTILINE)
    assert len(listed) > 10
    assert set(listed) <= pinned
    assert lock.count("--hash=sha256:") > 5 * len(pinned)


def imports(path: Path, of: str) -> set[str]:
    """Modules of the package `of` that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == of}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_import_only_whom_they_may(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    if name in ("exvo/config.py", "exvo/metrics.py"):
        assert not imports(path, "exvo")
    if name.startswith("exvo/"):
        assert not imports(path, "pipelines")
    if name not in (*TRACKED, "exvo/serving.py", "exvo/logged_model.py"):
        assert not imports(path, "mlflow")
    if name.startswith("exvo/") and name not in (*TRACKED, "exvo/logged_model.py"):
        tracked = ("exvo.server", "exvo.tracking", "exvo.lookup", "exvo.delivery", "exvo.registry", "exvo.serving")
        assert not any(used.startswith(tracked) for used in imports(path, "exvo"))
    if not name.startswith("exvo/tuning/"):
        assert not imports(path, "optuna")
    assert not imports(path, "pickle")


def test_the_core_runs_without_mlflow_and_optuna() -> None:
    program = (
        "import sys; sys.modules['mlflow'] = sys.modules['optuna'] = None\n"
        "import exvo.batches, exvo.evaluation, exvo.extraction, exvo.systems, exvo.training, exvo.corpora"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_help_imports_nothing_heavy() -> None:
    program = "import runpy, sys; sys.argv = ['train', '--help']\n"
    program += "try: runpy.run_module('pipelines.train', run_name='__main__')\n"
    program += "except SystemExit: print(sorted({'torch', 'mlflow', 'pandas', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.endswith("[]\n")
