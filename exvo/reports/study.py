"""The page of a study: its trials and their scores, which options mattered, and how to repeat the best trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from exvo.config import OPTIMIZERS, SCHEDULES, SEARCHED
from exvo.reports.names import score_name
from exvo.reports.page import BLUE, GRID, INK, ORANGE, WIDE, Page, Picture, Section, Tile, axes, legend, make_picture
from exvo.reports.tables import Column, number_texts, range_text
from exvo.text import SYNTHETIC, default_text
from exvo.tuning.study import best, counts

LOGARITHMIC = ("batch_size", "learning_rate", "weight_decay")
"""Options whose axis is logarithmic."""

CHOICES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
"""Options whose values are words."""

NARROW = 3.3
"""Width in inches of a picture of one option."""


@dataclass(frozen=True)
class StudyFacts:
    """What the page says beside the trials.

    Attributes:
        study: its name.
        storage: where it is kept, without a password.
        model: the system.
        corpus: its name.
        synthetic: whether a program made it.
        metric: the score on the validation split that the study maximises.
        space: the values of each searched option.
        total: trials that it shall have.
        epochs: of a trial.
        train: the command that repeats the best trial.
        tune: the command that continues the study.
        dashboard: the command that opens Optuna's dashboard.
        importances: by option, as `Study.importances` gives them.
        seeds: of other seeds with which the best trial was trained, each one's score; empty: it was not.
    """

    study: str
    storage: str
    model: str
    corpus: str
    synthetic: bool
    metric: str
    space: Mapping[str, str]
    total: int
    epochs: int
    train: str
    tune: str
    dashboard: str
    importances: Mapping[str, float]
    seeds: Mapping[int, float] = field(default_factory=dict)


def study_page(trials: pd.DataFrame, facts: StudyFacts) -> Page:
    """The page of a study.

    Args:
        trials: as `Study.table` gives them.
        facts: everything else.
    """
    top, number_of = best(trials), counts(trials)
    searched = [name for name in SEARCHED if name in facts.space]
    done = trials[trials["state"].isin(["finished", "pruned"])].astype({"score": float})
    tiles = [Tile("trials", f"{len(done)} of {facts.total}", states_text(number_of))]
    if top is not None:
        tiles.insert(0, Tile(f"best val {score_name(facts.metric)}", f"{top['score']:.4f}", f"trial {top['number']}"))
    sections = [best_section(top, searched, facts)]
    if facts.seeds:
        sections.append(seeds_section(facts))
    if len(done):
        sections.append(Section("History", pictures=[history(trials, facts.metric)]))
        sections.append(
            Section("Options one by one", [DOTS], pictures=[slice_of(done, name, facts) for name in searched])
        )
    importance = importance_section(facts.importances, number_of["finished"], len(searched))
    sections += [] if importance is None else [importance]
    if number_of["finished"] > 1 and len(searched) > 1:
        sections.append(Section("All options at once", [LINES], pictures=[parallel(done, searched, facts.metric)]))
    sections.append(trials_section(trials, searched, facts.metric))
    sections.append(Section("Continue or watch the study", [CONTINUE], code=f"{facts.tune}\n{facts.dashboard}"))
    lead = "No trial has finished yet."
    if top is not None:
        lead = (
            f"The best of {number_of['finished']} finished trials, number {top['number']}, reaches a "
            f"{score_name(facts.metric)} of {top['score']:.4f} on the validation split, by which it was chosen."
        )
        if facts.seeds:
            mean = float(np.mean(list(facts.seeds.values())))
            lead += f" With {len(facts.seeds)} other seeds its options reach {mean:.4f} on average."
    lines = [
        f"{facts.model} on {facts.corpus}, val split, {facts.epochs} epochs a trial",
        f"study {facts.study} in {facts.storage}",
    ]
    if facts.synthetic:
        lines.append(SYNTHETIC)
    return Page(f"Study of {facts.model}", lines, tiles, sections, lead)


DOTS = (
    "Each dot is a finished trial. Each cross is a pruned one, that is, stopped early because of its low scores; it "
    "stands at its best score until then."
)
LINES = (
    "Each line is a finished trial: it meets the axis of each option at the value that the trial used, and the last "
    "axis at its score. The lower the score, the fainter the line; the best trial is thick and orange."
)
CONTINUE = (
    "The first command continues this study where it stopped; the option trials is how many it shall have in all. The "
    "second opens Optuna's dashboard, which shows the study live."
)
DASHBOARD = (
    "Optuna's dashboard shows other bars: they are PED-ANOVA's, which asks what tells the best trials from the others; "
    "these ask what makes the scores of all trials differ."
)
SEEDS = (
    "None of these seeds had a part in choosing the trial, so their mean is free of the luck of its own seed; the "
    "options were chosen on these validation clips all the same. Their run has the intervals, and each seed's run "
    "beneath it."
)
CHOSEN = (
    "The command repeats it. It was chosen by its score on the validation split, so that score is too good by an "
    "unknown amount, which grows with the number of trials. The test split has not been used."
)


def states_text(number_of: Mapping[str, int]) -> str:
    """The numbers of trials in each state, in words.

    >>> states_text({"finished": 3, "pruned": 0, "failed": 1})
    '3 finished, 0 pruned, 1 failed'
    """
    return ", ".join(f"{number} {state}" for state, number in number_of.items())


def best_section(top: pd.Series | None, searched: Sequence[str], facts: StudyFacts) -> Section:
    """The best trial's settings and the command that repeats it."""
    space = [facts.space[name] for name in searched]
    if top is None:
        return Section(
            "Best trial",
            table=[Column("option", [*searched]), Column("searched", space)],
        )
    table = [
        Column("option", [*searched]),
        Column("best", [default_text(top[name]) for name in searched]),
        Column("searched", space),
    ]
    return Section("Best trial", [CHOSEN], code=facts.train, table=table)


def seeds_line(scores: Sequence[float], metric: str) -> str:
    """The mean of some seeds' scores, the range and each.

    >>> seeds_line([0.41, 0.39, 0.43], "category_uar")
    'val UAR 0.4100 on average, 0.3900 to 0.4300 (0.4100, 0.3900, 0.4300)'
    """
    return f"val {score_name(metric)} {float(np.mean(scores)):.4f} on average, {range_text(scores)}"


def seeds_section(facts: StudyFacts) -> Section:
    """What the options of the best trial reach with other seeds."""
    table = pd.DataFrame({"seed": list(facts.seeds), "score": list(facts.seeds.values())})
    text = [f"{seeds_line(list(facts.seeds.values()), facts.metric)}. {SEEDS}"]
    columns = [
        Column("seed", table["seed"].astype(str).tolist()),
        Column(f"val {score_name(facts.metric)}", number_texts(table["score"])),
    ]
    return Section("The best trial with other seeds", text, table=columns, numbers=table)


def history(trials: pd.DataFrame, metric: str) -> Picture:
    """The score of each trial, the best so far, and the trials without a score."""
    rows = trials.astype({"score": float})
    with axes(WIDE, 2.8) as ax:
        marks(ax, rows, "number")
        finished = rows[rows["state"] == "finished"]
        if len(finished):
            record = finished["score"].cummax()
            ax.step([*finished["number"], rows["number"].max()], [*record, record.max()], where="post", color=ORANGE)
        ended = rows[rows["state"].isin(["failed", "killed"])]
        if len(ended):
            foot = ax.get_xaxis_transform()
            ax.plot(ended["number"], [0.02] * len(ended), "|", color=INK, ms=8, transform=foot, label="no score")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="trial", ylabel=f"val {score_name(metric)}")
        ax.grid(axis="y")
        legend(ax)
    return make_picture("history", "Score of each trial; the line is the best so far.", ax)


def marks(ax: Axes, rows: pd.DataFrame, by: str) -> None:
    """Finished trials as dots and pruned ones as crosses, the best in orange."""
    for state, marker, colour in (("pruned", "x", INK), ("finished", "o", BLUE)):
        of_state = rows[rows["state"] == state]
        if len(of_state):
            ax.plot(
                positions(of_state[by], by), of_state["score"], marker, color=colour, ms=5, label=state, clip_on=False
            )
    top = best(rows)
    if top is not None:
        ax.plot(
            positions(pd.Series([top[by]]), by), [top["score"]], "o", color=ORANGE, ms=7, label="best", clip_on=False
        )


def positions(values: pd.Series, name: str) -> np.ndarray:
    """The values of an option, or scores, as positions along an axis."""
    if name in CHOICES:
        return np.array([CHOICES[name].index(value) for value in values], float)
    along = values.to_numpy(float)
    return np.log10(along) if name in LOGARITHMIC else along


def ticks(values: pd.Series, name: str) -> list[tuple[float, str]]:
    """The ticks of an option's axis: their positions and labels."""
    if name in CHOICES:
        return [(float(index), choice) for index, choice in enumerate(CHOICES[name])]
    low, high = float(values.min()), float(values.max())
    if name == "batch_size":
        marked = [2.0**power for power in range(1, 9) if low <= 2**power <= high]
    elif name in ("learning_rate", "weight_decay"):
        tens = [value for power in range(-6, 3) if low <= (value := 10.0**power) <= high]
        thirds = [value for power in range(-6, 3) if low <= (value := 3 * 10.0**power) <= high]
        marked = tens if len(tens) > 1 else sorted(tens + thirds)
    else:
        marked = [value for value in MaxNLocator(4).tick_values(low, high) if low <= value <= high]
    marked = marked if len(marked) > 1 or low == high == 0 else sorted({*marked, low, high})
    return [(float(positions(pd.Series([value]), name)[0]), f"{value:.3g}") for value in marked]


def slice_of(rows: pd.DataFrame, name: str, facts: StudyFacts) -> Picture:
    """Scores against one option."""
    with axes(NARROW, 2.5) as ax:
        marks(ax, rows, name)
        labelled = ticks(rows[name], name)
        ax.xaxis.set_major_locator(FixedLocator([at for at, _ in labelled]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks([at for at, _ in labelled], [text for _, text in labelled])
        ax.set(xlabel=name, ylabel=f"val {score_name(facts.metric)}")
        ax.margins(x=0.08)
        ax.grid(axis="y")
    return make_picture(f"slice-{name}", f"Score against {name}; searched: {facts.space[name]}.", ax)


def importance_section(importances: Mapping[str, float], finished: int, searched: int) -> Section | None:
    """The importance of each option as bars; None: one option alone was searched, or too few trials have finished.

    Args:
        importances: share of the scores' variance by option, the largest first.
        finished: trials.
        searched: options.
    """
    if searched < 2 or not importances:
        return None
    names, shares = list(importances)[::-1], list(importances.values())[::-1]
    with axes(WIDE, 0.8 + 0.35 * len(importances)) as ax:
        ax.barh(names, shares, color=BLUE, height=0.6)
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        ax.set_xlabel("share of the scores' variance")
        ax.grid(axis="x")
    caption = "The share of the variance of finished trials' scores that each option explains (fANOVA)."
    table = pd.DataFrame({"option": list(importances), "share": list(importances.values())})
    text = [f"Estimated from {finished} trials only, so a rough guess."] if finished < 20 else []
    text.append(DASHBOARD)
    return Section("Importances", text, pictures=[make_picture("importances", caption, ax)], numbers=table)


def parallel(done: pd.DataFrame, searched: Sequence[str], metric: str) -> Picture:
    """Parallel coordinates: a line for each finished trial, across an axis for each option to that of its score."""
    rows = done[done["state"] == "finished"].sort_values("score", ignore_index=True)
    heights, labels = [], []
    for name in [*searched, "score"]:
        values = positions(rows[name], name)
        marked = [(float(value), f"{value:.3f}") for value in (values.min(), values.max())]
        marked = marked if name == "score" else ticks(rows[name], name)
        low = min(values.min(), *(at for at, _ in marked))
        span = max(values.max(), *(at for at, _ in marked)) - low or 1.0
        heights.append((values - low) / span)
        labels.append([((at - low) / span, text) for at, text in marked])
    lines = np.array(heights).T
    with axes(max(WIDE, 1.4 * len(heights)), 3.0) as ax:
        for rank, line in enumerate(lines):
            last = rank == len(lines) - 1
            strength = 0.15 + 0.6 * rank / max(1, len(lines) - 1)
            ax.plot(line, color=ORANGE if last else BLUE, lw=2.5 if last else 1.2, alpha=1.0 if last else strength)
        for column, marked in enumerate(labels):
            ax.axvline(column, color=GRID, lw=0.8, zorder=0)
            for at, text in marked:
                ax.annotate(text, (column, at), xytext=(4, 1), textcoords="offset points", fontsize=8)
        ax.set_xticks(range(len(heights)), [*searched, f"val {score_name(metric)}"])
        ax.set_xlim(-0.1, len(heights) - 0.6)
        ax.set_yticks([])
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.tick_params(length=0)
    return make_picture("parallel-coordinates", "Settings and score of each finished trial.", ax)


def trials_section(trials: pd.DataFrame, searched: Sequence[str], metric: str) -> Section:
    """All trials as a table, the best first."""
    rows = trials.astype({"score": float}).sort_values(["score", "number"], ascending=[False, True], na_position="last")
    table = [
        Column("trial", [str(number) for number in rows["number"]]),
        Column("state", [str(state) for state in rows["state"]]),
        Column(
            f"val {score_name(metric)}",
            ["" if np.isnan(score) else number_texts([score])[0] for score in rows["score"]],
        ),
        *(Column(name, ["" if pd.isna(value) else default_text(value) for value in rows[name]]) for name in searched),
        Column("epochs", [str(number) for number in rows["epochs"]]),
        Column("seconds", [f"{seconds:.0f}" for seconds in rows["seconds"]]),
        Column("run", [str(run) for run in rows["run_id"]]),
    ]
    if (rows["problem"] != "").any():
        table.append(Column("problem", [str(problem) for problem in rows["problem"]]))
    return Section("Trials", table=table, numbers=trials)
