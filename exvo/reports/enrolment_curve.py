"""What enrolment is worth, in words and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from exvo.evaluation import scoring
from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.evaluation.enrolment_curve import SHOTS
from exvo.evaluation.groups import CLIP, SPEAKER
from exvo.reports.page import BLUE, ORANGE, WIDE, Page, Picture, Section, axes, make_picture
from exvo.reports.tables import Column, interval_texts, number_texts
from exvo.tasks import Task


def curve_conclusion(curve: pd.DataFrame, metric: str, shots: int = 2) -> str:
    """What the curve shows, in a sentence: whether the right speaker's clips help more than another's.

    Args:
        curve: as `evaluation.enrolment_curve` gives it.
        metric: one of its scores.
        shots: enrolment clips of the point that the sentence is about.
    """
    row = curve[(curve["metric"] == metric) & (curve["shots"] == shots) & (curve["enrolment"] == "right")].iloc[0]
    difference = (row[f"right_over_wrong{end}"] for end in ("", "_lo", "_hi"))
    return enrolment_conclusion(f"{metric} with {shots} clips of the right speaker", *difference)


def enrolment_conclusion(score: str, difference: float, low: float, high: float) -> str:
    """Whether a score is better with the right speaker's clips than with another's, in a sentence.

    Args:
        score: what to call it.
        difference: right - another's.
        low, high: its 95% interval.
    """
    if math.isnan(low):
        return f"{score} has no defined difference to another's: nothing is shown about speakers."
    begin = f"{score} is {difference:+.3f} [{low:.3f}, {high:.3f}] over another's"
    if low > 0:
        return f"{begin}: the model uses who is speaking."
    return f"{begin}: nothing shows that the model has learnt anything about speakers."


def enrolment_section(
    right: pd.DataFrame, others: Mapping[str, pd.DataFrame], task: Task, speakers: np.ndarray | None
) -> Section:
    """What enrolment clips are worth on one split: the speaker's own against none and against another speaker's.

    Args:
        right: the scored rows of a predictions table.
        others: predictions tables with all these rows: `typical`, with the typical profile, and `wrong`, with the clips
            of another speaker.
        task: of all of them.
        speakers: (rows,), to resample; None resamples clips.
    """
    meanings = {
        "right": "the speaker's own clips",
        "typical": "none (the typical profile)",
        "wrong": "another speaker's",
    }
    tables = {"right": right} | {name: right[["file"]].merge(table, on="file") for name, table in others.items()}
    statistics = {name: scoring.statistics(table, task) for name, table in tables.items()}
    metric, unit = scoring.headline(task), CLIP if speakers is None else SPEAKER
    values = pd.Series({name: clips.scores()[metric] for name, clips in statistics.items()})
    samples = {name: bootstrap(clips, groups=speakers)[[metric]] for name, clips in statistics.items()}
    table = pd.DataFrame({"enrolment": values.index, "value": values.to_numpy()})
    table["right_over_it"] = values["right"] - table["value"]
    differences = {name: samples["right"] - sample for name, sample in samples.items()}
    for suffix, resampled in (("", samples), ("_difference", differences)):
        bounds = pd.concat([interval(resampled[name])[["ci_low", "ci_high"]] for name in values.index])
        table[[f"lo{suffix}", f"hi{suffix}"]] = bounds.to_numpy()
    other = table.iloc[1:]
    columns = [
        Column("enrolment", table["enrolment"].map(meanings).tolist()),
        Column(metric, number_texts(table["value"], 3)),
        Column(f"95% by {unit.name}", interval_texts(table["lo"], table["hi"], 3)),
        Column("own clips better by", ["", *number_texts(other["right_over_it"], 3)]),
        Column(f"95% by {unit.name}", ["", *interval_texts(other["lo_difference"], other["hi_difference"], 3)]),
    ]
    (wrong,) = table[table["enrolment"] == "wrong"].to_dict("records")
    difference = (wrong[name] for name in ("right_over_it", "lo_difference", "hi_difference"))
    text = enrolment_conclusion(f"{metric} with the right speaker's clips", *difference)
    return Section("Enrolment", [text], table=columns, numbers=table)


def curve_page(curve: pd.DataFrame, metrics: Sequence[str], title: str, about: str) -> Page:
    """The page of an enrolment curve: for each metric a sentence, a picture and a table.

    Args:
        curve: as `evaluation.enrolment_curve` gives it.
        metrics: the first is the headline.
        title: of the page.
        about: the line under it.
    """
    sections = []
    for metric in metrics:
        table = curve[curve["metric"] == metric].drop(columns=["metric", "n"]).reset_index(drop=True)
        columns = [
            Column("enrolment clips", [f"{shots} ({who})" for shots, who in table[["shots", "enrolment"]].to_numpy()])
        ]
        for name, title_of_column, prefix in (
            ("value", metric, ""),
            ("gain", "over none", "gain_"),
            ("right_over_wrong", "right over wrong", "right_over_wrong_"),
        ):
            intervals = interval_texts(table[f"{prefix}lo"], table[f"{prefix}hi"], 3)
            cells = zip(number_texts(table[name], 3), intervals, strict=True)
            texts = ["" if value == "undefined" else f"{value} {interval_text}" for value, interval_text in cells]
            columns.append(Column(title_of_column, texts))
        text, pictures = [curve_conclusion(curve, metric)], [curve_picture(curve, metric)]
        sections.append(Section(metric, text, pictures=pictures, table=columns, numbers=table))
    return Page(title, [about, "Brackets and shades are 95% intervals over resampled speakers."], [], sections)


def curve_picture(curve: pd.DataFrame, metric: str) -> Picture:
    """The metric against the number of enrolment clips, right and wrong, with 95% intervals by speaker."""
    points = curve[curve["metric"] == metric]
    typical = points[points["enrolment"] == "typical"]
    with axes(WIDE, 3.2) as ax:
        for enrolment, colour in (("right", BLUE), ("wrong", ORANGE)):
            line = pd.concat([typical, points[points["enrolment"] == enrolment]])
            places = range(len(line))
            ax.fill_between(places, line["lo"], line["hi"], color=colour, alpha=0.15, linewidth=0)
            ax.plot(places, line["value"], "o-", color=colour, ms=4, label=f"{enrolment} speaker's clips")
        ax.set_xticks(range(len(SHOTS) + 1), ["0", *map(str, SHOTS)])
        ax.set(xlabel="enrolment clips (0: the typical profile)", ylabel=metric)
        ax.grid()
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0, borderaxespad=0.3)
    return make_picture(metric, f"{metric} by the number of enrolment clips", ax)
