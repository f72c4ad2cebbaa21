"""Sentences that pages, the model card and the terminal share: a score with its intervals, and what is doubtful."""

from __future__ import annotations

import math

import pandas as pd

from exvo.evaluation.groups import UNITS
from exvo.evaluation.pairwise import Doubts
from exvo.evaluation.prior import OverPrior
from exvo.evaluation.scoring import FEW_SPEAKERS
from exvo.reports.tables import interval_texts, number_texts
from exvo.text import listing

OTHER_SEEDS = "What differs are these trained networks; another seed of the same system may differ as much."
"""What a comparison of runs does not show."""


def score_sentence(scores: pd.DataFrame, metric: str) -> str:
    """A score with its intervals, for the terminal.

    Args:
        scores: as `scoring.score` gives them.
        metric: one of them.
    """
    row = scores[scores["metric"] == metric].iloc[0].to_dict()
    if math.isnan(row["value"]):
        return f"{metric} is undefined"
    ends = [(row[f"lo{unit.suffix}"], row[f"hi{unit.suffix}"]) for unit in UNITS]
    by_clip, by_speaker = ("undefined" if math.isnan(low) else f"[{low:.3f}, {high:.3f}]" for low, high in ends)
    return f"{metric} {row['value']:.3f}   95% interval by clip {by_clip}, by speaker {by_speaker}"


def reached_sentence(
    title: str, value: float, chance: float, people: str, bounds: tuple[float, float] = (math.nan, math.nan)
) -> str:
    """What a model reaches and what chance is, without the full stop.

    Args:
        title: of the score.
        value: of the model; NaN where it is undefined.
        chance: the score of who guesses.
        people: whose clips it was scored on.
        bounds: a 95% interval; left out where it is undefined.

    >>> reached_sentence("UAR", 0.312, 1 / 30, "people it has not heard", (0.29, 0.335))
    'UAR 0.312 [0.290, 0.335] on people it has not heard; chance is 0.033'
    >>> reached_sentence("CCC", 0.4, 0.0, "people it has not heard")
    'CCC 0.400 on people it has not heard; chance is 0'
    """
    (number,) = number_texts([value], 3)
    interval = "" if math.isnan(bounds[0]) else f" [{bounds[0]:.3f}, {bounds[1]:.3f}]"
    return f"{title} {number}{interval} on {people}; chance is {f'{chance:.3f}' if chance else 0}"


def prior_text(over: OverPrior) -> str:
    """How much better than the prior a model is, with its interval.

    >>> prior_text(OverPrior("category_uar", 0.2, 0.15, 0.25))
    '+0.200 category_uar over the prior; 95% interval by speaker [0.150, 0.250]'
    """
    if math.isnan(over.value):
        return f"{over.metric} over the prior is undefined"
    (bounds,) = interval_texts([over.low], [over.high], 3)
    return f"{over.value:+.3f} {over.metric} over the prior; 95% interval by speaker {bounds}"


def few_speakers_sentence(count: int) -> str:
    """The warning where `scoring.few_speakers` says that there are too few for intervals by speaker."""
    return (
        f"The intervals by speaker resample {count} speakers; over fewer than {FEW_SPEAKERS} they are too narrow, so "
        "what they exclude may still be chance."
    )


def doubt_sentences(doubts: Doubts) -> list[str]:
    """What a reader must know of differences: too few speakers, constant predictions."""
    few = [] if doubts.few_speakers is None else [few_speakers_sentence(doubts.few_speakers)]
    return few + [
        f"{constant.run} predicts the same for every clip in {listing(constant.targets)}: the CCC is undefined there, "
        "and so is the mean over the emotions."
        for constant in doubts.constant
    ]
