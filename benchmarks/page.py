"""docs/results.md: the figures of the trained rows, what knowing the speaker is worth, the targets, and a picture."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.rows import CURVE, MINI, ROWS, Row, Trained, training_words
from exvo.evaluation.calibration import ECE, LOG_LOSS
from exvo.evaluation.pairwise import paired, same_clips
from exvo.evaluation.scoring import UAR, score
from exvo.machine import processor
from exvo.tasks import task_of
from exvo.tracking import artifacts

OURS = ("resnet-20", "relative-20", "head", "relative-head", "three")
"""The rows whose calibration the targets speak of."""

SHOTS = (2, 8)
"""How many clips of the speaker are enrolled."""
NOT_WORSE = -0.01
"""Above which the interval by speaker of a system that is not worse lies, on 60 speakers or more."""

NOT_RUN = """exvo main --corpus hume-vb --data <folder> --model resnet-relative
exvo train --corpus emogator --data ../EmoGator --model frozen --features microsoft/wavlm-base-plus
exvo train --corpus emogator --data ../EmoGator --model frozen-relative --features microsoft/wavlm-base-plus
exvo train --corpus emogator --data ../EmoGator --model frozen-relative --features microsoft/wavlm-large"""
"""They need data under licence, or weights from the hub."""


def epoch_minutes(run_id: str) -> float:
    """The minutes of an epoch with validation: the lower quartile, as other work slows some epochs down."""
    history = artifacts.history(run_id)
    return float(history[["seconds", "validation_seconds"]].sum(axis=1).quantile(0.25) / 60)


def minutes_of(run_id: str) -> float:
    """The minutes of a run's training with validation."""
    return len(artifacts.history(run_id)) * epoch_minutes(run_id)


def best_of(run_id: str) -> float:
    """The best validation UAR of a run."""
    return float(artifacts.history(run_id)[UAR].max())


def figures(trained: Sequence[Trained]) -> pd.DataFrame:
    """A row a run and way to enrol: row, seed, enrolment, minutes, the scores, and UAR's interval by speaker."""
    rows = []
    for run in trained:
        for enrolment, table in run.tables.items():
            scores = score(table, task_of(table)).set_index("metric")
            about = {"row": run.row.name, "seed": run.seed, "enrolment": enrolment, "minutes": run.minutes}
            values = {name: scores["value"].get(name) for name in (UAR, "category_accuracy", ECE, LOG_LOSS)}
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


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    ruler = ["---"] * len(titles)
    return [f"| {' | '.join(row)} |" for row in (titles, ruler, *rows)]


def scores_table(rows: Sequence[Row], numbers: pd.DataFrame) -> list[str]:
    """The table of scores: of several seeds the mean and the range, and the interval of the first."""
    titles = {row.name: row.title for row in rows}
    cells = []
    for (name, enrolment), group in numbers.groupby(["row", "enrolment"], sort=False):
        first, uars = group.iloc[0], group[UAR]
        spread = f" ({uars.min():.3f} to {uars.max():.3f})" if len(group) > 1 else ""
        cells.append(
            [
                titles[str(name)],
                str(enrolment).replace("typical", "none").replace("-", ", k = "),
                f"{uars.mean():.3f}{spread} [{first['lo_by_speaker']:.3f}, {first['hi_by_speaker']:.3f}]",
                f"{group['category_accuracy'].mean():.3f}",
                "" if pd.isna(first[ECE]) else f"{group[ECE].mean():.3f}",
                f"{group['minutes'].mean():.1f}",
                str(len(group)),
            ]
        )
    return table(["row", "enrolment", "UAR", "accuracy", "ECE", "minutes", "seeds"], cells)


def gains_table(rows: Sequence[Row], gains: pd.DataFrame) -> list[str]:
    """The table of differences: a row a system and difference, its seeds side by side."""
    titles = {row.name: row.title for row in rows}
    cells = [
        [titles[str(name)], str(what).replace("typical", "none"), intervals(group)]
        for (name, what), group in gains.groupby(["row", "what"], sort=False)
    ]
    return table(["row", "difference of UAR", "of each seed, by speaker"], cells)


def interval(gain: Mapping[Hashable, float]) -> str:
    """A difference with its interval."""
    return f"{gain['value']:+.3f} [{gain['lo_by_speaker']:+.3f}, {gain['hi_by_speaker']:+.3f}]"


def intervals(gains: pd.DataFrame) -> str:
    """The differences of all seeds, with their intervals."""
    return "; ".join(map(interval, gains.to_dict("records")))


def targets(numbers: pd.DataFrame, gains: pd.DataFrame, small: pd.DataFrame | None) -> Iterator[list[str]]:
    """What was aimed at before anything was trained, what was reached, and whether that is enough."""

    used = numbers[~numbers["enrolment"].str.match("wrong|permuted|corrected")]

    def uar(name: str, enrolment: str = "plain") -> float:
        return float(used[(used["row"] == name) & (used["enrolment"] == enrolment)][UAR].mean())

    def gain(name: str, what: str) -> pd.DataFrame:
        return gains[(gains["row"] == name) & (gains["what"] == what)]

    def line(what: str, aim: str, reached: str, met: bool) -> list[str]:
        return [what, aim, reached, "met" if met else "missed"]

    plain, longer = uar("resnet-20"), uar("three", "typical")
    published = max(uar("cnn14"), uar("cnn14-attention", "right-2"))
    yield line("`resnet` from scratch, test UAR", "0.30 in 20 minutes", f"{plain:.3f}", plain >= 0.30)
    yield line(
        "three `resnet-relative`s in one, no clips, test UAR", "0.35 in 60 minutes", f"{longer:.3f}", longer >= 0.35
    )
    ratio = plain / published
    yield line("over the better published system, equal minutes", "1.6 times", f"{ratio:.2f}", ratio >= 1.6)
    for name in ("relative-20", "relative-head"):
        title = next(row.title for row in ROWS if row.name == name)
        for what, words in (
            ("right-2 - plain", "k = 2, over plain"),
            ("right-2 - wrong-2", "k = 2, right over wrong speaker"),
            ("right-2 - corrected-2", "k = 2, over the correction without training"),
            ("right-8 - corrected-8", "k = 8, over the correction without training"),
        ):
            each = gain(name, what)
            above = bool((each["lo_by_speaker"] > 0).all())
            yield line(f"{title}, {words}", "interval above 0, each seed", intervals(each), above)
        for k, least in ((2, 0.015), (8, 0.025)):
            mean = gain(name, f"right-{k} - plain")["value"].mean()
            yield line(f"{title}, k = {k}, over plain", f"{least:+.3f}", f"{mean:+.3f}", mean >= least)
        none = gain(name, "typical - plain")
        met = bool((none["lo_by_speaker"] > NOT_WORSE).all())
        yield line(f"{title}, no clips, over plain", f"interval above {NOT_WORSE}", intervals(none), met)
    if small is not None:
        below = (small["frozen"] - small["linear SVM"]).tolist()
        shown_small = ", ".join(f"{each:+.3f}" for each in below)
        what = "`frozen` on ComParE over a linear SVM, six small corpora"
        yield line(what, "not below 0", shown_small, min(below) >= 0)
    ours = used[used["row"].isin(OURS)]
    worst, loss = ours[ECE].max(), ours[LOG_LOSS].max()
    prior = numbers.loc[numbers["row"] == "prior", LOG_LOSS].min()
    yield line("expected calibration error of our rows, the worst", "under 0.05", f"{worst:.3f}", worst < 0.05)
    yield line("log loss of our rows, the worst", f"under the prior's {prior:.3f}", f"{loss:.3f}", loss < prior)


def write_page(
    path: Path, trained: Sequence[Trained], curve: Mapping[tuple[str, int], str], sample: Sequence[Trained], small: Path
) -> None:
    """Writes docs/results.md.

    Args:
        path: the file.
        trained: the rows on all of EmoGator.
        curve: by row and seed the runs of `CURVE`.
        sample: the rows on emogator-mini.
        small: a CSV that `benchmarks.small` writes, left out where it is not there.
    """
    numbers, gains = figures(trained), differences(trained)
    runs = {run.row.name: run.run_id for run in trained if not run.seed}
    limits = [("`resnet`", runs["resnet-20"]), ("three `resnet-relative`s in one, k = 2", runs["three"])]
    limits += [(row.title, curve[row.name, 0]) for row in CURVE]
    corpora = pd.read_csv(small) if small.exists() else None
    lines = [
        "# Results on real people",
        "",
        "All of EmoGator: 30 categories, 215 people to learn from, 71 to choose the epoch, 71 others to test. UAR",
        "(chance is 0.033), with its 95% bootstrap interval over resampled speakers; of several seeds the mean and the",
        "range, and the interval of seed 0. Minutes are epochs times the lower quartile of an epoch with validation,",
        f"as other work ran beside some, features being there, on two cores ({processor()}).",
        "",
        "Made by `make results`, which trains what is not there yet. Systems and recipes were chosen by the validation",
        "speakers. The test speakers had been scored once before, with an earlier recipe of `resnet` (0.275).",
        "",
        "![Validation UAR against minutes of training](results.png)",
        "",
        *scores_table(ROWS, numbers),
        "",
        "`right`: clips of the speaker, chosen without their categories; `wrong`: another speaker's; `none`: the",
        "typical speaker stands in; `corrected`: shares corrected by the clips of the speaker without any training.",
        "",
        "## Targets",
        "",
        "They were set before the systems were built; those of k = 2 and 8 over plain were raised after the first",
        "figures. ECE: expected calibration error.",
        "",
        *table(["what", "at least", "reached", ""], list(targets(numbers, gains, corpora))),
        "",
        "## What limits it",
        "",
        "Validation UAR of `resnet`, seed 0, best epoch.",
        "",
        *table(
            ["", "validation UAR", "minutes"],
            [[title, f"{best_of(run):.3f}", f"{minutes_of(run):.1f}"] for title, run in limits],
        ),
        "",
        "## What knowing the speaker is worth",
        "",
        *gains_table(ROWS, gains),
    ]
    if corpora is not None:
        lines += ["", "## Small corpora", "", *small_section(corpora)]
    lines += [
        "",
        "## The 24 people of emogator-mini",
        "",
        "2,160 clips; the test speakers are so few that the intervals say more than the values.",
        "",
        *scores_table(MINI, figures(sample)),
        "",
        "## Commands",
        "",
        "```sh not-run",
        *commands(ROWS, "../EmoGator"),
        *commands(MINI, "<emogator-mini>"),
        "```",
        "",
        "Not run, as they need data under licence or weights of the hub:",
        "",
        "```sh not-run",
        NOT_RUN,
        "```",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def small_section(corpora: pd.DataFrame) -> list[str]:
    """The lines on small corpora."""
    cells = [
        [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()]
        for row in corpora.to_dict("records")
    ]
    mean = corpora[["linear SVM", "frozen"]].mean()
    return [
        "Parts of EmoGator's training speakers, five folds of speakers, pooled UAR (`python -m benchmarks.small`).",
        "All take ComParE 2016; the SVM is scaled, its C chosen on validation; the last two columns are of",
        "`frozen-relative` where nobody enrols a clip, and its difference to `frozen`, by speaker.",
        "",
        *table([str(name) for name in corpora], cells),
        "",
        f"On average the SVM has {mean['linear SVM']:.3f} and `frozen` {mean['frozen']:.3f}.",
    ]


def commands(rows: Sequence[Row], data: str) -> list[str]:
    """The commands that train rows."""
    corpus = ["--corpus", "emogator", "--data", data]
    return [f"exvo {' '.join(training_words(row, 0, corpus, ''))}" for row in rows if not row.svm]


def picture(path: Path, trained: Sequence[Trained]) -> None:
    """Draws validation UAR against minutes of training, a line a row (seed 0), into a file."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for run in trained:
        if run.run_id and not run.seed and run.row.name != "prior":
            history = artifacts.history(run.run_id)
            minutes = (history.index.to_numpy() - history.index[0] + 1) * epoch_minutes(run.run_id)
            axes.plot(minutes, history[UAR], label=run.row.title.replace("`", ""))
    axes.set(xlabel="minutes of training, with validation", ylabel="validation UAR")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=130)
