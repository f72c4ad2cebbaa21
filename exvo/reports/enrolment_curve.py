"""The enrolment curve in words and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from exvo.evaluation.enrolment_curve import SHOTS
from exvo.reports.enrolment import Effect, enrolment_verdict
from exvo.reports.names import score_name
from exvo.reports.page import BLUE, ORANGE, WIDE, Page, Picture, Section, axes, legend, make_picture
from exvo.reports.tables import Column, interval_texts, number_texts


def curve_conclusion(curve: pd.DataFrame, metric: str, shots: int = 2) -> str:
    """Whether enrolment helps, see `enrolment_verdict`.

    Args:
        curve: as `evaluation.enrolment_curve` gives it; those of early versions lack `speakers`.
        metric: one of its scores.
        shots: enrolment clips of the point that the sentence is about.
    """
    row = curve[(curve["metric"] == metric) & (curve["shots"] == shots) & (curve["enrolment"] == "right")].iloc[0]
    gain, over_wrong = (
        Effect(*(float(row[f"{name}{end}"]) for end in ("", "_lo", "_hi"))) for name in ("gain", "right_over_wrong")
    )
    speakers = int(row["speakers"]) if "speakers" in curve else None
    return enrolment_verdict(score_name(metric), gain, over_wrong, None, speakers, shots)


def curve_page(curve: pd.DataFrame, metrics: Sequence[str], title: str, about: str) -> Page:
    """The page of an enrolment curve: the verdict, then for each metric a picture and a table.

    Args:
        curve: as `evaluation.enrolment_curve` gives it.
        metrics: the first is the headline.
        title: of the page.
        about: the line under it.
    """
    sections = []
    for metric in metrics:
        text = [] if metric == metrics[0] else [curve_conclusion(curve, metric)]
        numbers = curve[curve["metric"] == metric].drop(columns="metric").reset_index(drop=True)
        table, name = curve_columns(curve, metric), score_name(metric)
        sections.append(Section(name, text, pictures=[curve_picture(curve, metric)], table=table, numbers=numbers))
    about_it = [about, "Brackets and shades are 95% intervals over resampled speakers."]
    return Page(title, about_it, [], sections, curve_conclusion(curve, metrics[0]))


def curve_columns(curve: pd.DataFrame, metric: str) -> list[Column]:
    """The curve of one metric as a table of text: scores, gains and right over wrong, each with its interval."""
    table = curve[curve["metric"] == metric]
    columns = [
        Column("enrolment clips", [f"{shots} ({who})" for shots, who in table[["shots", "enrolment"]].to_numpy()])
    ]
    for name, title, prefix in (
        ("value", score_name(metric), ""),
        ("gain", "over none", "gain_"),
        ("right_over_wrong", "right over wrong", "right_over_wrong_"),
    ):
        intervals = interval_texts(table[f"{prefix}lo"], table[f"{prefix}hi"], 3)
        cells = zip(number_texts(table[name], 3), intervals, strict=True)
        columns.append(Column(title, ["" if value == "undefined" else f"{value} {bounds}" for value, bounds in cells]))
    return columns


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
        ax.set(xlabel="enrolment clips (0: the typical profile)", ylabel=score_name(metric))
        ax.grid()
        legend(ax)
    return make_picture(metric, f"{score_name(metric)} by the number of enrolment clips", ax)
