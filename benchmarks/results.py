"""Results on real people: trains each row of which no result is kept, scores its test speakers, and writes the page.

make results                                     # all of EmoGator beside this checkout: hours
.venv/bin/python -m benchmarks.results --rows prior,resnet-20 --seeds 1                  # some rows, one seed
.venv/bin/python -m benchmarks.results --corpus emogator-mini                            # in minutes
.venv/bin/python -m benchmarks.results --page                                            # from what is kept alone

What is kept in docs/results is not done again, on whatever machine it was made; a changed command or recipe trains a
row anew, and so does removing its file. The rows and their commands are fixed in `benchmarks.rows`: they were chosen
by validation, and nothing is chosen by these scores. Runs lie in a tracking store of their own, output/results.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import mlflow
import pandas as pd
import torch
from mlflow import MlflowClient

from benchmarks.kept import Result, load, scored
from benchmarks.page import SHOTS, picture, write_page
from benchmarks.rows import CORPORA, Row, training_words
from benchmarks.svm import svm_table
from exvo import systems
from exvo.evaluation.scoring import UAR
from exvo.machine import processor
from exvo.tracking import artifacts

ROOT = Path(__file__).resolve().parent.parent
EMOGATOR = ROOT.parent / "EmoGator"
PLACES = {"emogator": EMOGATOR, "emogator-mini": ROOT.parent / "shared" / "data" / "emogator-mini"}
FOLDER = Path("output") / "results"
KEPT = ROOT / "docs" / "results"


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
    """The predictions of the test speakers by `<enrolment>-<shots>`; `plain` of a system that is not personalised."""
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


class Trainer:
    """Trains and scores the rows of a corpus in EmoGator's layout, and keeps what came of it.

    Args:
        rows: all that the corpus has, as a head needs the run of another row.
        data: the folder of the corpus.
        kept: the folder of its results.
        epochs: in place of each row's own, if it is not empty.
    """

    def __init__(self, rows: Sequence[Row], data: str, kept: Path, epochs: str) -> None:
        self.rows = {row.name: row for row in rows}
        self.data, self.kept, self.epochs = data, kept, epochs
        self.notes = FOLDER / "done.json"

    def known_by(self, row: Row, seed: int) -> tuple[str, dict[str, str | float | bool]]:
        """The command and the recipe of a row, by which its result is known."""
        command = " ".join(training_words(row, seed, ["--corpus", "emogator"], self.epochs))
        return command, {} if row.svm else asdict(systems.find(row.options["model"]))

    def run_id(self, row: Row, seed: int) -> str:
        """The run of a row, which is trained if it is not in the store, and so is its encoder."""
        words = training_words(
            row,
            seed,
            ["--corpus", "emogator", "--data", self.data],
            self.epochs,
            lambda name: self.run_id(self.rows[name], seed),
        )
        return run_of(words, self.notes, row.options["model"])

    def missing(self, names: Sequence[str], seeds: int) -> list[tuple[Row, int]]:
        """The rows and seeds of which no result is kept.

        Args:
            names: of rows; none: all.
            seeds: of a row at most.
        """
        there = {(one.row, one.seed): one for one in load(self.kept)}
        return [
            (row, seed)
            for row in self.rows.values()
            if not names or row.name in names
            for seed in range(min(row.seeds, seeds))
            if (row.name, seed) not in there or not there[row.name, seed].is_of(*self.known_by(row, seed))
        ]

    def make(self, row: Row, seed: int) -> None:
        """Trains, scores and keeps one."""
        if row.svm:
            table, minutes = svm_table("emogator", self.data, row.options["features"], FOLDER)
            tables, precision, epochs = {"plain": table}, "float64", []
        else:
            run_id = self.run_id(row, seed)
            personalised = systems.find(row.options["model"]).fusion != "none"
            tables = scored_tables(run_id, self.notes, personalised) if row.is_scored else {}
            precision = MlflowClient().get_run(run_id).data.params["resolved.precision"]
            epochs = epochs_of(run_id)
            minutes = epochs[-1][0]
        machine = f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, {precision}"
        command, recipe = self.known_by(row, seed)
        Result(row.name, seed, command, recipe, machine, round(minutes, 2), epochs, *scored(tables)).save(self.kept)


def epochs_of(run_id: str) -> list[tuple[float, float]]:
    """Of each epoch the minutes until its end and its validation UAR.

    An epoch takes the lower quartile of all with their validation, as other work slows some down.
    """
    history = artifacts.history(run_id)
    minutes = float(history[["seconds", "validation_seconds"]].sum(axis=1).quantile(0.25) / 60)
    return [(round(number * minutes, 3), round(float(uar), 5)) for number, uar in enumerate(history[UAR], start=1)]


def main() -> None:
    """Trains, scores and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="", choices=["", *CORPORA], help="that corpus alone")
    parser.add_argument(
        "--data", default="", help="a folder in EmoGator's layout; empty: the corpus beside this checkout"
    )
    parser.add_argument("--rows", default="", help="names of rows with commas; empty: all")
    parser.add_argument("--seeds", type=int, default=3, help="runs of a row at most")
    parser.add_argument("--page", action="store_true", help="train nothing")
    parser.add_argument("--epochs", default="", help="in place of each row's own: a rehearsal, in output/results alone")
    given = parser.parse_args()
    if given.data and not given.corpus:
        parser.error("--data takes --corpus too")
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(FOLDER / 'mlflow.db').resolve()}")
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    kept = FOLDER / "rehearsal" if given.epochs else KEPT
    for corpus, rows in CORPORA.items():
        if given.page or given.corpus not in ("", corpus):
            continue
        trainer = Trainer(rows, given.data or str(PLACES[corpus]), kept / corpus, given.epochs)
        for row, seed in trainer.missing([name for name in given.rows.split(",") if name], given.seeds):
            trainer.make(row, seed)
    names = {corpus: {row.name for row in rows} for corpus, rows in CORPORA.items()}
    results = {corpus: [one for one in load(kept / corpus) if one.row in names[corpus]] for corpus in CORPORA}
    write_page(kept.parent / "results.md", results, kept / "small.csv")
    picture(kept.parent / "results.png", results["emogator"])
    print(f"written: {kept.parent / 'results.md'}")


if __name__ == "__main__":
    main()
