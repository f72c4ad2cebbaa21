"""docs/results.md: the figures of the kept results, what knowing the speaker is worth, the targets, and a picture."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.kept import SCORES, Result
from benchmarks.rows import MINI, ROWS, Row, training_words
from exvo.evaluation.calibration import ECE, LOG_LOSS
from exvo.evaluation.pairwise import paired, same_clips
from exvo.evaluation.scoring import UAR
from exvo.tasks import task_of

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


def figures(results: Sequence[Result]) -> pd.DataFrame:
    """A row a run and way to enrol: row, seed, machine, minutes, and the record of `Result.scores`."""
    records = [
        {"row": one.row, "seed": one.seed, "machine": one.machine, "minutes": one.minutes} | dict(scores)
        for one in results
        for scores in one.scores
    ]
    ends = ("lo_by_speaker", "hi_by_speaker")
    return pd.DataFrame(records, columns=["row", "seed", "machine", "minutes", "enrolment", *SCORES, *ends])


def differences(results: Sequence[Result], rows: Sequence[Row]) -> pd.DataFrame:
    """What knowing the speaker is worth, paired by speaker: of each seed, over the plain row and over itself.

    Returns:
        row, seed, `what` (such as 'right-2 - plain'), value, and its interval by speaker.
    """
    against = {row.name: row.against for row in rows}
    all_of_them = {(one.row, one.seed): one for one in results}
    pairs = [("typical", "plain"), *((f"right-{k}", "plain") for k in SHOTS)]
    pairs += [(f"right-{k}", f"{name}-{k}") for k in SHOTS for name in ("wrong", "permuted", "corrected")]
    gains = []
    for one in results:
        plain = all_of_them.get((against[one.row], one.seed))
        for first, second in pairs:
            better = one.table(first)
            beside = plain if second == "plain" else one
            other = beside.table(second) if beside else None
            if better is None or other is None:
                continue
            a, b = same_clips(other, better)
            difference = paired(a, b, task_of(a)).set_index("metric").loc[UAR]
            ends = {end: difference[end] for end in ("lo_by_speaker", "hi_by_speaker")}
            what = f"{first} - {second}"
            gains.append({"row": one.row, "seed": one.seed, "what": what, "value": difference["value"]} | ends)
    return pd.DataFrame(gains, columns=["row", "seed", "what", "value", "lo_by_speaker", "hi_by_speaker"])


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    ruler = ["---"] * len(titles)
    return [f"| {' | '.join(row)} |" for row in (titles, ruler, *rows)]


def scores_table(rows: Sequence[Row], results: Sequence[Result]) -> list[str]:
    """The table of scores, and the machines: of several seeds the mean and the range, and the interval of the first."""
    numbers = figures(results)
    machines = dict(zip(numbers["machine"].unique(), "abcdefgh", strict=False))
    cells, missing = [], []
    for row in rows:
        there = numbers[numbers["row"] == row.name]
        seeds = there["seed"].nunique()
        if row.is_scored and seeds < row.seeds:
            missing.append(f"{row.title} ({seeds} of {row.seeds} seeds)" if seeds else row.title)
        for enrolment, group in there.groupby("enrolment", sort=False):
            first, uars = group.iloc[0], group[UAR]
            spread = f" ({uars.min():.3f} to {uars.max():.3f})" if len(group) > 1 else ""
            cells.append(
                [
                    row.title,
                    str(enrolment).replace("typical", "none").replace("-", ", k = "),
                    f"{uars.mean():.3f}{spread} [{first['lo_by_speaker']:.3f}, {first['hi_by_speaker']:.3f}]",
                    f"{group['category_accuracy'].mean():.3f}",
                    "" if pd.isna(first[ECE]) else f"{group[ECE].astype(float).mean():.3f}",
                    f"{first['minutes']:.1f} {machines[first['machine']]}",
                    str(len(group)),
                ]
            )
    legend = "; ".join(f"{letter}: two cores, {name}" for name, letter in machines.items())
    lines = table(["row", "enrolment", "UAR", "accuracy", "ECE", "minutes", "seeds"], cells)
    lines += ["", f"Minutes of training with validation, features being there, of the first seed. {legend}."]
    if missing:
        lines += ["", f"**Not trained yet**: {'; '.join(missing)}."]
    return lines


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
    """What was aimed at before anything was trained, what was reached, and whether that is enough.

    Only rows of which all seeds are there count.
    """
    seeds = numbers.groupby("row")["seed"].nunique()
    complete = [row.name for row in ROWS if seeds.get(row.name) == row.seeds]
    numbers, gains = (each[each["row"].isin(complete)] for each in (numbers, gains))
    used = numbers[~numbers["enrolment"].str.match("wrong|permuted|corrected")]

    def uar(name: str, enrolment: str = "plain") -> float:
        return float(used[(used["row"] == name) & (used["enrolment"] == enrolment)][UAR].mean())

    def gain(name: str, what: str) -> pd.DataFrame:
        return gains[(gains["row"] == name) & (gains["what"] == what)]

    def line(what: str, aim: str, reached: str, met: bool) -> list[str]:
        is_there = reached not in ("nan", "+nan", "")
        return [what, aim, *((reached, "met" if met else "missed") if is_there else ("", "not trained yet"))]

    for name, enrolment, title, least, most in (
        ("resnet-20", "plain", "`resnet` from scratch", 0.30, 20),
        ("three", "typical", "three `resnet-relative`s in one, no clips", 0.35, 60),
    ):
        value, minutes = uar(name, enrolment), numbers.loc[numbers["row"] == name, "minutes"].max()
        reached = "" if pd.isna(value) else f"{value:.3f} in {minutes:.0f} minutes"
        met = value >= least and minutes <= most
        yield line(f"{title}, test UAR", f"{least:.2f} in {most} minutes", reached, met)
    ratio = uar("resnet-20") / np.max([uar("cnn14"), uar("cnn14-attention", "right-2")])
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
    ours = used[used["row"].isin(OURS if set(OURS) <= set(complete) else ())]
    worst, loss = ours[ECE].max(), ours[LOG_LOSS].max()
    prior = numbers.loc[numbers["row"] == "prior", LOG_LOSS].min()
    known = "" if pd.isna(prior) else f" {prior:.3f}"
    yield line("expected calibration error of our rows, the worst", "under 0.05", f"{worst:.3f}", worst < 0.05)
    yield line("log loss of our rows, the worst", f"under the prior's{known}", f"{loss:.3f}", loss < prior)


def limits(results: Sequence[Result]) -> list[str]:
    """The table of what more data, width and time are worth: validation alone."""
    titles = {row.name: row.title for row in ROWS if not row.is_scored or row.name in ("resnet-20", "three")}
    firsts = [one for one in results if one.row in titles and not one.seed]
    return table(
        ["", "validation UAR", "minutes"],
        [[titles[one.row], f"{one.best:.3f}", f"{one.minutes:.1f}"] for one in firsts],
    )


def write_page(path: Path, results: Mapping[str, Sequence[Result]], small: Path) -> None:
    """Writes docs/results.md.

    Args:
        path: the file.
        results: by corpus, those of `CORPORA`.
        small: a CSV that `benchmarks.small` writes, left out where it is not there.
    """
    every, sample = results["emogator"], results["emogator-mini"]
    numbers, gains = figures(every), differences(every, ROWS)
    corpora = pd.read_csv(small) if small.exists() else None
    lines = [
        "# Results on real people",
        "",
        "All of EmoGator: 30 categories, 215 people to learn from, 71 to choose the epoch, 71 others to test. UAR",
        "(chance is 0.033), with its 95% bootstrap interval over resampled speakers; of several seeds the mean and the",
        "range, and the interval of seed 0.",
        "",
        "Made by `make results`, which trains what is not there yet. `docs/results` keeps what each run heard in each",
        "test clip, so that another system can be compared with it clip by clip. Systems and recipes were chosen by",
        "the validation speakers. The test speakers had been scored once before, with an earlier recipe of `resnet`",
        "(0.275).",
        "",
        "![Validation UAR against minutes of training](results.png)",
        "",
        *scores_table(ROWS, every),
        "",
        "`right`: clips of the speaker, chosen without their categories; `wrong`: another speaker's; `none`: the",
        "typical speaker stands in; `corrected`: shares corrected by the clips of the speaker without any training.",
        "ECE: expected calibration error.",
        "",
        "## Targets",
        "",
        "They were set before the systems were built; those of k = 2 and 8 over plain were raised after the first",
        "figures.",
        "",
        *table(["what", "at least", "reached", ""], list(targets(numbers, gains, corpora))),
        "",
    ]
    if any(one.row == "resnet-20" for one in every):
        lines += ["## What limits it", "", "Validation UAR of the best epoch, seed 0.", "", *limits(every), ""]
    lines += ["## What knowing the speaker is worth", "", *gains_table(ROWS, gains), ""]
    if corpora is not None:
        lines += ["## Small corpora", "", *small_section(corpora), ""]
    lines += [
        "## The 24 people of emogator-mini",
        "",
        "2,160 clips, 30 categories; the test speakers are so few that the intervals say more than the values.",
        "",
        *scores_table(MINI, sample),
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


def picture(path: Path, results: Sequence[Result]) -> None:
    """Draws validation UAR against minutes of training, a line a row (seed 0), into a file."""
    titles = {row.name: row.title.replace("`", "") for row in ROWS}
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for one in results:
        if one.epochs and not one.seed and one.row != "prior":
            axes.plot(*zip(*one.epochs, strict=True), label=titles[one.row])
    axes.set(xlabel="minutes of training, with validation", ylabel="validation UAR")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=130)
