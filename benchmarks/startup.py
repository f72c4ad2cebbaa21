"""How long commands take to begin: `--help`, the bare import, and commands that compute next to nothing.

.venv/bin/python -m benchmarks.startup    # these rows alone, in a minute or two

The floor of a command that looks at runs is what MLflow takes to be imported and to open an embedded store.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from benchmarks.timing import REPEATS, Row, compare, row, seconds

FLOOR = "from mlflow import MlflowClient; MlflowClient().search_experiments()"
RUNS = ("cnn10", "cnn10-relative")
TINY = ("--width", "0.05", "--epochs", "1", "--protocol", "strict")


def rows(scratch: Path) -> Iterator[Row]:
    """All of them; `scratch` is an empty folder, in which two small networks are trained first."""
    folder = scratch / "startup"
    folder.mkdir()
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }

    def command(*words: str, status: int = 0) -> Callable[[], object]:
        def run() -> None:
            done = subprocess.run(
                [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode != status:
                raise RuntimeError(f"{' '.join(words)} ended with status {done.returncode}: {done.stderr[-500:]}")

        return run

    yield from instant(command)
    for model in RUNS:
        command("-m", "exvo", "train", "--model", model, *TINY)()
    command("-m", "exvo", "submit", "--run_id", RUNS[0], "--team", "exvo")()
    (submission,) = (folder / "output" / "submissions").glob("*.csv")
    (folder / "empty").mkdir()
    floor, pytorch = command("-c", FLOOR), command("-c", f"import torch; {FLOOR}")
    checked = ("--run_id", RUNS[0], "--check", str(submission))
    commands = {
        "exvo sync with nothing to deliver": (command("-m", "exvo", "sync", "--output", "empty"), 0.5),
        "exvo register, refused": (command("-m", "exvo", "register", "--run_id", "none", status=2), 1.5),
        "exvo compare, refused": (command("-m", "exvo", "compare", "--a", "none", "--b", "none", status=2), 1.5),
        "exvo compare of two runs": (command("-m", "exvo", "compare", "--a", RUNS[0], "--b", RUNS[1]), 1.5),
        "exvo submit --check": (command("-m", "exvo", "submit", *checked), 1.5),
        "exvo evaluate": (command("-m", "exvo", "evaluate", "--run_id", RUNS[1]), None),
        "the floor with PyTorch": (pytorch, None),
    }
    for what, (work, most) in commands.items():
        yield above(what, work, floor, most)


def instant(command: Callable[..., Callable[[], object]]) -> Iterator[Row]:
    """`--help` and the bare import, against importing what training needs."""
    needed = command("-c", "import torch, mlflow, pandas")
    bare = statistics.median(seconds(command("-c", "pass")) for _ in range(REPEATS))
    for what, words, most in (
        ("exvo train --help", ("-m", "exvo", "train", "--help"), 1.0),
        ("import exvo", ("-c", "import exvo"), 0.2),
    ):
        against = "importing torch, mlflow and pandas"
        line = compare(what, command(*words), needed, against, also={"Python alone": bare})
        yield line | {"met": line["also"]["seconds"] < most, "target": f"{most:g} s"}  # type: ignore[index]


def above(what: str, work: Callable[[], object], floor: Callable[[], object], most: float | None) -> Row:
    """The seconds of a command over those of the floor, in turn; `most` is the target for their difference."""
    pairs = [(seconds(work), seconds(floor)) for _ in tqdm(range(REPEATS), what, leave=False, disable=None)]
    over = statistics.median(command - least for command, least in pairs)
    against = "importing MLflow and opening its store (time over theirs)"
    line = row(
        what,
        against,
        [command / least for command, least in pairs],
        also={"seconds": statistics.median(command for command, _ in pairs), "seconds over it": over},
    )
    return line if most is None else line | {"met": over < most, "target": f"{most:g} s over it"}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for line in rows(Path(temporary)):
            print(f"{line['what']}: {line['ratio']:.2f} {line['also']} {line['target']} {line['met']}", flush=True)
