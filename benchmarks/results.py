"""Results on real people: trains each row that is not there yet, then scores the test speakers, into docs/results.md.

make results                                     # all of EmoGator beside this checkout: hours
.venv/bin/python -m benchmarks.results --data ../shared/data/emogator-mini --epochs 2   # a rehearsal, in minutes
.venv/bin/python -m benchmarks.results --rows prior,resnet-20 --seeds 1                  # trains some rows, one seed

What exists is not done again: runs lie in a tracking store of their own, output/results. The test speakers are scored
once all rows are trained with all seeds, and nothing is chosen by them: some rows alone show validation only. A changed
recipe trains a row anew; after a change of networks or of training remove output/results/done.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient

from benchmarks.page import SHOTS, differences, figures, minutes_of, picture, write_page
from benchmarks.rows import CURVE, MINI, ROWS, Row, Trained, training_words
from benchmarks.svm import svm_table
from exvo import systems
from exvo.evaluation.scoring import UAR
from exvo.tracking import artifacts

ROOT = Path(__file__).resolve().parent.parent
EMOGATOR = ROOT.parent / "EmoGator"
SAMPLE = ROOT.parent / "shared" / "data" / "emogator-mini"
FOLDER = Path("output") / "results"


def exvo(*words: str) -> str:
    """What an exvo command prints; it goes to the screen too.

    Raises:
        SystemExit: it fails.
    """
    command = [sys.executable, "-m", "exvo", *words]
    print(f"\n$ exvo {' '.join(words)}", flush=True)
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"results: `exvo {' '.join(words)}` has ended with status {process.returncode}")
    return "".join(lines)


def run_of(words: Sequence[str], notes: Path, system: str = "") -> str:
    """The run of a command, which is started if it was not done before.

    Args:
        words: of the command, without output.
        notes: a JSON file of the commands that are done, with their runs.
        system: that the command trains: with another recipe it is another command.
    """
    done: dict[str, str] = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
    command = f"{' '.join(words)} {systems.find(system) if system else ''}".strip()
    if command not in done:
        said = exvo(*words, "--output", str(FOLDER))
        (run_id,) = re.findall(r"(?m)^run .*\(([0-9a-f]{32})\)", said)
        done[command] = run_id
        notes.write_text(json.dumps(done, indent=1), encoding="utf-8")
    return done[command]


def scored_tables(run_id: str, notes: Path, personalised: bool) -> dict[str, pd.DataFrame]:
    """The predictions of the test speakers: those of `Trained.tables`."""
    tables: dict[str, pd.DataFrame] = {}
    for shots in SHOTS if personalised else SHOTS[:1]:
        words = ["evaluate", "--run_id", run_id, "--split", "test", "--shots", str(shots)]
        evaluated = run_of(words, notes)
        right = artifacts.load_table(evaluated, "predictions/test.parquet")
        assert right is not None
        tables[f"right-{shots}" if personalised else "plain"] = right
        for path in MlflowClient().list_artifacts(evaluated, "enrolment"):
            name = Path(path.path).stem.removeprefix("test-")
            table = artifacts.load_table(evaluated, path.path)
            assert table is not None
            tables["typical" if name == "typical" else f"{name}-{shots}"] = table
    return tables


def train_rows(rows: Sequence[Row], seeds: int, data: str, epochs: str, notes: Path) -> dict[tuple[str, int], str]:
    """Trains what is not there yet; the runs by row and seed, but for SVMs, whose predictions `svm_table` keeps."""
    corpus = ["--corpus", "emogator", "--data", data]
    runs: dict[tuple[str, int], str] = {}
    for row in rows:
        if row.svm:
            svm_table("emogator", data, row.options["features"], FOLDER)
        for seed in range(0 if row.svm else min(row.seeds, seeds)):
            words = training_words(row, seed, corpus, epochs, runs)
            runs[row.name, seed] = run_of(words, notes, row.options["model"])
    return runs


def show_validation(runs: Mapping[tuple[str, int], str]) -> None:
    """Prints the best validation UAR of each run, which is what rows may be chosen by."""
    for (name, seed), run_id in runs.items():
        best = artifacts.history(run_id)[UAR].max()
        print(f"{name} seed {seed}: validation UAR {best:.3f}, {minutes_of(run_id):.1f} minutes")
    print("The test speakers are scored once all rows are trained: leave out --rows and --seeds.")


def score_rows(rows: Sequence[Row], data: str, runs: Mapping[tuple[str, int], str], notes: Path) -> Iterator[Trained]:
    """Scores the test speakers with all that is trained, and with the SVMs."""
    for row in rows:
        if row.svm:
            table, minutes = svm_table("emogator", data, row.options["features"], FOLDER)
            yield Trained(row, 0, "", minutes, {"plain": table})
    for (name, seed), run_id in runs.items():
        row = next(row for row in rows if row.name == name)
        personalised = systems.find(row.options["model"]).fusion != "none"
        yield Trained(row, seed, run_id, minutes_of(run_id), scored_tables(run_id, notes, personalised))


def measure(rows: Sequence[Row], seeds: int, data: str, epochs: str, notes: Path) -> list[Trained]:
    """Trains rows and scores the test speakers of a corpus in EmoGator's layout."""
    return list(score_rows(rows, data, train_rows(rows, seeds, data, epochs, notes), notes))


def main() -> None:
    """Trains, scores and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(EMOGATOR), help="a folder in EmoGator's layout")
    parser.add_argument("--sample", default=str(SAMPLE), help="the folder of emogator-mini")
    parser.add_argument(
        "--rows",
        default="",
        help="names of rows with commas: they are trained alone, the test speakers not scored; empty: all",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of a row at most")
    parser.add_argument(
        "--epochs", default="", help="in place of each row's own: a rehearsal, whose page lies in output/results"
    )
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(FOLDER / 'mlflow.db').resolve()}")
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    notes = FOLDER / "done.json"
    if given.rows or given.seeds < max(row.seeds for row in ROWS):
        rows = [row for row in (*ROWS, *CURVE) if not given.rows or row.name in given.rows.split(",")]
        show_validation(train_rows(rows, given.seeds, given.data, given.epochs, notes))
        return
    curve = train_rows(CURVE, 1, given.data, given.epochs, notes)
    every = measure(ROWS, given.seeds, given.data, given.epochs, notes)
    for table in (figures(every), differences(every)):
        print(table.to_string(index=False))
    sample = measure(MINI, given.seeds, given.sample, given.epochs, notes)
    folder = FOLDER if given.epochs else ROOT / "docs"
    write_page(folder / "results.md", every, curve, sample, FOLDER / "small.csv")
    picture(folder / "results.png", every)
    print(f"written: {folder / 'results.md'}")


if __name__ == "__main__":
    main()
