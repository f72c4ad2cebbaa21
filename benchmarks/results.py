"""Results on real people: trains each row that is not there yet, then scores the test speakers, into docs/results.md.

make results                                     # all of EmoGator beside this checkout: hours
.venv/bin/python -m benchmarks.results --data ../shared/data/emogator-mini --epochs 8   # a rehearsal, in minutes
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
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import pandas as pd
from matplotlib.figure import Figure
from mlflow import MlflowClient

from benchmarks.svm import score_svm
from exvo import systems
from exvo.evaluation.pairwise import paired, same_clips
from exvo.evaluation.scoring import UAR, score
from exvo.tasks import task_of
from exvo.tracking import artifacts
from exvo.tracking.provenance import processor

ROOT = Path(__file__).resolve().parent.parent
EMOGATOR = ROOT.parent / "EmoGator"
FOLDER = Path("output") / "results"
PAGE, PICTURE = ROOT / "docs" / "results.md", ROOT / "docs" / "results.png"
SHOTS = (2, 8)


@dataclass(frozen=True)
class Row:
    """A row of the results: a system with a budget.

    Attributes:
        name: by which `--rows` chooses it.
        title: what the page calls it.
        options: of `exvo train`, but for corpus and seed; features `{row}` are the run of that row and seed.
        seeds: how many runs; three where the row claims something.
        against: the name of the plain row that a personalised one is compared with.
        svm: whether it is not trained by exvo: a linear SVM on the features that `options` name.
    """

    name: str
    title: str
    options: Mapping[str, str] = field(default_factory=dict)
    seeds: int = 1
    against: str = ""
    svm: bool = False


CNN = {"width": "0.25", "precision": "auto"}
ROWS = (
    Row("prior", "prior: what training says without hearing anything", {"model": "prior"}),
    Row("svm-egemaps", "eGeMAPS, linear SVM", {"features": "egemaps"}, svm=True),
    Row("svm-compare", "ComParE 2016, linear SVM", {"features": "compare2016"}, svm=True),
    Row("frozen-egemaps", "eGeMAPS, `frozen`", {"model": "frozen", "features": "egemaps"}),
    Row("frozen-compare", "ComParE 2016, `frozen`", {"model": "frozen", "features": "compare2016"}),
    Row(
        "relative-compare",
        "ComParE 2016, `frozen-relative`",
        {"model": "frozen-relative", "features": "compare2016"},
        against="frozen-compare",
    ),
    Row("cnn14", "published `cnn14`, quarter width", CNN | {"model": "cnn14", "epochs": "12"}),
    Row(
        "cnn14-attention",
        "published attention, quarter width",
        CNN | {"model": "cnn14-attention-cnn10-multitask-adversarial", "epochs": "5"},
    ),
    Row("resnet-20", "`resnet`", {"model": "resnet", "epochs": "30"}, seeds=3),
    Row("relative-20", "`resnet-relative`", {"model": "resnet-relative", "epochs": "30"}, 3, "resnet-20"),
    Row("film-20", "`resnet-film`", {"model": "resnet-film", "epochs": "30"}, 1, "resnet-20"),
    Row("head", "head over `resnet`", {"model": "frozen", "features": "{resnet-20}"}, 3),
    Row(
        "relative-head",
        "personalised head over `resnet`",
        {"model": "frozen-relative", "features": "{resnet-20}"},
        seeds=3,
        against="head",
    ),
    Row("resnet-60", "`resnet`, three times as long", {"model": "resnet", "epochs": "90"}),
    Row(
        "relative-60",
        "`resnet-relative`, three times as long",
        {"model": "resnet-relative", "epochs": "90"},
        against="resnet-60",
    ),
)


@dataclass(frozen=True)
class Trained:
    """A trained run, and the predictions of the test speakers once they are scored.

    Attributes:
        row: what it is.
        seed: of it.
        run_id: on the tracking server; empty of an SVM.
        minutes: of training with validation.
        tables: predictions by `<enrolment>-<shots>`, see `evaluate`; `plain` of a system that is not personalised.
    """

    row: Row
    seed: int
    run_id: str
    minutes: float
    tables: Mapping[str, pd.DataFrame]


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
        (run_id,) = re.findall(r"(?m)^run .*\(([0-9a-f]{32})\)$", said)
        done[command] = run_id
        notes.write_text(json.dumps(done, indent=1), encoding="utf-8")
    return done[command]


def training_words(
    row: Row, seed: int, corpus: Sequence[str], epochs: str, runs: Mapping[tuple[str, int], str] | None = None
) -> list[str]:
    """The command that trains a row.

    Args:
        row: the row.
        seed: of the run.
        corpus: the options that name the corpus.
        epochs: instead of its own, if it is not empty.
        runs: by row and seed, those that are trained; None: a run is called by its row.
    """
    options = dict(row.options) | {"seed": str(seed)}
    if encoder := re.fullmatch(r"\{(.+)\}", options.get("features", "")):
        options["features"] = f"<run of {encoder[1]}>" if runs is None else runs[encoder[1], seed]
    if epochs and "epochs" in options:
        options["epochs"] = epochs
    return ["train", *corpus, *(word for name, value in options.items() for word in (f"--{name}", value))]


def minutes_of(run_id: str) -> float:
    """The minutes of a run's training with validation: epochs times the median epoch, as other work slows some down."""
    history = artifacts.history(run_id)
    return float(len(history) * history[["seconds", "validation_seconds"]].median().sum() / 60)


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
    """Trains what is not there yet; the runs by row and seed, but for SVMs."""
    corpus = ["--corpus", "emogator", "--data", data]
    runs: dict[tuple[str, int], str] = {}
    for row in rows:
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
            table, minutes = score_svm("emogator", data, row.options["features"], FOLDER)
            yield Trained(row, 0, "", minutes, {"plain": table})
    for (name, seed), run_id in runs.items():
        row = next(row for row in rows if row.name == name)
        personalised = systems.find(row.options["model"]).fusion != "none"
        yield Trained(row, seed, run_id, minutes_of(run_id), scored_tables(run_id, notes, personalised))


def figures(trained: Sequence[Trained]) -> pd.DataFrame:
    """A row a run and way to enrol: row, seed, enrolment, minutes, the scores, and UAR's interval by speaker."""
    rows = []
    for run in trained:
        for enrolment, table in run.tables.items():
            if enrolment == "uncalibrated":
                continue
            scores = score(table, task_of(table)).set_index("metric")
            about = {"row": run.row.name, "seed": run.seed, "enrolment": enrolment, "minutes": run.minutes}
            values = {name: scores["value"].get(name) for name in (UAR, "category_accuracy", "category_ece")}
            ends = scores.loc[UAR, ["lo_by_speaker", "hi_by_speaker"]].to_dict()
            rows.append(about | values | ends)
    return pd.DataFrame(rows)


def differences(trained: Sequence[Trained]) -> pd.DataFrame:
    """What knowing the speaker is worth, paired by speaker: of each seed, over the plain row and over itself.

    Returns:
        row, seed, `what` (such as 'right-2 - plain'), value, and its interval by speaker.
    """
    plain = {(run.row.name, run.seed): run.tables["plain"] for run in trained if "plain" in run.tables}
    rows = []
    for run in trained:
        other = plain.get((run.row.against, run.seed))
        pairs = [("typical", "plain"), *((f"right-{k}", "plain") for k in SHOTS)]
        pairs += [(f"right-{k}", f"{name}-{k}") for k in SHOTS for name in ("wrong", "permuted", "corrected")]
        tables = dict(run.tables) | ({} if other is None else {"plain": other})
        for first, second in pairs:
            if first in tables and second in tables and first != second:
                a, b = same_clips(tables[second], tables[first])
                difference = paired(a, b, task_of(a)).set_index("metric").loc[UAR]
                ends = {end: difference[end] for end in ("lo_by_speaker", "hi_by_speaker")}
                rows.append(
                    {"row": run.row.name, "seed": run.seed, "what": f"{first} - {second}", "value": difference["value"]}
                    | ends
                )
    return pd.DataFrame(rows)


def page(rows: Sequence[Row], numbers: pd.DataFrame, gains: pd.DataFrame, corpus: Sequence[str]) -> str:
    """docs/results.md."""
    lines = [
        "# Results on real people",
        "",
        "All of EmoGator: 30 categories, 215 people to learn from, 71 to choose the epoch, 71 others to test. UAR",
        "(chance is 0.033), with its 95% bootstrap interval over resampled speakers; of several seeds the mean and the",
        "range, and the interval of seed 0. Minutes are epochs times the median seconds of an epoch with validation,",
        f"features being there, on two cores ({processor()}).",
        "",
        "Made by `make results`, which trains what is not there yet. Nothing was chosen by the test speakers.",
        "",
        "![Validation UAR against minutes of training](results.png)",
        "",
        "| row | enrolment | UAR | accuracy | ECE | minutes | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    titles = {row.name: row.title for row in rows}
    for (name, enrolment), group in numbers.groupby(["row", "enrolment"], sort=False):
        first, uars = group.iloc[0], group[UAR]
        spread = f" ({uars.min():.3f} to {uars.max():.3f})" if len(group) > 1 else ""
        interval = f"[{first['lo_by_speaker']:.3f}, {first['hi_by_speaker']:.3f}]"
        ece = "" if pd.isna(first["category_ece"]) else f"{group['category_ece'].mean():.3f}"
        cells = [
            titles[str(name)],
            str(enrolment).replace("-", ", k = "),
            f"{uars.mean():.3f}{spread} {interval}",
            f"{group['category_accuracy'].mean():.3f}",
            ece,
            f"{group['minutes'].mean():.0f}",
            str(len(group)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "## What knowing the speaker is worth",
        "",
        "| row | seed | difference of UAR | |",
        "|---|---|---|---|",
    ]
    for gain in gains.to_dict("records"):
        interval = f"{gain['value']:+.3f} [{gain['lo_by_speaker']:.3f}, {gain['hi_by_speaker']:.3f}]"
        lines.append(f"| {titles[gain['row']]} | {gain['seed']} | {gain['what']} | {interval} |")
    lines += ["", "## Commands", "", "```sh"]
    lines += [f"exvo {' '.join(training_words(row, 0, corpus, ''))}" for row in rows if not row.svm]
    return "\n".join([*lines, "```", ""])


def picture(trained: Sequence[Trained]) -> None:
    """Validation UAR against minutes of training, a line a row (seed 0)."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for run in trained:
        if run.run_id and not run.seed and run.row.name != "prior":
            history = artifacts.history(run.run_id)
            minutes = history[["seconds", "validation_seconds"]].sum(axis=1).cumsum() / 60
            axes.plot(minutes, history[UAR], label=run.row.title.replace("`", ""))
    axes.set(xlabel="minutes of training, with validation", ylabel="validation UAR")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(PICTURE, dpi=130)


def main() -> None:
    """Trains, scores and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(EMOGATOR), help="a folder in EmoGator's layout")
    parser.add_argument(
        "--rows",
        default="",
        help="names of rows with commas: they are trained alone, the test speakers not scored; empty: all",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of a row at most")
    parser.add_argument("--epochs", default="", help="in place of each row's own: a rehearsal, which writes no page")
    given = parser.parse_args()
    rows = [row for row in ROWS if not given.rows or row.name in given.rows.split(",")]
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(FOLDER / 'mlflow.db').resolve()}")
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    notes = FOLDER / "done.json"
    runs = train_rows(rows, given.seeds, given.data, given.epochs, notes)
    if rows != list(ROWS) or given.seeds < max(row.seeds for row in ROWS):
        show_validation(runs)
        return
    trained = list(score_rows(rows, given.data, runs, notes))
    numbers, gains = figures(trained), differences(trained)
    numbers.to_csv(FOLDER / "figures.csv", index=False)
    gains.to_csv(FOLDER / "differences.csv", index=False)
    print(numbers.to_string(index=False))
    print(gains.to_string(index=False))
    if not given.epochs:
        PAGE.write_text(page(rows, numbers, gains, ["--corpus", "emogator", "--data", "../EmoGator"]), encoding="utf-8")
        picture(trained)
        print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
