"""Trains all 23 published rows at a small width for one epoch on the sample corpus through `mlflow run`, then compares.

It shows that every row runs from the command line to the results table; after one epoch the scores say nothing. The
runs go to a store of their own. `cnn14-audioset` starts from a stand-in, random weights in the layout of the PANNs'
file, because the real ones fit width 1 alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from exvo.networks.cnn import PANN
from exvo.systems import PUBLISHED

FOLDER = Path("output") / "systems"
WIDTH = 0.05
ROWS = [(name, "fewshot") for name in PUBLISHED] + [(name, "multitask") for name in list(PUBLISHED)[:3]]


def write_stand_in(path: Path) -> None:
    """Random weights in the layout of the published PANNs file."""
    torch.manual_seed(1)  # not that of the runs: other weights than a random start
    torch.save({"model": PANN("cnn14", WIDTH).state_dict()}, path)


def mlflow(*words: str) -> subprocess.CompletedProcess[str]:
    """The mlflow command, on the sweep's own store, one thread each."""
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{FOLDER}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": "systems",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(
        [sys.executable, "-m", "mlflow", *words], env=environment, capture_output=True, text=True, check=False
    )


def train(row: tuple[str, str]) -> str:
    """One row; what went wrong, or nothing."""
    model, task = row
    options = {"model": model, "task": task, "epochs": "1", "width": str(WIDTH)}
    if PUBLISHED[model].start == "panns":
        options["init"] = str(FOLDER / "stand-in.pth")
    words = [word for name, value in options.items() for word in ("-P", f"{name}={value}")]
    done = mlflow("run", ".", "-e", "train", "--env-manager", "local", *words)
    return f"{model}, {task}:\n{done.stderr}" if done.returncode else ""


def sweep(rows: Sequence[tuple[str, str]]) -> list[str]:
    """All rows, as many at once as there are cores; what went wrong."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [failure for failure in tqdm(pool.map(train, rows), "systems", len(rows), disable=None) if failure]


def main() -> int:
    """The sweep and the comparison; 1 where a row fails."""
    began = time.perf_counter()
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "mlflow.db").unlink(missing_ok=True)
    write_stand_in(FOLDER / "stand-in.pth")
    mlflow("experiments", "create", "-n", "systems", "-l", (FOLDER / "artifacts").resolve().as_uri())
    continued = [row for row in ROWS if PUBLISHED[row[0]].start in PUBLISHED]
    failures = sweep([row for row in ROWS if row not in continued]) + sweep(continued)
    compared = mlflow("run", ".", "-e", "compare", "--env-manager", "local")
    print(compared.stdout)
    failures += [compared.stderr] if compared.returncode else []
    print(f"{len(ROWS)} rows in {(time.perf_counter() - began) / 60:.1f} minutes, {len(failures)} failures")
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
