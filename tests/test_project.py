"""The repository itself: options and pins have one home, and modules import only whom they may."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import get_args

import pytest
import yaml
from conda_pins import LEFT_OUT, extras, pins
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import exvo
from exvo.extras import Extra
from exvo.settings import ENTRY_POINTS
from exvo.text import default_text

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
MODULES = sorted(path for folder in ("exvo", "pipelines") for path in (ROOT / folder).rglob("*.py"))

ORDER = (
    "errors",
    "config",
    "settings",
    "passwords",
    "text",
    "extras",
    "progress",
    "files",
    "spreadsheets",
    "tables",
    "options",
    "systems",
    "machine",
    "devices",
    "ranks",
    "cluster",
    "corpora",
    "features",
    "tasks",
    "enrolment",
    "batches",
    "networks",
    "training",
    "evaluation",
    "tuning",
    "reports",
    "serving",
    "tracking",
    "demo",
    "experiments",
    "api",
    "__main__",
)
"""The homes of `exvo`: a module imports only from its own home and from those before it."""

WITHOUT_TORCH = ("evaluation", "reports", "tuning", "tasks", "enrolment", "systems", "corpora", "options", "api")
"""Homes that are imported where PyTorch is not there."""


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


def test_conda_yaml_has_the_pins_of_the_lock_that_an_entry_point_can_need() -> None:
    """Which those are the installed libraries say, here where their markers are those of this system."""
    environment = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    listed = [Requirement(pin) for pin in environment["dependencies"][-1]["pip"]]
    locked = {(pin.name, str(pin.specifier)) for pin in map(Requirement, pins(LOCK))}
    assert {(pin.name, str(pin.specifier)) for pin in listed} <= locked
    wanted = [*PROJECT["dependencies"], *(word for required in extras().values() for word in required)]
    assert {pin.name for pin in listed if pin.marker is None or pin.marker.evaluate()} == needed(wanted)


def needed(requirements: Iterable[str]) -> set[str]:
    """The names of the libraries that requirements bring, with all that those require, as they are installed here."""
    found: set[tuple[str, str]] = set()
    todo = [Requirement(word) for word in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for known, extra in found if known == name}:
            found.add((name, extra))
            required = map(Requirement, metadata.requires(name) or [])
            todo += [one for one in required if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def test_the_code_knows_the_extras() -> None:
    assert set(get_args(Extra)) == set(extras())
    assert set(extras()) | set(LEFT_OUT) == set(PROJECT["optional-dependencies"])


def test_the_lock_pins_every_dependency_and_names_no_index() -> None:
    assert "://" not in LOCK
    assert "--index" not in LOCK
    assert "--find-links" not in LOCK
    pinned = {re.split(r"==", pin)[0] for pin in pins(LOCK)}
    wanted = [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]
    listed = {canonicalize_name(Requirement(requirement).name) for requirement in wanted}
    assert len(listed) > 35
    assert listed <= pinned
    assert LOCK.count("--hash=sha256:") > 5 * len(pinned)


def imports(path: Path, of: str) -> set[str]:
    """Modules of the package `of` that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == of}


def home(module: str) -> str:
    """The home of a module of exvo, `exvo.<home>.<module>`."""
    return module.split(".")[1] if "." in module else ""


def test_every_home_has_its_place_in_the_order() -> None:
    package = ROOT / "exvo"
    own = [path.relative_to(package) for path in MODULES if path.is_relative_to(package)]
    homes = {path.parts[0].removesuffix(".py") for path in own}
    assert homes - {"__init__", "former"} == set(ORDER)


def test_the_tree_of_contributing_shows_every_home_in_its_order() -> None:
    tree = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("```\nexvo/")[2].partition("```")[0]
    names = [name.removesuffix(".py").rstrip("/") for name in re.findall(r"^  (\w+(?:\.py|/))", tree, re.MULTILINE)]
    assert tuple(name for name in names if name in ORDER) == ORDER


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_import_only_whom_they_may(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    own = home(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if name.startswith("pipelines/"):
        assert imports(path, "exvo") <= {"exvo.__main__", "exvo.__main__.launch"}
    elif own in ORDER:
        before = set(ORDER[: ORDER.index(own) + 1])
        assert {home(used) for used in imports(path, "exvo")} - {"", "__version__"} <= before
    assert not imports(path, "pipelines")
    if not name.startswith("exvo/tracking/") and name != "exvo/serving/model.py":
        assert not imports(path, "mlflow")
    if not name.startswith("exvo/tuning/"):
        assert not imports(path, "optuna")
    assert not imports(path, "pickle")


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("*.py")), ids=lambda path: path.name)
def test_no_test_imports_another(path: Path) -> None:
    modules = [
        name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    ]
    assert [name for name in modules if name.startswith(("test_", "conftest"))] == []


def test_the_citation_names_this_version() -> None:
    """With the parts that the Citation File Format 1.2.0 requires."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == exvo.__version__
    assert citation["license"] == PROJECT["license"]


def test_the_core_runs_without_mlflow_and_optuna() -> None:
    program = (
        "import sys; sys.modules['mlflow'] = sys.modules['optuna'] = None\n"
        "import exvo.corpora, exvo.features.extraction, exvo.training.loop, exvo.evaluation.scoring, exvo.reports.run"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_numbers_words_and_pictures_run_without_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if home(".".join(path.relative_to(ROOT).with_suffix("").parts)) in WITHOUT_TORCH
    ]
    program = f"import sys\nimport {', '.join(modules)}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("module", "words"), [("pipelines.train", ["--help"]), ("exvo", ["train", "--help"]), ("exvo", ["tra"])]
)
def test_help_imports_nothing_heavy(module: str, words: list[str]) -> None:
    program = f"import runpy, sys; sys.argv = {[module, *words]}\n"
    program += f"try: runpy.run_module({module!r}, run_name='__main__')\n"
    program += "except SystemExit: print(sorted({'torch', 'mlflow', 'pandas', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.endswith("[]\n")
