"""What a run's report says first: one sentence in plain words, and the main figures."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from exvo.evaluation.groups import CLIP, FEWEST_LOWEST, SPEAKER, UNITS
from exvo.evaluation.prior import chance
from exvo.evaluation.scoring import MEAN_CCC, UAR, group_metric, headline, lowest_speakers, worst_country
from exvo.reports.names import score_name
from exvo.reports.page import Tile
from exvo.reports.tables import interval_texts, number_texts
from exvo.tasks import Task

UNHEARD, OTHER_CLIPS, TRAINED_ON = "people it has not heard", "clips it has not heard", "its own training clips"
"""Whose clips a split holds, as seen from training."""

OTHER_CORPUS = "clips of another corpus"
"""The same, of clips of another corpus than the one that the model has learnt from."""


def lead_sentence(
    rows: pd.DataFrame,
    scores: pd.DataFrame,
    task: Task,
    model: str,
    people: str = UNHEARD,
    synthetic: bool = False,
    published: float = math.nan,
) -> str:
    """What a model recognises how well, for whom, against chance and the published figure, in one sentence.

    Args:
        rows: the scored rows of a predictions table.
        scores: of these, from `scoring.score`.
        task: fewshot or multitask, whose score has no chance.
        model: the system.
        people: whose clips these are: UNHEARD, OTHER_CLIPS, TRAINED_ON or OTHER_CORPUS.
        synthetic: whether a program made the voices.
        published: the headline score of the same system under the same conditions; NaN: there is none.
    """
    metric = headline(task)
    values, row = scores.set_index("metric")["value"], scores[scores["metric"] == metric].iloc[0].to_dict()
    clips = _clips(rows, people, synthetic)
    if math.isnan(row["value"]):
        return f"How well {model} does on {clips} is not known: its {score_name(metric)} is undefined."
    write = _percent if metric == UAR else _decimal
    bounds = [(row[f"lo{unit.suffix}"], row[f"hi{unit.suffix}"]) for unit in reversed(UNITS)]
    low, high = next((pair for pair in bounds if not math.isnan(pair[0])), bounds[-1])
    interval = "" if math.isnan(low) else f"; 95% interval {write(low)} to {write(high)}"
    if metric == UAR:
        count = rows["truth.category"].nunique()
        said = f"{model} names the right one of {count} categories in {write(row['value'])} of {clips}"
        said += f" (each category counts alike{interval}){_chance(chance(task, count), low, write)}"
    elif task.name == "fewshot":
        said = f"{model} recognises how strong {_emotions(task)} in {clips}"
        said += f" with a CCC of {write(row['value'])} (1 is perfect{interval}){_chance(chance(task), low, write)}"
    else:
        said = f"{model} recognises how strong {_emotions(task)} in {clips} with a CCC of {write(values[MEAN_CCC])}"
        said += f" (1 is perfect, 0 chance), the country in {_percent(values['country_uar'])} (chance is "
        said += f"{_percent(1 / rows['truth.country'].nunique())}) and the age to within {values['age_mae']:.1f} years"
        said += f": S_MTL {write(row['value'])}{interval.replace(';', ',')}"
    return f"{said}{'' if math.isnan(published) else f'; the published figure is {write(published)}'}."


def _clips(rows: pd.DataFrame, people: str, synthetic: bool) -> str:
    """Whose clips these are, and of how many people."""
    count, kind = rows["speaker"].nunique(), "synthetic voices" if synthetic else "people"
    of_them = f"of {count:,} {kind}"
    if people == UNHEARD:
        return f"clips {of_them} that it has not heard"
    known = {TRAINED_ON: "that it was trained on", OTHER_CORPUS: "of another corpus"}
    which = known.get(people, "that it has not heard")
    return f"clips {which}" if (rows["speaker"] == "").any() else f"clips {which}, {of_them}"


def _emotions(task: Task) -> str:
    return "one emotion is" if len(task.targets) == 1 else f"{len(task.targets)} emotions are"


def _chance(guessed: float, low: float, write: Callable[[float], str]) -> str:
    """What chance is, as the end of a sentence, and whether the lower end of the interval lies above it."""
    number = write(guessed) if guessed else "0"
    return f"; chance is {number}" if low > guessed else f", which is not shown to be better than chance, {number}"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _decimal(value: float) -> str:
    return f"{value:.3f}"


def tiles(scores: pd.DataFrame, task: Task, enrolled: pd.DataFrame | None) -> list[Tile]:
    """The headline score, what enrolment adds to it, the worst country and the lowest tenth of speakers.

    Args:
        scores: from `scoring.score`.
        task: of these.
        enrolled: as `enrolment.enrolment_table` gives it; None: not measured.
    """
    metric = group_metric(task)
    shown = [headline(task), worst_country(metric), lowest_speakers(metric)]
    chosen = []
    for row in scores[scores["metric"].isin(shown)].to_dict("records"):
        if row["metric"] == lowest_speakers(metric) and row["n"] < FEWEST_LOWEST:
            continue
        bounds = [
            f"by {unit.name} {text}"
            for unit in UNITS
            if (text := interval_texts([row[f"lo{unit.suffix}"]], [row[f"hi{unit.suffix}"]], 3)[0]) != "undefined"
        ]
        (value,) = number_texts([row["value"]], 3)
        counted = "speakers" if row["metric"] == lowest_speakers(metric) else "clips"
        detail = f"95% interval {', '.join(bounds) or 'undefined'}; {row['n']:,} {counted}"
        chosen.append(Tile(score_name(row["metric"]), value, detail))
    for gain in [] if enrolled is None else enrolled[enrolled["enrolment"] == "typical"].to_dict("records"):
        (text,) = interval_texts([gain["lo_difference"]], [gain["hi_difference"]], 3)
        value = "undefined" if math.isnan(gain["right_over_it"]) else f"{gain['right_over_it']:+.3f}"
        unit = SPEAKER if gain["speakers"] else CLIP
        what = f"{score_name(gain['metric'])}, enrolment over none"
        chosen.insert(1, Tile(what, value, f"95% interval by {unit.name} {text}"))
    return chosen
