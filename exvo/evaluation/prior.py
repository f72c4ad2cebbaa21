"""The prior: what training says of a clip without hearing it. A model that is not better has learnt nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.evaluation.scoring import UAR, headline, scorable, speakers_are_units, statistics
from exvo.tasks import FURTHER_LABELS, Task

PRIOR = "prior"
"""The name of the system, and of its rows in tables."""

Prior = Mapping[str, float | str]
"""For each label of a task what is likely: of a number the mean over training, of a class the most frequent one."""


def prior_of(clips: pd.DataFrame, task: Task) -> dict[str, float | str]:
    """The prior of training clips; of exclusive categories each target's mean is its share.

    Args:
        clips: the rows of the corpus to train on, one or more, with the labels as columns.
        task: what is learnt. Of classes with equal counts the first in the alphabet is taken.
    """
    labels = [*task.targets, *FURTHER_LABELS[task.name], *(["category"] if task.categories else [])]
    found: dict[str, float | str] = {}
    for label in labels:
        column = clips[label].dropna()
        if pd.api.types.is_numeric_dtype(column):
            found[label] = float(column.mean())
        else:
            counts = column.value_counts().sort_index()
            found[label] = str(counts.idxmax())
    return found


def prior_of_table(predictions: pd.DataFrame, task: Task) -> dict[str, float | str]:
    """The prior of the labels of a predictions table, where that of training is not known (runs of early versions)."""
    columns = [column for column in map(str, predictions.columns) if column.startswith("truth.")]
    truths = {column: column.removeprefix("truth.") for column in columns}
    return prior_of(scorable(predictions)[list(truths)].rename(columns=truths), task)


def prior_predictions(predictions: pd.DataFrame, prior: Prior) -> pd.DataFrame:
    """A predictions table with the same clips, in which each is predicted as the prior says."""
    return predictions.assign(**{f"prediction.{label}": value for label, value in prior.items()})


def chance(task: Task, categories: int | None = None) -> float:
    """The headline score of the prior of a few-shot task: the UAR 1 / categories, or of intensities a CCC of 0.

    Args:
        task: what is learnt.
        categories: how many the scored clips are of; None: all that the task has.
    """
    return 1 / (categories or len(task.targets)) if headline(task) == UAR else 0.0


class OverPrior(NamedTuple):
    """How much better than the prior a model is in its headline score.

    Attributes:
        metric: the headline score.
        value: of the model - of the prior, whose CCC is undefined and counts as 0.
        low, high: 95% interval by speaker; NaN where it is undefined.
    """

    metric: str
    value: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        """Whether the interval lies above zero."""
        return self.low > 0


def over_prior(predictions: pd.DataFrame, task: Task, prior: Prior) -> OverPrior:
    """How much better than the prior a few-shot model is, paired over the same clips (1,000 resamples of speakers).

    Args:
        predictions: the predictions table of one split.
        task: which columns it has.
        prior: of the training labels.
    """
    rows, metric = scorable(predictions), headline(task)
    clips, speakers = statistics(rows, task), rows["speaker"].to_numpy()
    value, samples = clips.scores()[metric], bootstrap(clips, groups=speakers)[[metric]]
    if metric == UAR:
        constant = statistics(prior_predictions(rows, prior), task)
        value, samples = value - constant.scores()[metric], samples - bootstrap(constant, groups=speakers)[[metric]]
    low, high = interval(samples).loc[metric, ["ci_low", "ci_high"]].to_numpy(np.float64)
    if not speakers_are_units(rows, task) or math.isnan(value):
        low = high = math.nan
    return OverPrior(metric, float(value), float(low), float(high))
