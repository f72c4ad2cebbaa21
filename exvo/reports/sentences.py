"""Sentences that pages, the model card and the terminal share: a score with its intervals, and what is doubtful."""

from __future__ import annotations

import math

import pandas as pd

from exvo.evaluation.groups import UNITS
from exvo.evaluation.pairwise import Doubts
from exvo.evaluation.prior import OverPrior
from exvo.evaluation.scoring import FEW_SPEAKERS
from exvo.reports.names import score_name
from exvo.reports.tables import interval_texts
from exvo.text import NO_SPEAKERS, listing

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
        return f"{score_name(metric)} is undefined"
    ends = [(row[f"lo{unit.suffix}"], row[f"hi{unit.suffix}"]) for unit in UNITS]
    by_clip, by_speaker = ("undefined" if math.isnan(low) else f"[{low:.3f}, {high:.3f}]" for low, high in ends)
    return f"{score_name(metric)} {row['value']:.3f}   95% interval by clip {by_clip}, by speaker {by_speaker}"


def prior_text(over: OverPrior) -> str:
    """How much better than the prior a model is, with its interval.

    >>> prior_text(OverPrior("category_uar", 0.2, 0.15, 0.25))
    '+0.200 UAR over the prior; 95% interval by speaker [0.150, 0.250]'
    """
    if math.isnan(over.value):
        return f"{score_name(over.metric)} over the prior is undefined"
    (bounds,) = interval_texts([over.low], [over.high], 3)
    return f"{over.value:+.3f} {score_name(over.metric)} over the prior; 95% interval by speaker {bounds}"


def few_speakers_sentence(count: int) -> str:
    """The warning where `scoring.few_speakers` says that there are too few for intervals by speaker."""
    return (
        f"The intervals by speaker resample {count} speakers; over fewer than {FEW_SPEAKERS} they are too narrow, so "
        "what they exclude may still be chance."
    )


def doubt_sentences(doubts: Doubts) -> list[str]:
    """What a reader must know of differences: too few speakers or none, constant predictions."""
    few = [NO_SPEAKERS] if doubts.no_speakers else []
    few += [] if doubts.few_speakers is None else [few_speakers_sentence(doubts.few_speakers)]
    return few + [
        f"{constant.run} predicts the same for every clip in {listing(constant.targets)}: the CCC is undefined there, "
        "and so is the mean over the emotions."
        for constant in doubts.constant
    ]
