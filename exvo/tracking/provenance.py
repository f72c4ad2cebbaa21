"""Where a run comes from: the code, the hardware, the libraries."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from exvo.machine import processor
from exvo.text import printable

PROJECT = Path(__file__).resolve().parent.parent.parent
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


GIT_SECONDS = 20.0
"""What git is given to answer; a working tree on a slow disk takes some seconds."""

GIT_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")
"""Variables by which git would look at another repository; a hook of git sets them."""


@dataclass(frozen=True)
class Code:
    """The code that runs, as far as it is known.

    Attributes:
        commit: 40 or 64 hexadecimal digits, or none.
        changes: the files that differ from it, as `git status --porcelain` lists them; None where that is unknown.
        difference: to the commit, as `git diff` prints it.
        problem: why git can't be asked; empty where it can, and where there is no checkout to ask about.
    """

    commit: str
    changes: str | None = None
    difference: str = ""
    problem: str = ""


@functools.cache
def code() -> Code:
    """The commit and the uncommitted changes with which this process began.

    Where git is not installed, fails, or refuses the checkout because another user owns it, the commit is read from the
    checkout's files: if we told git that the folder is safe, it would execute what the folder's configuration says. A
    repository around the project's folder is not asked: its commit says nothing of this code.
    """
    if not os.path.lexists(PROJECT / ".git"):
        return Code("none")
    try:
        return Code(
            git("rev-parse", "HEAD").strip(), git("status", "--porcelain"), git("diff", "--no-ext-diff", "HEAD")
        )
    except OSError as error:
        return Code(commit_of_files(PROJECT / ".git") or "none", problem=str(error))


@functools.cache
def say_problem(present: Code) -> None:
    """Prints, once in a process, why git could not tell all about the code."""
    if present.commit == "none":
        print(f"the run's commit is logged as none: {present.problem}", flush=True)
    else:
        print(
            f"the run's commit {present.commit[:12]} was read from the checkout's files, and uncommitted changes are "
            f"not known: {present.problem}",
            flush=True,
        )


def git(*arguments: str) -> str:
    """What git prints about the project's folder; bytes that are not UTF-8 as backslash escapes.

    Raises:
        OSError: git is not installed, fails, or does not answer in time; the message is a clause.
    """
    environment = {name: value for name, value in os.environ.items() if name not in GIT_VARIABLES}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_CEILING_DIRECTORIES": str(PROJECT.parent)}
    words = ["git", *arguments]
    try:
        answer = subprocess.run(
            words, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=GIT_SECONDS
        )
    except FileNotFoundError:
        raise OSError("git is not installed") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"git has not answered for {GIT_SECONDS:g} seconds") from None
    except OSError as error:
        raise OSError(f"git can't be started: {error.strerror}") from None
    if answer.returncode != 0:
        lines = [line.strip() for line in answer.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        reason = printable(lines[0].removeprefix("fatal: "), 200) if lines else f"status {answer.returncode}"
        raise OSError(f"git fails: {reason}")
    return answer.stdout.decode("utf-8", "backslashreplace")


def commit_of_files(place: Path) -> str:
    """The commit that the files of a checkout name, read without git; empty where they name none.

    Args:
        place: its `.git`: a folder, or the file by which a working tree of its own or a submodule names one.
    """
    try:
        if place.is_file():
            place = place.parent / place.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        pointer = place / "commondir"
        common = place / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else place
        name = "HEAD"
        for _ in range(5):  # HEAD names a branch, which could name another
            file = next((folder / name for folder in (place, common) if (folder / name).is_file()), None)
            text = file.read_text(encoding="utf-8").strip() if file else _packed(common / "packed-refs", name)
            if not text.startswith("ref: refs/") or ".." in text:
                return text if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text) else ""
            name = text.removeprefix("ref: ")
    except (OSError, ValueError):
        pass
    return ""


def _packed(file: Path, name: str) -> str:
    """The commit of a branch in the file that holds many; empty where it is not there."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return next((line.split(" ")[0] for line in lines if line.endswith(f" {name}")), "")


def environment() -> dict[str, Any]:
    """Hardware and library versions; and, where this process computes with PyTorch, what decides how it adds numbers.

    That is the processor's instructions, the threads and the GPUs as PyTorch has them. To look for them elsewhere would
    take as long as to import PyTorch.
    """
    arithmetic: dict[str, Any] = {}
    if "torch" in sys.modules:
        import torch

        arithmetic["instructions"] = torch.backends.cpu.get_cpu_capability()
        arithmetic["threads"] = torch.get_num_threads()
        arithmetic["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        **arithmetic,
        "libraries": {name: version(name) for name in LIBRARIES},
    }
