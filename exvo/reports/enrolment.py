"""What enrolment is worth on one split, in words and in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from exvo.evaluation import scoring
from exvo.evaluation.bootstrap import Statistics, bootstrap, interval
from exvo.evaluation.groups import CLIP, SPEAKER, group_scores, lowest_decile
from exvo.reports.page import Section
from exvo.reports.tables import Column, interval_texts, number_texts
from exvo.tasks import Task

MEANINGS = {
    "right": "the speaker's own clips",
    "corrected": "none, shares corrected by the speaker's clips",
    "typical": "none (the typical profile)",
    "wrong": "another speaker's",
    "permuted": "those that enrol a clip at random",
}
"""The rows of the table, in its order."""

SPREAD = {"speaker_mean": "mean over speakers", "speaker_std": "std over speakers", "lowest_tenth": "lowest tenth"}
"""The columns on how the score differs from speaker to speaker."""


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


def correction_conclusion(score: str, difference: float, low: float, high: float) -> str:
    """Whether a personalised system does more than the correction of shares, which needs no training, in a sentence.

    Args:
        score: what to call it.
        difference: right - corrected.
        low, high: its 95% interval.
    """
    if math.isnan(low):
        return f"{score} has no defined difference to that of the corrected shares."
    begin = f"It is {difference:+.3f} [{low:.3f}, {high:.3f}] over shares corrected without training"
    if low > 0:
        return f"{begin}: the fusion does more than that correction."
    return f"{begin}: nothing shows that the fusion does more than that correction."


def enrolment_section(
    right: pd.DataFrame, others: Mapping[str, pd.DataFrame], task: Task, speakers: np.ndarray | None
) -> Section:
    """What enrolment clips are worth on one split: the speaker's own against none and against another speaker's.

    Args:
        right: the scored rows of a predictions table; of a plain system those without enrolment.
        others: predictions tables with all these rows, as `evaluate` has them: of a personalised system `typical`, with
            the typical profile, `wrong`, with the clips of another speaker, and `permuted`, with those of a clip at
            random; where there are shares `corrected`, see `exvo.evaluation.correction`.
        task: of all of them.
        speakers: (rows,), to resample; None resamples clips.
    """
    plain = "typical" not in others
    meanings = MEANINGS | ({"right": "none (the system takes no enrolment)"} if plain else {})
    tables = {"right": right} | {
        name: right[["file"]].merge(others[name], on="file") for name in MEANINGS if name in others
    }
    metric, unit = scoring.headline(task), CLIP if speakers is None else SPEAKER
    table = _compare(
        {name: scoring.statistics_of(each, task, metric) for name, each in tables.items()}, metric, speakers
    )
    other = table.iloc[1:]
    columns = [
        Column("enrolment", table["enrolment"].map(meanings).tolist()),
        Column(metric, number_texts(table["value"], 3)),
        Column(f"95% by {unit.name}", interval_texts(table["lo"], table["hi"], 3)),
        Column(
            "first row better by" if plain else "own clips better by", ["", *number_texts(other["right_over_it"], 3)]
        ),
        Column(f"95% by {unit.name}", ["", *interval_texts(other["lo_difference"], other["hi_difference"], 3)]),
    ]
    columns += [Column(title, number_texts(table[name], 3)) for name, title in SPREAD.items() if name in table]
    differences = table.set_index("enrolment")[["right_over_it", "lo_difference", "hi_difference"]]
    text = []
    if "wrong" in differences.index:
        text.append(enrolment_conclusion(f"{metric} with the right speaker's clips", *differences.loc["wrong"]))
    if "corrected" in differences.index and not plain:
        text.append(correction_conclusion(metric, *differences.loc["corrected"]))
    return Section("Enrolment", text, table=columns, numbers=table)


def _compare(statistics: Mapping[str, Statistics], metric: str, speakers: np.ndarray | None) -> pd.DataFrame:
    """A row for each of the statistics: its score, what the first has over it, and how it spreads over speakers."""
    values = {name: clips.scores()[metric] for name, clips in statistics.items()}
    samples = {name: bootstrap(clips, groups=speakers)[[metric]] for name, clips in statistics.items()}
    rows = []
    for name, clips in statistics.items():
        row = {
            "enrolment": name,
            "metric": metric,
            "value": values[name],
            "right_over_it": values["right"] - values[name],
        }
        for suffix, resampled in (("", samples[name]), ("_difference", samples["right"] - samples[name])):
            row[f"lo{suffix}"], row[f"hi{suffix}"] = interval(resampled)[["ci_low", "ci_high"]].to_numpy()[0]
        of_speakers = pd.Series(dtype=float)
        if speakers is not None:
            of_speakers = group_scores(clips, speakers, metric)["value"].dropna()
        if len(of_speakers) > 1:
            spread = (of_speakers.mean(), of_speakers.std(ddof=0), lowest_decile(of_speakers).mean)
            row |= dict(zip(SPREAD, spread, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)
