"""The enrolment curve in words and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from exvo.evaluation.enrolment_curve import SHOTS
from exvo.reports.enrolment import enrolment_conclusion
from exvo.reports.page import BLUE, ORANGE, WIDE, Page, Picture, Section, axes, make_picture
from exvo.reports.tables import Column, interval_texts, number_texts


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
