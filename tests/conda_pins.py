"""Prints conda.yaml from requirements.lock, its one source: `make lock`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
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


def conda_yaml() -> str:
    """What conda.yaml must hold."""
    lines = [f'      - "{pin}"\n' for pin in pins((ROOT / "requirements.lock").read_text(encoding="utf-8"))]
    return HEAD + "".join(lines)


if __name__ == "__main__":
    print(conda_yaml(), end="")
