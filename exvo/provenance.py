"""Where a run comes from: the code, the hardware, the libraries."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

PROJECT = Path(__file__).resolve().parent.parent
LIBRARIES = (
    "mlflow",
    "torch",
    "torchaudio",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "soundfile",
    "soxr",
    "optuna",
)


def git(*arguments: str) -> str | None:
    """What git prints in the project's folder; None where it is no checkout."""
    done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def code() -> tuple[str, str, str]:
    """The commit (none where there is no checkout), the changed files and the difference to it."""
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return "none", "", ""
    return commit.strip(), git("status", "--porcelain") or "", git("diff", "HEAD") or ""


def source_digest() -> str:
    """SHA-256, in hexadecimal, of the Python files of `exvo`: their names and contents."""
    total = hashlib.sha256()
    for path in sorted((PROJECT / "exvo").rglob("*.py")):
        content = path.read_bytes()
        total.update(f"{path.relative_to(PROJECT).as_posix()} {len(content)}\n".encode() + content)
    return total.hexdigest()


def environment() -> dict[str, Any]:
    """Hardware and library versions; instructions and threads are those that PyTorch uses: they order its sums."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
