"""Sentences that pages, the model card and the terminal share: a score with its intervals, and what is doubtful."""

from __future__ import annotations

import math

import pandas as pd

from exvo.evaluation.groups import UNITS
from exvo.evaluation.pairwise import Doubts
from exvo.evaluation.scoring import FEW_SPEAKERS
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
