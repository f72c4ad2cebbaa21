"""What enrolment is worth on one split, in words and in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from exvo.evaluation import scoring
from exvo.evaluation.bootstrap import Statistics, bootstrap, interval
from exvo.evaluation.groups import CLIP, FEWEST_LOWEST, SPEAKER, group_scores, lowest_decile
from exvo.evaluation.scoring import few_speakers
from exvo.reports.names import score_name
from exvo.reports.page import Section
from exvo.reports.sentences import few_speakers_sentence
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

SPREAD = {
    "speaker_mean": "mean over speakers",
    "speaker_std": "standard deviation",
    "lowest_tenth": "lowest tenth of speakers",
}
"""The columns on how the score differs from speaker to speaker."""


class Effect(NamedTuple):
    """A difference of scores with its 95% interval; NaN where it is undefined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low):
            return "undefined"
        return f"{self.value:+.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def sign(self) -> int:
        """1 where the interval lies above zero, -1 where it lies below, else 0."""
        return int(self.low > 0) - int(self.high < 0)


UNDEFINED = Effect(math.nan, math.nan, math.nan)


def enrolment_verdict(
    score: str,
    gain: Effect,
    over_another: Effect,
    over_corrected: Effect | None = None,
    speakers: int | None = None,
    clips: int | None = None,
) -> str:
    """Whether enrolment helps, in a few sentences; of fewer speakers than `FEW_SPEAKERS` it says so first and last.

    Args:
        score: what to call it.
        gain: the speaker's own clips - none.
        over_another: the speaker's own clips - another speaker's.
        over_corrected: the speaker's own clips - shares corrected without training; None: there are none.
        speakers: that are resampled; None: not known.
        clips: that enrol; None: not said.

    >>> verdict = enrolment_verdict("UAR", Effect(0.012, 0.01, 0.014), Effect(0.009, 0.008, 0.011), clips=2)
    >>> print(verdict.replace(". It", ".\\nIt"))
    Enrolment with 2 clips helps: UAR is +0.012 [0.010, 0.014] over none.
    It is the speaker that helps: over another speaker's clips it is +0.009 [0.008, 0.011].
    """
    subject = "Enrolment" if clips is None else f"Enrolment with {clips} clip{'s' * (clips != 1)}"
    verb = {1: "helps", 0: "is not shown to help", -1: "harms"}[gain.sign]
    sentences = [f"{subject} {verb}: {score} is {gain} over none."]
    if math.isnan(gain.low):
        sentences = [f"{subject} is not shown to help: the difference of {score} to none is undefined."]
    if not math.isnan(over_another.low):
        meaning = _SPEAKER[gain.sign > 0, over_another.sign]
        sentences.append(f"{meaning}: over another speaker's clips it is {over_another}.")
    if over_corrected is not None and not math.isnan(over_corrected.low):
        more = {1: "does more", 0: "is not shown to do more", -1: "does less"}[over_corrected.sign]
        sentences.append(f"It {more} than a correction of shares that needs no training: {over_corrected} over that.")
    if speakers is not None and few_speakers(speakers):
        first = f"As far as {speakers} speakers can tell, {sentences[0][0].lower()}{sentences[0][1:]}"
        sentences = [first, *sentences[1:], few_speakers_sentence(speakers)]
    return " ".join(sentences)


_SPEAKER = {
    (True, 1): "It is the speaker that helps",
    (True, 0): "Nothing shows that it is the speaker",
    (True, -1): "It is not the speaker that helps",
    (False, 1): "The model does hear who speaks",
    (False, 0): "Nothing shows that the model hears who speaks",
    (False, -1): "Another speaker's clips do better",
}
"""What the difference to another speaker's clips means, by whether enrolment helps and by its sign."""


def enrolment_table(
    right: pd.DataFrame, others: Mapping[str, pd.DataFrame], task: Task, speakers: np.ndarray | None
) -> pd.DataFrame:
    """What enrolment clips are worth on one split, as numbers: the speaker's own, none, another speaker's.

    Args:
        right: the scored rows of a predictions table; of a plain system those without enrolment.
        others: predictions tables with all these rows, as `evaluate` has them: of a personalised system `typical`, with
            the typical profile, `wrong`, with the clips of another speaker, and `permuted`, with those of a clip at
            random; where there are shares `corrected`, see `exvo.evaluation.correction`.
        task: of all of them.
        speakers: (rows,), to resample; None resamples clips.

    Returns:
        A row for `right` and for each of the others: enrolment, metric, value, lo, hi, right_over_it, lo_difference,
        hi_difference, speakers (0: not known), and where there are two or more the columns `SPREAD`.
    """
    tables = {"right": right} | {
        name: right[["file"]].merge(others[name], on="file") for name in MEANINGS if name in others
    }
    metric = scoring.headline(task)
    statistics = {name: scoring.statistics_of(each, task, metric) for name, each in tables.items()}
    table = _compare(statistics, metric, speakers)
    return table.assign(speakers=0 if speakers is None else len(set(speakers)))


def effects(table: pd.DataFrame) -> dict[str, Effect]:
    """What the first row of `enrolment_table` has over each of its others, by their names."""
    rows = table.set_index("enrolment")[["right_over_it", "lo_difference", "hi_difference"]]
    return {str(name): Effect(*map(float, row)) for name, row in zip(rows.index, rows.to_numpy(), strict=True)}


def verdict_of(table: pd.DataFrame, clips: int | None = None) -> str:
    """The verdict on a personalised system; empty where it was not measured.

    Args:
        table: as `enrolment_table` gives it; those of early versions lack metric and speakers.
        clips: that enrol; None: not said.
    """
    over = effects(table)
    if "wrong" not in over:
        return ""
    metric = table["metric"].iloc[0] if "metric" in table else scoring.MEAN_CCC
    speakers = int(table["speakers"].iloc[0]) or None if "speakers" in table else None
    gain, corrected = over.get("typical", UNDEFINED), over.get("corrected")
    return enrolment_verdict(score_name(metric), gain, over["wrong"], corrected, speakers, clips)


def enrolment_section(table: pd.DataFrame, clips: int) -> Section:
    """What enrolment clips are worth on one split.

    Args:
        table: as `enrolment_table` gives it.
        clips: that enrol.
    """
    over, speakers = effects(table), int(table["speakers"].iloc[0])
    plain, unit = "typical" not in over, SPEAKER if speakers else CLIP
    meanings = MEANINGS | ({"right": "none (the system takes no enrolment)"} if plain else {})
    score = score_name(table["metric"].iloc[0])
    values = zip(number_texts(table["value"], 3), interval_texts(table["lo"], table["hi"], 3), strict=True)
    differences = [f"{effect}" if name != "right" else "" for name, effect in over.items()]
    columns = [
        Column("enrolment", table["enrolment"].map(meanings).tolist()),
        Column(f"{score}, 95% by {unit.name}", [f"{value} {bounds}" for value, bounds in values]),
        Column("first row better by" if plain else "own clips better by", differences),
    ]
    titles = dict(SPREAD)
    tenth = math.ceil(speakers / 10) >= FEWEST_LOWEST
    if not tenth:
        del titles["lowest_tenth"]
    columns += [Column(title, number_texts(table[name], 3)) for name, title in titles.items() if name in table]
    text = [verdict_of(table, clips)] if not plain else [plain_sentence(score, over["corrected"], clips)]
    if "lowest_tenth" in table and tenth and not plain:
        lowest = table.set_index("enrolment")["lowest_tenth"]
        right, none = (f"{lowest[name]:.3f}" for name in ("right", "typical"))
        text.append(f"The lowest tenth of the speakers has a {score} of {right}, without enrolment {none}.")
    return Section("Enrolment", text, table=columns, numbers=table)


def plain_sentence(score: str, over_corrected: Effect, clips: int) -> str:
    """What correcting its shares by clips of the speaker does to a plain system."""
    value, low, high = over_corrected
    change = "is undefined" if math.isnan(low) else f"is {Effect(0.0 - value, 0.0 - high, 0.0 - low)}"
    return (
        f"The system takes no enrolment. What correcting its shares by {clips} clips of the speaker, without training, "
        f"adds to {score} {change}."
    )


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
