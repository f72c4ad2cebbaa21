"""What enrolment is worth, in words and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from exvo.evaluation import scoring
from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.evaluation.enrolment_curve import SHOTS
from exvo.reports.page import BLUE, ORANGE, WIDE, Page, Picture, Section, axes
from exvo.reports.page import picture as make_picture
from exvo.reports.tables import Columns, intervals, numbers
from exvo.tasks import Task


def conclusion(curve: pd.DataFrame, metric: str, shots: int = 2) -> str:
    """What the curve says, in a sentence: whether the right speaker's clips help more than another's."""
    row = curve[(curve["metric"] == metric) & (curve["shots"] == shots) & (curve["enrolment"] == "right")].iloc[0]
    ends = (row[f"right_over_wrong{end}"] for end in ("", "_lo", "_hi"))
    return sentence(f"{metric} with {shots} clips of the right speaker", *ends)


def sentence(score: str, difference: float, low: float, high: float) -> str:
    """Whether a score is better with the right speaker's clips than with another's, beyond its 95% interval."""
    if math.isnan(low):
        return f"{score} has no defined difference to another's: nothing is shown about speakers."
    told = f"{score} is {difference:+.3f} [{low:.3f}, {high:.3f}] over another's"
    if low > 0:
        return f"{told}: the model uses who is speaking."
    return f"{told}: nothing shows that the model has learnt anything about speakers."


def enrolment_section(
    right: pd.DataFrame, others: Mapping[str, pd.DataFrame], task: Task, speakers: np.ndarray | None
) -> Section:
    """What the clips that enrol are worth on one split, against no clips and against another speaker's.

    Args:
        right: the scored rows of a predictions table.
        others: the predictions tables of `typical` profiles and of `wrong` speakers, with all these rows.
        task: of all of them.
        speakers: (rows,), to resample; None: clips are resampled.
    """
    meaning = {
        "right": "the speaker's own clips",
        "typical": "none (the typical profile)",
        "wrong": "another speaker's",
    }
    tables = {"right": right} | {name: right[["file"]].merge(table, on="file") for name, table in others.items()}
    every = {name: scoring.statistics(table, task) for name, table in tables.items()}
    metric, unit = scoring.headline(task), "clip" if speakers is None else "speaker"
    samples = {name: bootstrap(one, groups=speakers)[[metric]] for name, one in every.items()}
    rows = []
    for name, one in every.items():
        row: dict[str, Any] = {"enrolment": name, "value": one.scores()[metric]}
        row["right_over_it"] = every["right"].scores()[metric] - row["value"]
        for ends, of in (("", samples[name]), ("_difference", samples["right"] - samples[name])):
            row[f"lo{ends}"], row[f"hi{ends}"] = interval(of)[["ci_low", "ci_high"]].to_numpy()[0]
        rows.append(row)
    table = pd.DataFrame(rows)
    other = table.iloc[1:]
    columns: Columns = [
        ("enrolment", table["enrolment"].map(meaning).tolist()),
        (metric, numbers(table["value"], 3)),
        (f"95% by {unit}", intervals(table["lo"], table["hi"], 3)),
        ("own clips better by", ["", *numbers(other["right_over_it"], 3)]),
        (f"95% by {unit}", ["", *intervals(other["lo_difference"], other["hi_difference"], 3)]),
    ]
    (wrong,) = table[table["enrolment"] == "wrong"].to_dict("records")
    told = sentence(
        f"{metric} with the right speaker's clips",
        *(wrong[name] for name in ("right_over_it", "lo_difference", "hi_difference")),
    )
    return Section("Enrolment", [told], table=columns, numbers=table)


def page(curve: pd.DataFrame, metrics: Sequence[str], title: str, about: str) -> Page:
    """The curve of each of some metrics: its sentence, picture and table.

    Args:
        curve: as `enrolment_curve` gives it.
        metrics: the first is the headline.
        title: of the page.
        about: the line under it.
    """
    sections = []
    for metric in metrics:
        table = curve[curve["metric"] == metric].drop(columns=["metric", "n"]).reset_index(drop=True)
        columns: Columns = [
            ("enrolment clips", [f"{shots} ({who})" for shots, who in table[["shots", "enrolment"]].to_numpy()])
        ]
        for name, told, low, high in (
            ("value", metric, "lo", "hi"),
            ("gain", "over none", "gain_lo", "gain_hi"),
            ("right_over_wrong", "right over wrong", "right_over_wrong_lo", "right_over_wrong_hi"),
        ):
            bounds = [*zip(numbers(table[name], 3), intervals(table[low], table[high], 3), strict=True)]
            columns.append((told, ["" if value == "undefined" else f"{value} {ends}" for value, ends in bounds]))
        sections.append(
            Section(
                metric, [conclusion(curve, metric)], pictures=[picture(curve, metric)], table=columns, numbers=table
            )
        )
    return Page(title, [about, "Brackets and shades are 95% intervals over resampled speakers."], [], sections)


def picture(curve: pd.DataFrame, metric: str) -> Picture:
    """The metric against the number of enrolment clips, right and wrong, with 95% intervals by speaker."""
    every = curve[curve["metric"] == metric]
    typical = every[every["enrolment"] == "typical"]
    with axes(WIDE, 3.2) as shown:
        for enrolment, colour in (("right", BLUE), ("wrong", ORANGE)):
            line = pd.concat([typical, every[every["enrolment"] == enrolment]])
            places = range(len(line))
            shown.fill_between(places, line["lo"], line["hi"], color=colour, alpha=0.15, linewidth=0)
            shown.plot(places, line["value"], "o-", color=colour, ms=4, label=f"{enrolment} speaker's clips")
        shown.set_xticks(range(len(SHOTS) + 1), ["0", *map(str, SHOTS)])
        shown.set(xlabel="enrolment clips (0: the typical profile)", ylabel=metric)
        shown.grid()
        shown.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0, borderaxespad=0.3)
    return make_picture(metric, f"{metric} by the number of enrolment clips", shown)
