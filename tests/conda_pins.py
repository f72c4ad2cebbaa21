"""Prints conda.yaml, the environment of `mlflow run`: pins of requirements.lock that an entry point can need."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = ("dev", "docs")
"""Extras that no entry point asks for."""

HEAD = """\
# Made from requirements.lock by `make lock`.
name: exvo
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def pins(lock: str) -> list[str]:
    """The pinned requirements of a lock file, with their markers and without hashes."""
    return [line.rstrip(" \\") for line in lock.splitlines() if re.match(r"[A-Za-z0-9]", line)]


def extras() -> dict[str, list[str]]:
    """The extras that an entry point can ask for, and what each requires."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {name: listed for name, listed in project["optional-dependencies"].items() if name not in LEFT_OUT}


def resolved() -> list[str]:
    """The pins of exvo with these extras, each as in the lock."""
    words = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "pyproject.toml", "--quiet", "--universal"]
    words += ["--python-version", "3.11", "--constraint", "requirements.lock", "--no-header", "--no-annotate"]
    words += [word for name in extras() for word in ("--extra", name)]
    return pins(subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    print(HEAD + "".join(f'      - "{pin}"\n' for pin in resolved()), end="")
