"""Scores of a predictions table: over the split, per country and per speaker, with bootstrap intervals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from exvo.errors import InputError
from exvo.evaluation.bootstrap import (
    Statistics,
    bootstrap,
    ccc_statistics,
    grouped,
    interval,
    join,
    label_statistics,
    mae_statistics,
)
from exvo.evaluation.calibration import ECE, LOG_LOSS, calibration_statistics, centred, has_shares
from exvo.evaluation.groups import ENDS, SPEAKER, group_scores, lowest_decile, with_intervals
from exvo.evaluation.metrics import s_mtl
from exvo.evaluation.selective import AURC, aurc_row
from exvo.tasks import Task
from exvo.text import slug

MEAN_CCC = "emotion_ccc"
"""The mean of the CCC over the emotions. NaN where the CCC of one of them is."""

UAR = "category_uar"
"""The unweighted average recall of exclusive categories."""

HEADLINES = {"fewshot": MEAN_CCC, "multitask": "s_mtl", "speaker": "speaker_uar"}
"""The headline score of each task, but for exclusive categories, see `headline`."""

LESS_IS_BETTER = ("emotion_mae", "age_mae", LOG_LOSS, ECE, AURC)
"""The scores that are errors."""

MOST_TARGETS = 100
"""Targets whose CCC has a column each in tables of results."""

INTERVALS = (MEAN_CCC, "s_mtl", "country_uar", "age_mae", "speaker_uar", "speaker_accuracy")
"""The scores that are metrics of a run with their intervals; of exclusive categories it is `UAR` alone."""

OVERALL = ("emotion_mae", "category_accuracy", "category_macro_f1", LOG_LOSS, ECE, AURC, "speaker_macro_f1", MEAN_CCC)
"""The scores that are metrics without."""

FEW_SPEAKERS = 30
"""With fewer, intervals by speaker are too narrow: in simulation, 95% ones hold the truth 75% of the time over five
speakers and 90% over twenty (tests/test_bootstrap.py)."""


def headline(task: Task) -> str:
    """The score by which epochs, trials and runs of a task are compared; of exclusive categories it is `UAR`."""
    return UAR if task.name == "fewshot" and task.categories else HEADLINES[task.name]


def group_metric(task: Task) -> str:
    """The score that is also given per country and per speaker, in which it is called CCC or UAR."""
    return UAR if headline(task) == UAR else MEAN_CCC


def worst_country(metric: str) -> str:
    """The name of the score that is the lowest `metric` of a country."""
    return f"{metric}_worst_country"


def lowest_speakers(metric: str) -> str:
    """The name of the score that is the mean `metric` over the lowest tenth of the speakers."""
    return f"{metric}_lowest_speaker_decile"


def within_corpus(metric: str, corpus: str) -> str:
    """The name of the score that is a `metric` over the clips of one of several tables."""
    return f"{metric}_corpus_{slug(corpus)}"


def scorable(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows of a predictions table that are scored (do not enrol, under `strict`) and have all their labels."""
    truths = [column for column in map(str, predictions.columns) if column.startswith("truth.")]
    return predictions[predictions["scored"] & predictions[truths].notna().all(axis=1)]


def statistics(predictions: pd.DataFrame, task: Task) -> Statistics:
    """Every score of a task as a function of sums over clips: CCC per emotion and their mean, MAE, UAR, S_MTL.

    Of exclusive categories UAR, accuracy and macro F1 come first, then, where the predictions are shares, log loss and
    expected calibration error (`calibration.calibration_statistics`).

    The CCC of an emotion whose predictions are all the same is undefined here, and so is the mean over the emotions:
    the formula's 0 would look like a measurement, and its interval, [0, 0], like a certain one.

    Args:
        predictions: the predictions table, all rows labelled.
        task: which columns it has.
    """
    if task.name == "speaker":
        return label_statistics(predictions["truth.speaker"], predictions["prediction.speaker"], "speaker")
    truth, prediction = (
        predictions[[f"{side}.{target}" for target in task.targets]].to_numpy(np.float64)
        for side in ("truth", "prediction")
    )
    ccc = ccc_statistics(truth, prediction, [f"{slug(target)}_ccc" for target in task.targets], MEAN_CCC)
    constant = np.ptp(prediction, axis=0) == 0
    if constant.any():
        undefined = np.append(constant, True)  # the last is the mean
        formula = ccc.score
        ccc = replace(ccc, score=lambda sums: np.where(undefined, math.nan, formula(sums)))
    pieces = [ccc]
    if task.categories and task.name == "fewshot":
        pieces = [label_statistics(predictions["truth.category"], predictions["prediction.category"], "category")]
        pieces += [calibration_statistics(predictions, task.targets)] if has_shares(predictions, task.targets) else []
        pieces.append(ccc)
    pieces.append(mae_statistics(np.zeros(len(truth)), np.abs(truth - prediction).mean(axis=1), "emotion_mae"))
    if task.name == "multitask":
        pieces.append(label_statistics(predictions["truth.country"], predictions["prediction.country"], "country"))
        pieces.append(mae_statistics(predictions["truth.age"], predictions["prediction.age"], "age_mae"))
        return join(*pieces).derive("s_mtl", s_mtl, MEAN_CCC, "country_uar", "age_mae")
    return join(*pieces)


def statistics_of(predictions: pd.DataFrame, task: Task, metric: str) -> Statistics:
    """As `statistics`, with that score among the names; of a thousand categories the UAR alone takes a third as long.

    Args:
        predictions: the predictions table, all rows labelled.
        task: which columns it has.
        metric: a score of the task.
    """
    if metric == UAR:
        return label_statistics(predictions["truth.category"], predictions["prediction.category"], "category")
    return statistics(predictions, task)


def score_epoch(predictions: pd.DataFrame, task: Task) -> pd.Series[float]:
    """The scores over the whole split, without intervals: what an epoch needs."""
    return statistics(scorable(predictions), task).scores()


def speakers_are_units(rows: pd.DataFrame, task: Task) -> bool:
    """Whether speakers can be resampled: all are known, and they are not the classes."""
    return task.name != "speaker" and bool((rows["speaker"] != "").all())


def few_speakers(count: int) -> bool:
    """Whether there are too few speakers for an interval by speaker to be trusted."""
    return count < FEW_SPEAKERS


def constant_predictions(rows: pd.DataFrame, task: Task) -> list[str]:
    """The emotions whose predictions are the same for all clips, so that their CCC is undefined."""
    return [target for target in task.targets if rows[f"prediction.{target}"].nunique() == 1]


def score(predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Every score of a split with its 95% intervals (1,000 resamples, percentiles 2.5 and 97.5).

    An unknown speaker or country (empty) leaves out what is by speaker or per country, and so does a speaker
    recogniser, whose classes are the speakers.

    By clip, as published, and by speaker: clips of one person are not independent, so the first is too narrow when the
    question is how the system does on new speakers.

    Args:
        predictions: the predictions table of one split.
        task: which columns it has.

    Returns:
        One row a score: metric, value, lo, hi, lo_by_speaker, hi_by_speaker and n, the clips. The rows
        `emotion_ccc_country_mean`, `_country_std`, `_speaker_mean` and `_speaker_std` (population) are over the
        groups in which the score is defined, whose number is the row's n; they have no interval. Of groups with
        `groups.MIN_CLIPS` clips or more, where there are such: `emotion_ccc_worst_country`, and, where there are two,
        `emotion_ccc_lowest_speaker_decile`, the mean over the lowest tenth of the speakers, whose number is its n.
        Where several tables are one corpus, `emotion_ccc_corpus_<name>` is over the clips of one of them.
        Of exclusive categories these are of `category_uar`; a group's is over the categories that it has. Of shares
        there is also `category_aurc`, see `selective.aurc`.

    Raises:
        InputError: fewer than two rows are scored and labelled.
    """
    rows = scorable(predictions)
    if len(rows) < 2:
        raise InputError(
            f"{len(rows)} of the {len(predictions)} clips are scored and have all their labels; a score needs two."
        )
    clips = statistics(rows, task)
    values = clips.scores()
    by_clip = interval(centred(bootstrap(clips), values))
    speakers = rows["speaker"].to_numpy()
    by_speaker = interval(centred(bootstrap(clips, groups=speakers), values))
    if not speakers_are_units(rows, task):
        by_speaker[:] = math.nan
    table = pd.DataFrame(
        {
            "value": values,
            "lo": by_clip["ci_low"],
            "hi": by_clip["ci_high"],
            "lo_by_speaker": by_speaker["ci_low"],
            "hi_by_speaker": by_speaker["ci_high"],
            "n": len(rows),
        }
    )
    if LOG_LOSS in clips.names:
        for name, number in aurc_row(rows, task, speakers_are_units(rows, task)).items():
            table.loc[AURC, name] = number
    if task.name != "speaker":
        for name, row in _over_groups(rows, clips, task).items():
            table.loc[name, list(row)] = list(row.values())
    return table.astype({"n": int}).rename_axis("metric").reset_index()


def _over_groups(rows: pd.DataFrame, clips: Statistics, task: Task) -> dict[str, dict[str, float]]:
    """The rows of a score table that are over countries and over speakers: by metric, values by column."""
    table: dict[str, dict[str, float]] = {}
    metric = group_metric(task)
    resampled = rows["speaker"].to_numpy() if speakers_are_units(rows, task) else None
    if "corpus" in rows:
        corpora = rows["corpus"].astype(str)
        within = with_intervals(group_scores(clips, corpora, metric).dropna(), clips, corpora, metric, resampled)
        for scores in within.rename_axis("corpus").reset_index().to_dict("records"):
            table[within_corpus(metric, scores["corpus"])] = {name: scores[name] for name in ("value", "n", *ENDS)}
    units = [unit for unit in ("country", "speaker") if unit in rows and (rows[unit] != "").all()]
    for unit in units:
        defined = grouped(clips, rows[unit].to_numpy())[metric].dropna()
        for name, value in (("mean", defined.mean()), ("std", defined.std(ddof=0))):
            table[f"{metric}_{unit}_{name}"] = {"value": value, "n": len(defined)}
    speakers = rows["speaker"].to_numpy()
    if "country" in units:
        worst = group_scores(clips, rows["country"], metric).iloc[:1]
        for row in with_intervals(worst.dropna(), clips, rows["country"], metric, resampled).to_dict("records"):
            table[worst_country(metric)] = {name: row[name] for name in ("value", "n", *ENDS)}
    if "speaker" in units:
        values = group_scores(clips, speakers, metric)["value"].dropna()
        if len(values) > 1:
            decile = lowest_decile(values)
            ends = {f"lo{SPEAKER.suffix}": decile.low, f"hi{SPEAKER.suffix}": decile.high}
            table[lowest_speakers(metric)] = {"value": decile.mean, **ends, "n": decile.speakers}
    return table


def every_score(scores: pd.DataFrame, split: str) -> dict[str, float]:
    """A score table by name: `<split>/<metric>`, and its defined intervals as `<split>/<metric>_<end>` (`ENDS`).

    Of more than `MOST_TARGETS` targets only the mean CCC is among them.
    """
    named: dict[str, float] = {}
    single = scores["metric"].str.endswith("_ccc") & (scores["metric"] != MEAN_CCC)
    for row in scores[~single | (single.sum() <= MOST_TARGETS)].to_dict("records"):
        name = f"{split}/{row['metric']}"
        named[name] = row["value"]
        for end in ENDS:
            if not math.isnan(row[end]):
                named[f"{name}_{end}"] = row[end]
    return named


def as_metrics(scores: pd.DataFrame, split: str) -> dict[str, float]:
    """What of a score table are metrics of a run, by which runs are sorted: its main scores, some with intervals.

    Those of single targets and of groups of clips are in the table alone.
    """
    main = [UAR] if UAR in set(scores["metric"]) else INTERVALS
    overall = scores[scores["metric"].isin([*main, *OVERALL])].copy()
    overall.loc[~overall["metric"].isin(main), list(ENDS)] = math.nan
    return every_score(overall, split)
