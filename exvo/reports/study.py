"""The page of a study: how it went, which options mattered, its trials, and what repeats the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from exvo.config import OPTIMIZERS, SEARCHED
from exvo.reports.page import BLUE, GRID, INK, ORANGE, WIDE, Page, Picture, Section, axes, picture
from exvo.reports.tables import Columns, numbers
from exvo.text import SYNTHETIC, default_text
from exvo.tuning.study import best, counts

LOGARITHMIC = ("batch_size", "learning_rate")
NARROW = 3.3
"""Inches of a picture of one option."""


@dataclass(frozen=True)
class About:
    """What the page says beside the trials.

    Attributes:
        study: its name.
        storage: where it is kept, without a password.
        model: the system.
        corpus: its name.
        synthetic: whether a program made it.
        metric: the score on the validation split that the study maximises.
        space: the values of each searched option.
        total: trials that it is to have.
        epochs: of a trial.
        train: the command that repeats the best trial.
        tune: the command that goes on.
        dashboard: the command that opens Optuna's dashboard.
        importances: share of each option, as `Study.importances` gives them.
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


def study_page(trials: pd.DataFrame, about: About) -> Page:
    """The page.

    Args:
        trials: as `Study.table` gives them.
        about: all else.
    """
    top, told = best(trials), counts(trials)
    searched = [name for name in SEARCHED if name in about.space]
    done = trials[trials["state"].isin(["finished", "pruned"])].astype({"score": float})
    tiles = [("trials", f"{told['finished'] + told['pruned']} of {about.total}", states(told))]
    if top is not None:
        tiles.insert(0, (f"best val {about.metric}", f"{top['score']:.4f}", f"trial {top['number']}"))
    sections = [best_section(top, searched, about)]
    if len(done):
        sections.append(Section("History", pictures=[history(trials, about.metric)]))
        sections.append(Section("Options", OPTIONS_TEXT, pictures=[slice_of(done, name, about) for name in searched]))
    sections.append(importance_section(about.importances, told["finished"], len(searched)))
    if told["finished"] > 1 and len(searched) > 1:
        sections.append(Section("Together", TOGETHER_TEXT, pictures=[parallel(done, searched, about.metric)]))
    sections.append(trials_section(trials, searched, about.metric))
    sections.append(Section("Go on", [GO_ON], code=f"{about.tune}\n{about.dashboard}"))
    lines = [
        f"{about.model} on {about.corpus}, val split, {about.epochs} epochs a trial",
        f"study {about.study} in {about.storage}",
    ]
    if about.synthetic:
        lines.append(SYNTHETIC)
    return Page(f"Study of {about.model}", lines, tiles, sections)


OPTIONS_TEXT = ["Each dot is a finished trial, each cross one that was pruned, with its best score until then."]
TOGETHER_TEXT = ["Each line is a finished trial, the fainter the lower its score; the best is thick and orange."]
GO_ON = (
    "The first command goes on with this study where it stopped; `trials` is the total. The second one shows it live."
)
CHOSEN = (
    "It was chosen by its score on the validation split, which is therefore too good by an unknown amount; the more "
    "trials, the more. The test split has not been looked at."
)


def states(told: Mapping[str, int]) -> str:
    """The counts in words.

    >>> states({"finished": 3, "pruned": 0, "failed": 1})
    '3 finished, 0 pruned, 1 failed'
    """
    return ", ".join(f"{number} {state}" for state, number in told.items())


def best_section(top: pd.Series | None, searched: Sequence[str], about: About) -> Section:
    """The best trial's settings and the command that repeats it."""
    space = [about.space[name] for name in searched]
    if top is None:
        return Section(
            "Best trial", ["No trial has finished yet."], table=[("option", [*searched]), ("searched", space)]
        )
    table = [("option", [*searched]), ("best", [default_text(top[name]) for name in searched]), ("searched", space)]
    return Section("Best trial", [CHOSEN], code=about.train, table=table)


def history(trials: pd.DataFrame, metric: str) -> Picture:
    """Score of each trial, the best so far, and which failed."""
    rows = trials.astype({"score": float})
    with axes(WIDE, 2.8) as shown:
        marks(shown, rows, "number")
        finished = rows[rows["state"] == "finished"]
        if len(finished):
            reached = finished["score"].cummax()
            shown.step(
                [*finished["number"], rows["number"].max()], [*reached, reached.max()], where="post", color=ORANGE
            )
        ended = rows[rows["state"].isin(["failed", "killed"])]
        if len(ended):
            foot = shown.get_xaxis_transform()
            shown.plot(ended["number"], [0.02] * len(ended), "|", color=INK, ms=8, transform=foot, label="no score")
        shown.xaxis.set_major_locator(MaxNLocator(integer=True))
        shown.set(xlabel="trial", ylabel=f"val {metric}")
        shown.grid(axis="y")
        shown.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=4, handletextpad=0.1, columnspacing=0.8)
    return picture("history", "Score of each trial; the line is the best so far.", shown)


def marks(shown: Axes, rows: pd.DataFrame, by: str) -> None:
    """Finished trials as dots and pruned ones as crosses, the best in orange."""
    for state, marker, colour in (("pruned", "x", INK), ("finished", "o", BLUE)):
        of_state = rows[rows["state"] == state]
        if len(of_state):
            shown.plot(
                place(of_state[by], by), of_state["score"], marker, color=colour, ms=5, label=state, clip_on=False
            )
    top = best(rows)
    if top is not None:
        shown.plot(
            place(pd.Series([top[by]]), by), [top["score"]], "o", color=ORANGE, ms=7, label="best", clip_on=False
        )


def place(values: pd.Series, name: str) -> np.ndarray:
    """Values of an option as numbers along an axis."""
    if name == "optimizer":
        return np.array([OPTIMIZERS.index(value) for value in values], float)
    numbers = values.to_numpy(float)
    return np.log10(numbers) if name in LOGARITHMIC else numbers


def ticks(values: pd.Series, name: str) -> list[tuple[float, str]]:
    """Places along an option's axis, and what to write there."""
    if name == "optimizer":
        return [(float(number), one) for number, one in enumerate(OPTIMIZERS)]
    low, high = float(values.min()), float(values.max())
    if name == "batch_size":
        shown = [2.0**power for power in range(1, 9) if low <= 2**power <= high]
    elif name == "learning_rate":
        tens = [value for power in range(-6, 3) if low <= (value := 10.0**power) <= high]
        thirds = [value for power in range(-6, 3) if low <= (value := 3 * 10.0**power) <= high]
        shown = tens if len(tens) > 1 else sorted(tens + thirds)
    else:
        shown = [value for value in MaxNLocator(4).tick_values(low, high) if low <= value <= high]
    shown = shown if len(shown) > 1 or low == high == 0 else sorted({*shown, low, high})
    return [(float(place(pd.Series([value]), name)[0]), f"{value:.3g}") for value in shown]


def slice_of(rows: pd.DataFrame, name: str, about: About) -> Picture:
    """Scores against one option."""
    with axes(NARROW, 2.5) as shown:
        marks(shown, rows, name)
        places = ticks(rows[name], name)
        shown.xaxis.set_major_locator(FixedLocator([at for at, _ in places]))
        shown.xaxis.set_minor_locator(NullLocator())
        shown.set_xticks([at for at, _ in places], [text for _, text in places])
        shown.set(xlabel=name, ylabel=f"val {about.metric}")
        shown.margins(x=0.08)
        shown.grid(axis="y")
    return picture(f"slice-{name}", f"Score against {name}; searched: {about.space[name]}.", shown)


def importance_section(found: Mapping[str, float], finished: int, options: int) -> Section:
    """The share of each option as bars, or why there is none."""
    if options < 2:
        return Section("Importances", ["One option alone was searched, so there is nothing to weigh it against."])
    if not found:
        reason = "all their scores are the same" if finished >= 4 else f"four are needed, {finished} have finished"
        return Section("Importances", [f"Nothing can be said yet from the finished trials: {reason}."])
    names, shares = list(found)[::-1], list(found.values())[::-1]
    with axes(WIDE, 0.8 + 0.35 * len(found)) as shown:
        shown.barh(names, shares, color=BLUE, height=0.6)
        shown.set_xlim(0, 1)
        shown.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        shown.set_xlabel("share of the scores' variance")
        shown.grid(axis="x")
    caption = "How much of the differences between finished trials each option explains (fANOVA)."
    table = pd.DataFrame({"option": list(found), "share": list(found.values())})
    doubt = [f"From {finished} trials: a rough guess."] if finished < 20 else []
    return Section("Importances", doubt, pictures=[picture("importances", caption, shown)], numbers=table)


def parallel(done: pd.DataFrame, searched: Sequence[str], metric: str) -> Picture:
    """A line a finished trial across an axis an option, and its score at the end."""
    rows = done[done["state"] == "finished"].sort_values("score", ignore_index=True)
    heights, labels = [], []
    for name in [*searched, "score"]:
        values = place(rows[name], name)
        marked = [(float(value), f"{value:.3f}") for value in (values.min(), values.max())]
        marked = marked if name == "score" else ticks(rows[name], name)
        low = min(values.min(), *(at for at, _ in marked))
        span = max(values.max(), *(at for at, _ in marked)) - low or 1.0
        heights.append((values - low) / span)
        labels.append([((at - low) / span, text) for at, text in marked])
    lines = np.array(heights).T
    with axes(max(WIDE, 1.4 * len(heights)), 3.0) as shown:
        for rank, line in enumerate(lines):
            last = rank == len(lines) - 1
            strength = 0.15 + 0.6 * rank / max(1, len(lines) - 1)
            shown.plot(line, color=ORANGE if last else BLUE, lw=2.5 if last else 1.2, alpha=1.0 if last else strength)
        for column, marked in enumerate(labels):
            shown.axvline(column, color=GRID, lw=0.8, zorder=0)
            for at, text in marked:
                shown.annotate(text, (column, at), xytext=(4, 1), textcoords="offset points", fontsize=8)
        shown.set_xticks(range(len(heights)), [*searched, f"val {metric}"])
        shown.set_xlim(-0.1, len(heights) - 0.6)
        shown.set_yticks([])
        shown.spines[["left", "bottom"]].set_visible(False)
        shown.tick_params(length=0)
    return picture("parallel-coordinates", "Settings and score of each finished trial.", shown)


def trials_section(trials: pd.DataFrame, searched: Sequence[str], metric: str) -> Section:
    """All trials as a table, the best first."""
    rows = trials.astype({"score": float}).sort_values(["score", "number"], ascending=[False, True], na_position="last")
    table: Columns = [
        ("trial", [str(number) for number in rows["number"]]),
        ("state", [str(state) for state in rows["state"]]),
        (f"val {metric}", ["" if np.isnan(score) else numbers([score])[0] for score in rows["score"]]),
        *((name, ["" if pd.isna(value) else default_text(value) for value in rows[name]]) for name in searched),
        ("epochs", [str(number) for number in rows["epochs"]]),
        ("seconds", [f"{seconds:.0f}" for seconds in rows["seconds"]]),
        ("run", [str(run) for run in rows["run_id"]]),
    ]
    if (rows["problem"] != "").any():
        table.append(("why", [str(problem) for problem in rows["problem"]]))
    return Section("Trials", table=table, numbers=trials)
