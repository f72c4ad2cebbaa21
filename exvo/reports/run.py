"""The report of a run on one split: its scores, whom it serves worst, its errors, how it was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from exvo.evaluation.bootstrap import bootstrap, interval, mae_statistics
from exvo.evaluation.calibration import bins_of
from exvo.evaluation.groups import CLIP, FEWEST_LOWEST, SPEAKER
from exvo.evaluation.metrics import FloatArray
from exvo.evaluation.prior import Prior, prior_predictions
from exvo.evaluation.results import shown_scores
from exvo.evaluation.scoring import (
    MEAN_CCC,
    UAR,
    constant_predictions,
    few_speakers,
    group_metric,
    lowest_speakers,
    scorable,
    speakers_are_units,
    statistics,
    statistics_of,
)
from exvo.reports import pictures
from exvo.reports.calibration import calibration_section
from exvo.reports.enrolment import enrolment_section, enrolment_table
from exvo.reports.groups import groups_section, speakers_section
from exvo.reports.lead import UNHEARD, lead_sentence, tiles
from exvo.reports.listening import listening_section
from exvo.reports.names import explained_name, score_name
from exvo.reports.page import Page, Section
from exvo.reports.selective import selective_section
from exvo.reports.sentences import few_speakers_sentence
from exvo.reports.tables import (
    Column,
    columns_of,
    number_texts,
    score_columns,
    split_text,
)
from exvo.tasks import Level, Task
from exvo.text import NO_SPEAKERS, SYNTHETIC, default_text, listing, slug

MOST_BINS = 10
"""Bins of equal numbers of clips."""

PICTURED = 60
"""Emotions in a picture, at most."""

BIN_CLIPS = 20
"""Clips of a bin of errors, at least."""


@dataclass(frozen=True)
class RunFacts:
    """What a report says beside the predictions.

    Attributes:
        model: the system.
        corpus: its name.
        synthetic: whether a program made it.
        split: train, val or test; `POOLED` of a cross-validation.
        run: the training run's name and id.
        digest: of the corpus' content.
        warnings: the audit's.
        options: every option, resolved.
        commands: what repeats the run.
        epochs: the metrics logged in each epoch, (epochs, metrics).
        enrolled: further predictions tables by who enrols, see `enrolment_section`.
        people: whose clips these are, see `lead.lead_sentence`.
        prior: of the training labels, see `evaluation.prior`; empty where it is not known.
        temperature: of the shares of categories; None: not fitted.
        uncalibrated: their log loss at temperature 1; NaN where there is none.
        levels: how sure answers must be to be right so often, as chosen on validation; empty: not chosen.
        published: the published headline score under the same conditions; NaN where there is none.
        selected: what options left out of the corpus or renamed, in phrases.
        sounds: clips to play, by file, see `listening.listening_section`.
    """

    model: str
    corpus: str
    synthetic: bool
    split: str
    run: str
    digest: str
    warnings: Sequence[str]
    options: Mapping[str, Any]
    commands: str
    epochs: pd.DataFrame
    enrolled: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    people: str = UNHEARD
    prior: Prior = field(default_factory=dict)
    temperature: float | None = None
    uncalibrated: float = math.nan
    levels: Sequence[Level] = ()
    published: float = math.nan
    selected: Sequence[str] = ()
    sounds: Mapping[str, bytes] = field(default_factory=dict)


def report_page(predictions: pd.DataFrame, scores: pd.DataFrame, task: Task, facts: RunFacts) -> Page:
    """The report of a few-shot or multitask run.

    Args:
        predictions: the predictions table of the split, with `seconds` and `rms_db` where error is to be shown against
            length and loudness.
        scores: of these predictions, from `scoring.score`.
        task: which columns the predictions have.
        facts: everything else.
    """
    rows = scorable(predictions).reset_index(drop=True)
    speakers = rows["speaker"].to_numpy(str) if speakers_are_units(rows, task) else None
    metric = group_metric(task)
    clips = statistics_of(rows, task, metric)
    priors = statistics(prior_predictions(rows, facts.prior), task).scores() if facts.prior else pd.Series(dtype=float)
    values = scores.set_index("metric")["value"]
    enrolled = enrolment_table(rows, facts.enrolled, task, speakers) if facts.enrolled else None
    sections = [
        scores_section(rows, scores, task, facts, priors),
        emotions_section(scores, task),
        truth_section(rows, task),
        listening_section(rows, task, facts.sounds),
        calibration_section(rows, task, values, priors, facts.temperature, facts.uncalibrated, speakers),
        selective_section(rows, task, scores, facts.levels, speakers, facts.split == "val"),
        groups_section(rows, clips, metric, speakers, "corpus", "Corpora"),
        groups_section(rows, clips, metric, speakers, "country", "Countries"),
        speakers_section(clips, scores, metric, speakers),
        audio_section(rows, task, speakers),
        None if enrolled is None else enrolment_section(enrolled, facts.options["shots"]),
        training_section(task, facts),
        corpus_section(facts),
        settings_section(facts),
    ]
    scored = (
        f"{len(rows):,} of {len(predictions):,} clips scored"
        if len(rows) < len(predictions)
        else f"{len(rows):,} clips"
    )
    of_speakers = f" of {rows['speaker'].nunique():,} speakers" if speakers is not None else ""
    where = f"{facts.corpus}{' (synthetic)' if facts.synthetic else ''}, {split_text(facts.split)}, {scored}"
    kind = f"task {task.name}, {facts.options['protocol']} protocol"
    return Page(
        f"{facts.model} on {facts.corpus}, {split_text(facts.split)}",
        [f"{where}{of_speakers}; {kind}", f"run {facts.run}"],
        tiles(scores, task, enrolled),
        [section for section in sections if section is not None],
        lead_sentence(rows, scores, task, facts.model, facts.people, facts.synthetic, facts.published),
    )


def scores_section(
    rows: pd.DataFrame, scores: pd.DataFrame, task: Task, facts: RunFacts, priors: pd.Series[float]
) -> Section:
    """Every score that is not of one emotion, beside that of the prior where it is known."""
    emotions = {f"{slug(target)}_ccc" for target in task.targets}
    table = scores[~scores["metric"].isin(emotions)].reset_index(drop=True)
    constant = constant_predictions(rows, task)
    warnings = [SYNTHETIC] if facts.synthetic else []
    if constant:
        warnings.append(
            f"The predictions of {listing(constant)} are the same for all clips: the CCC is undefined there, and so is "
            "the mean. The network has learnt nothing about them."
        )
    speakers = rows["speaker"].nunique()
    if (rows["speaker"] == "").all():
        warnings.append(NO_SPEAKERS)
    if speakers_are_units(rows, task) and few_speakers(speakers):
        warnings.append(few_speakers_sentence(speakers))
    text = [
        "Intervals are 95% bootstrap intervals (1,000 resamples, percentiles). The published ones are by clip; those "
        "by speaker resample whole speakers, so use them for what new people may expect. n is the number of clips, or "
        "of the countries or speakers that the score is over."
    ]
    small = table["metric"].isin([lowest_speakers(name) for name in (MEAN_CCC, UAR)]) & (table["n"] < FEWEST_LOWEST)
    shown = table[~small].assign(score=table["metric"].map(explained_name)).reset_index(drop=True)
    columns = score_columns(shown, "score", "score")
    if len(priors):
        text.append("The prior says of each clip what the training labels say without hearing anything.")
        known = [name in priors for name in shown["metric"]]
        cells = number_texts(priors.reindex(shown["metric"]), 3)
        columns.append(Column("prior", [cell if is_known else "" for cell, is_known in zip(cells, known, strict=True)]))
    return Section("Scores", text, warnings, table=columns, numbers=table)


def emotions_section(scores: pd.DataFrame, task: Task) -> Section:
    """The CCC of each emotion."""
    names = {f"{slug(target)}_ccc": target for target in task.targets}
    table = scores[scores["metric"].isin(names)]
    table = table.assign(emotion=table["metric"].map(names))
    table = table.sort_values("value", ascending=False, ignore_index=True)
    caption, shown = "CCC of each emotion, with 95% intervals", table
    if len(table) > PICTURED:
        caption += f" (the {PICTURED // 2} highest and the {PICTURED // 2} lowest of {len(table):,})"
        shown = pd.concat([table.head(PICTURED // 2), table.tail(PICTURED // 2)], ignore_index=True)
    bars = pictures.bars("emotions", caption, shown["emotion"], shown)
    return Section("Emotions", pictures=[bars], table=score_columns(table, "emotion", "emotion"), numbers=table)


def truth_section(rows: pd.DataFrame, task: Task) -> Section:
    """Prediction against truth: densities of numbers, a confusion matrix of exclusive categories."""
    if task.categories:
        return categories_section(rows)
    text = [
        "The darker a square, the more clips it holds (on a logarithmic scale). The dashed line is a perfect "
        "prediction; the points are mean predictions over tenths of the truth: flatter than the dashed line means too "
        "cautious."
    ]
    targets = [*task.targets, *(["age"] if task.name == "multitask" else [])]
    densities, tables = [], []
    for target in targets:
        truth, prediction = (rows[f"{side}.{target}"].to_numpy(float) for side in ("truth", "prediction"))
        table = means(truth, prediction, bins_of(truth, MOST_BINS))
        tables.append(table.reset_index().assign(target=target))
        densities.append(pictures.density(f"truth-{slug(target)}", target, truth, prediction, table))
    return Section("Prediction against truth", text, pictures=densities, numbers=pd.concat(tables, ignore_index=True))


def means(x: FloatArray, y: FloatArray, bins: npt.NDArray[np.int64]) -> pd.DataFrame:
    """The mean x and y and the number of clips n of each bin, one row a bin."""
    table = pd.DataFrame({"x": x, "y": y}).groupby(bins).agg(x=("x", "mean"), y=("y", "mean"), n=("x", "size"))
    return table.rename_axis("bin")


def categories_section(rows: pd.DataFrame) -> Section:
    """Which category is taken for which."""
    shares = pd.crosstab(rows["truth.category"], rows["prediction.category"], normalize="index")
    names = sorted(set(shares.index) | set(shares.columns))
    counts = rows["truth.category"].value_counts()
    shares = shares.reindex(index=names, columns=names, fill_value=0.0)
    recognised = pd.Series(np.diag(shares), names)
    others = shares.to_numpy(copy=True)
    np.fill_diagonal(others, 0.0)
    most = pd.DataFrame({"name": np.array(names)[others.argmax(axis=1)], "share": others.max(axis=1)}, names)
    cells = []
    for name in sorted(counts.index, key=lambda name: -recognised[name]):
        taken = f"{most.loc[name, 'name']} {most.loc[name, 'share']:.0%}" if most.loc[name, "share"] else ""
        cells.append((name, f"{recognised[name]:.0%}", taken, f"{counts[name]:,}"))
    columns = columns_of(["category", "recognised", "most often taken for", "n"], cells)
    text = [f"Chance would recognise {1 / len(counts):.1%} of each category. Rows of the picture are the truth."]
    caption, shown = "What each category (row) is taken for (column), in % of the row", shares
    if len(names) > PICTURED:
        caption += f" (the {PICTURED} categories of {len(names):,} with the most clips)"
        shown = shares.loc[counts.index[:PICTURED], counts.index[:PICTURED]]
    confusion = pictures.confusion("confusion", caption, shown)
    long = shares.rename_axis("truth").reset_index().melt("truth", var_name="prediction", value_name="share")
    return Section("Prediction against truth", text, pictures=[confusion], table=columns, numbers=long)


def audio_section(rows: pd.DataFrame, task: Task, speakers: npt.NDArray[np.str_] | None) -> Section | None:
    """The error against length and loudness; None: the predictions table does not hold these."""
    if "seconds" not in rows:
        return None
    truth, prediction = (
        rows[[f"{side}.{target}" for target in task.targets]].to_numpy() for side in ("truth", "prediction")
    )
    errors = np.abs(truth - prediction).mean(axis=1)
    clips = mae_statistics(np.zeros(len(errors)), errors, "error")
    lines, tables = [], []
    for column, label in (("seconds", "length in seconds"), ("rms_db", "loudness (RMS) in dB to full scale")):
        x = rows[column].to_numpy(float)
        bins = bins_of(x, max(1, min(MOST_BINS, len(x) // BIN_CLIPS)))
        table = means(x, errors, bins)
        for number in table.index:
            inside = bins == number
            samples = bootstrap(clips.take(inside), groups=None if speakers is None else speakers[inside])
            table.loc[number, ["lo", "hi"]] = interval(samples)[["ci_low", "ci_high"]].to_numpy()[0]
        tables.append(table.reset_index().assign(over=column))
        lines.append(pictures.line(slug(column), f"Error against {label}", label, table))
    text = [
        "The absolute error of a clip, mean over its emotions, in bins of equal numbers of clips, with its 95% "
        f"interval by {(CLIP if speakers is None else SPEAKER).name}."
    ]
    return Section("Length and loudness", text, pictures=lines, numbers=pd.concat(tables, ignore_index=True))


def training_section(task: Task, facts: RunFacts) -> Section | None:
    """The learning curves; None: there are not two epochs."""
    epochs = facts.epochs
    if len(epochs) < 2:
        return None
    shown = shown_scores(task.name, epochs.columns)
    names = {"loss": "loss"} | {name: score_name(name) for name in shown}
    captions = {name: f"{label}, validation clips" for name, label in names.items()} | {"loss": "loss, training clips"}
    curves = [
        pictures.curve(f"epochs-{name}", captions[name], names[name], epochs[name]) for name in names if name in epochs
    ]
    return Section("Training", pictures=curves, numbers=epochs.reset_index())


def corpus_section(facts: RunFacts) -> Section:
    """The digest and the audit's warnings."""
    text = [f"Digest of all labels and audio (SHA-256): {facts.digest}"]
    text += [f"A part of the corpus: {listing(facts.selected, separator='; ')}."] if facts.selected else []
    return Section(
        "Corpus", text if facts.warnings else [*text, "The audit of the corpus has no warnings."], facts.warnings
    )


def settings_section(facts: RunFacts) -> Section:
    """Every option, and the commands that repeat the run."""
    columns = [
        Column("option", list(facts.options)),
        Column("value", [default_text(value) for value in facts.options.values()]),
    ]
    return Section("Settings", ["These commands repeat the run:"], code=facts.commands, table=columns)
