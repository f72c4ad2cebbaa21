"""The description of a run, which the lists and pages of the tracking server show."""

from __future__ import annotations

import math
import re

import pandas as pd

from exvo.config import ELSEWHERE
from exvo.evaluation.prior import chance
from exvo.evaluation.scoring import headline
from exvo.reports.names import score_name
from exvo.settings import TrainSettings
from exvo.tasks import Task

TITLES = {"train": "Training", "val": "Validation", "test": "Test", ELSEWHERE: "Another corpus"}
"""What a description calls the splits; all else is `ALL_FOLDS`."""

ALL_FOLDS = "All folds"

OURS = re.compile(rf"\*\*(?:{'|'.join([*TITLES.values(), ALL_FOLDS])}): ")
"""How a description of ours begins, which a later one replaces."""


def description(
    split: str, scores: pd.DataFrame, task: Task, settings: TrainSettings, corpus: str, speakers: int, report: str
) -> str:
    """What a run reached, in Markdown: score, interval, chance, corpus and protocol, with a link to its report.

    Args:
        split: that was scored.
        scores: as `scoring.score` gives them.
        task: what was learnt.
        settings: of the training, with protocol and number of enrolment clips of the scores.
        corpus: its name, and whether it is synthetic.
        speakers: of the scored clips; 0 where they are not known.
        report: its address in the UI; empty where there is none.
    """
    row = scores[scores["metric"] == headline(task)].iloc[0].to_dict()
    title = score_name(headline(task))
    text = f"{title} is undefined" if math.isnan(row["value"]) else f"{title} {row['value']:.3f}"
    interval = ""
    for unit, suffix in (("speaker", "_by_speaker"), ("clip", "")):
        low, high = row[f"lo{suffix}"], row[f"hi{suffix}"]
        if not interval and not math.isnan(low):
            interval = f", 95% interval by {unit} [{low:.3f}, {high:.3f}]"
    guessed = chance(task) if task.name == "fewshot" else math.nan
    of_chance = "" if math.isnan(guessed) else f"; chance is {f'{guessed:.3f}' if guessed else 0}"
    people = f" of {speakers:,} speakers" if speakers else ""
    clips = f"{settings.shots} enrolment clips" if settings.protocol != "published" else "enrolment clips scored too"
    lines = [
        f"**{TITLES.get(split, ALL_FOLDS)}: {text}**{interval}{of_chance}.",
        f"{settings.model} on {corpus}, {row['n']:,} clips{people}; {settings.protocol} protocol, {clips}.",
        *([f"[Report]({report})"] if report else []),
    ]
    return "\n\n".join(lines)
