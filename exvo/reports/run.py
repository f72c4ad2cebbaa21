"""The report of a run on one split: its scores, whom it serves worst, where it errs, how it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from exvo.evaluation.bootstrap import Statistics, bootstrap, interval, mae_statistics
from exvo.evaluation.groups import MIN_CLIPS, group_scores, lowest_decile_by_chance, with_intervals
from exvo.evaluation.results import SCORES
from exvo.evaluation.scoring import (
    constant_predictions,
    few_speakers,
    headline,
    scorable,
    speakers_are_units,
    statistics,
)
from exvo.reports import pictures
from exvo.reports.enrolment_curve import enrolment_section
from exvo.reports.page import Page, Section
from exvo.reports.tables import Columns, intervals, numbers
from exvo.tasks import Task
from exvo.text import SYNTHETIC, default_text, listing, slug

WORST = 10
"""Speakers named."""

BINS = 10
"""Bins of equal numbers of clips, at most; `BIN_CLIPS` or more in each where the error is shown."""
BIN_CLIPS = 20


@dataclass(frozen=True)
class About:
    """What a report says beside the predictions.

    Attributes:
        model: the system.
        corpus: its name.
        synthetic: whether a program made it.
        split: train, val or test.
        run: the training run's name and id.
        digest: of the corpus' content.
        warnings: the audit's.
        options: every option, resolved.
        commands: what repeats the run.
        epochs: as `lookup.history` gives them.
        enrolled: of a personalised system the predictions tables of `typical` profiles and of the `wrong` speaker's.
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


def report(predictions: pd.DataFrame, scores: pd.DataFrame, task: Task, about: About) -> Page:
    """The report of a few-shot or multitask run.

    Args:
        predictions: the predictions table of the split, with `seconds` and `rms_db` where error is to be shown against
            length and loudness.
        scores: of these predictions, from `evaluation.score`.
        task: which columns the predictions have.
        about: all else.
    """
    rows = scorable(predictions).reset_index(drop=True)
    every = statistics(rows, task)
    speakers = rows["speaker"].to_numpy(str) if speakers_are_units(rows, task) else None
    sections = [
        scores_section(rows, scores, task, about),
        emotions_section(scores, task),
        truth_section(rows, task),
        countries_section(rows, every, speakers),
        speakers_section(rows, every, scores, speakers),
        audio_section(rows, task, speakers),
    ]
    if about.enrolled:
        sections.append(enrolment_section(rows, about.enrolled, task, speakers))
    sections += [training_section(task, about), corpus_section(about), settings_section(about)]
    scored = (
        f"{len(rows):,} of {len(predictions):,} clips scored"
        if len(rows) < len(predictions)
        else f"{len(rows):,} clips"
    )
    people = f" of {rows['speaker'].nunique():,} speakers" if speakers is not None else ""
    where = f"{about.corpus}{' (synthetic)' if about.synthetic else ''}, {about.split} split, {scored}{people}"
    kind = f"task {task.name}, {about.options['protocol']} protocol"
    return Page(
        f"{about.model} on {about.corpus}, {about.split} split",
        [f"{where}; {kind}", f"run {about.run}"],
        tiles(scores, task),
        sections,
    )


def tiles(scores: pd.DataFrame, task: Task) -> list[tuple[str, str, str]]:
    """The headline score, the worst country and the lowest decile of speakers, each with an interval."""
    shown = {
        headline(task): headline(task),
        "emotion_ccc_worst_country": "worst country, CCC",
        "emotion_ccc_lowest_speaker_decile": "lowest tenth of speakers, CCC",
    }
    found = []
    for metric, title in shown.items():
        for row in scores[scores["metric"] == metric].to_dict("records"):
            bounds = [
                f"by {unit} {text}"
                for unit, end in (("clip", ""), ("speaker", "_by_speaker"))
                if (text := intervals([row[f"lo{end}"]], [row[f"hi{end}"]], 3)[0]) != "undefined"
            ]
            (value,) = numbers([row["value"]], 3)
            found.append((title, value, f"95% interval {', '.join(bounds) or 'undefined'}; n = {row['n']:,}"))
    return found


def scores_section(rows: pd.DataFrame, scores: pd.DataFrame, task: Task, about: About) -> Section:
    """Every score that is not of one emotion."""
    of_one = {f"{slug(target)}_ccc" for target in task.targets}
    table = scores[~scores["metric"].isin(of_one)].reset_index(drop=True)
    constant = constant_predictions(rows, task)
    warnings = [SYNTHETIC] if about.synthetic else []
    if constant:
        warnings.append(
            f"The predictions of {listing(constant)} are the same for all clips: the CCC is undefined there, and so is "
            "the mean. The network has learnt nothing about them."
        )
    if speakers_are_units(rows, task):
        warnings += [few_speakers(rows["speaker"].nunique())]
    text = [
        "Intervals are 95% bootstrap intervals (1,000 resamples, percentiles). By clip is how they are published; "
        "by speaker resamples whole speakers and is the one for new people."
    ]
    return Section(
        "Scores", text, list(filter(None, warnings)), table=score_columns(table, "score", "metric"), numbers=table
    )


def score_columns(table: pd.DataFrame, title: str, names: str, digits: int = 3) -> Columns:
    """Scores with both intervals and n as the text of a table, without a column that is empty throughout."""
    columns: Columns = [(title, table[names].astype(str).tolist()), ("value", numbers(table["value"], digits))]
    for unit, end in (("clip", ""), ("speaker", "_by_speaker")):
        if table[f"lo{end}"].notna().any():
            cells = intervals(table[f"lo{end}"], table[f"hi{end}"], digits)
            columns.append((f"95% by {unit}", ["" if cell == "undefined" else cell for cell in cells]))
    return [*columns, ("n", [f"{n:,}" for n in table["n"]])]


def emotions_section(scores: pd.DataFrame, task: Task) -> Section:
    """The CCC of each emotion."""
    names = {f"{slug(target)}_ccc": target for target in task.targets}
    table = scores[scores["metric"].isin(names)].assign(emotion=lambda found: found["metric"].map(names))
    table = table.sort_values("value", ascending=False, ignore_index=True)
    shown = pictures.bars("emotions", "CCC of each emotion, with 95% intervals", table["emotion"], table)
    return Section("Emotions", pictures=[shown], table=score_columns(table, "emotion", "emotion"), numbers=table)


def truth_section(rows: pd.DataFrame, task: Task) -> Section:
    """Prediction against truth: densities of numbers, a confusion matrix of exclusive categories."""
    if task.categories:
        return categories_section(rows)
    text = [
        "Each square is as dark as there are clips (on a logarithmic scale). The dashed line is a perfect prediction; "
        "the points are mean predictions over tenths of the truth: flatter than the dashed line means too cautious."
    ]
    targets = [*task.targets, *(["age"] if task.name == "multitask" else [])]
    shown, tables = [], []
    for target in targets:
        truth, prediction = (rows[f"{side}.{target}"].to_numpy(float) for side in ("truth", "prediction"))
        table = means(truth, prediction, bins_of(truth))
        tables.append(table.reset_index().assign(target=target))
        shown.append(pictures.density(f"truth-{slug(target)}", target, truth, prediction, table))
    return Section("Prediction against truth", text, pictures=shown, numbers=pd.concat(tables, ignore_index=True))


def bins_of(x: npt.NDArray[np.float64], least: int = 1) -> npt.NDArray[np.int64]:
    """The bin of each clip, (clips,): up to ten by x, of equal numbers of clips, `least` or more; equals share one."""
    count = max(1, min(BINS, len(x) // least))
    ranks = pd.Series(x).rank(method="max").to_numpy(np.float64)
    bins: npt.NDArray[np.int64] = np.ceil(ranks * count / len(x)).astype(np.int64) - 1
    return bins


def means(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], bins: npt.NDArray[np.int64]) -> pd.DataFrame:
    """Mean x and y and the number of clips n of each bin, in the index."""
    found = pd.DataFrame({"x": x, "y": y}).groupby(bins).agg(x=("x", "mean"), y=("y", "mean"), n=("x", "size"))
    return found.rename_axis("bin")


def categories_section(rows: pd.DataFrame) -> Section:
    """Which category is taken for which."""
    shares = pd.crosstab(rows["truth.category"], rows["prediction.category"], normalize="index")
    names = sorted(set(shares.index) | set(shares.columns))
    counts = rows["truth.category"].value_counts()
    shares = shares.reindex(index=names, columns=names, fill_value=0.0)
    table = []
    for name in sorted(counts.index, key=lambda name: -shares.loc[name, name]):
        other, share = max(shares.loc[name].drop(name).items(), key=lambda found: found[1])
        taken = f"{other} {share:.0%}" if share else ""
        table.append((name, f"{shares.loc[name, name]:.0%}", taken, f"{counts[name]:,}"))
    titles = ("category", "recognised", "most often taken for", "n")
    columns = [(title, list(cells)) for title, cells in zip(titles, zip(*table, strict=True), strict=True)]
    text = [f"Chance would recognise {1 / len(counts):.1%} of each category. Rows of the picture are the truth."]
    shown = pictures.confusion(
        "confusion", "What each category (row) is taken for (column), in shares of the row", shares
    )
    tidy = shares.rename_axis("truth").reset_index().melt("truth", var_name="prediction", value_name="share")
    return Section("Prediction against truth", text, pictures=[shown], table=columns, numbers=tidy)


def countries_section(rows: pd.DataFrame, every: Statistics, speakers: npt.NDArray[np.str_] | None) -> Section:
    """The CCC within each country."""
    if "country" not in rows or (rows["country"] == "").all():
        return Section("Countries", ["The corpus does not say which countries its speakers come from."])
    groups = rows["country"].replace("", "unknown")
    table = with_intervals(group_scores(every, groups, "emotion_ccc"), every, groups, "emotion_ccc", speakers)
    table = table.rename_axis("country").reset_index()
    small = table["n"] < MIN_CLIPS
    scored = table[~small].reset_index(drop=True)
    columns = score_columns(scored, "country", "country")
    if speakers is not None:
        columns.append(("speakers", [f"{count:,}" for count in scored["speakers"]]))
    shown = [pictures.bars("countries", "CCC within each country, with 95% intervals", scored["country"], scored)]
    return Section(
        "Countries",
        too_small(table[small], "country"),
        pictures=shown if len(scored) else [],
        table=columns,
        numbers=table,
    )


def too_small(table: pd.DataFrame, group: str) -> list[str]:
    """A sentence that names the groups with too few clips to be scored."""
    if table.empty:
        return []
    who = listing(f"{name} ({n})" for name, n in zip(table[group], table["n"], strict=True))
    return [f"With fewer than {MIN_CLIPS} scored clips, and so not scored (clips in brackets): {who}."]


def speakers_section(
    rows: pd.DataFrame, every: Statistics, scores: pd.DataFrame, speakers: npt.NDArray[np.str_] | None
) -> Section:
    """The distribution of the CCC over speakers, and the worst of them."""
    if speakers is None:
        return Section("Speakers", ["Not every clip says who its speaker is, so there are no scores by speaker."])
    table = group_scores(every, speakers, "emotion_ccc").rename_axis("speaker")
    small = table["n"] < MIN_CLIPS
    scored = table[~small & table["value"].notna()]
    text = too_small(table[small].reset_index(), "speaker")
    undefined = table.index[~small & table["value"].isna()]
    if len(undefined):
        text.append(f"With clips enough, but a CCC that is undefined: {listing(undefined)}.")
    if len(scored) < 2:
        return Section("Speakers", [*text, "A distribution takes two scored speakers."], numbers=table.reset_index())
    decile = scores[scores["metric"] == "emotion_ccc_lowest_speaker_decile"].iloc[0]
    chance = lowest_decile_by_chance(every, speakers, "emotion_ccc")
    text.insert(0, decile_sentence(decile, len(scored), chance))
    worst = with_intervals(scored.head(WORST), every, speakers, "emotion_ccc").reset_index()
    caption = f"CCC of {len(scored):,} speakers; the line is the mean of the lowest tenth"
    shown = pictures.histogram("speakers", caption, scored["value"], decile["value"])
    return Section(
        "Speakers",
        [*text, f"The {len(worst)} with the lowest CCC, each with an interval over the speaker's own clips:"],
        pictures=[shown],
        table=score_columns(worst, "speaker", "speaker"),
        numbers=table.reset_index(),
    )


def decile_sentence(
    decile: Mapping[str, Any] | pd.Series[Any], speakers: int, chance: tuple[float, float, float]
) -> str:
    """What the lowest tenth of the speakers gets, and whether chance explains it."""
    value, low, high = (decile[name] for name in ("value", "lo_by_speaker", "hi_by_speaker"))
    told = (
        f"The lowest tenth of the speakers ({decile['n']} of {speakers:,}) has a mean CCC of {value:.3f} "
        f"[{low:.3f}, {high:.3f}]. Were the clips dealt to the speakers at random, it would be {chance[0]:.3f} "
        f"[{chance[1]:.3f}, {chance[2]:.3f}]: "
    )
    if value < chance[1]:
        return told + "some people are served worse than chance explains."
    return told + "no more than chance explains."


def audio_section(rows: pd.DataFrame, task: Task, speakers: npt.NDArray[np.str_] | None) -> Section:
    """The error against length and loudness."""
    title = "Length and loudness"
    if "seconds" not in rows:
        return Section(title, ["The predictions table does not hold the clips' length and loudness."])
    truth, prediction = (
        rows[[f"{side}.{target}" for target in task.targets]].to_numpy() for side in ("truth", "prediction")
    )
    errors = np.abs(truth - prediction).mean(axis=1)
    every = mae_statistics(np.zeros(len(errors)), errors, "error")
    shown, tables = [], []
    for column, label in (("seconds", "length in seconds"), ("rms_db", "loudness (RMS) in dB to full scale")):
        x = rows[column].to_numpy(float)
        bins = bins_of(x, BIN_CLIPS)
        table = means(x, errors, bins)
        for number in table.index:
            inside = bins == number
            samples = bootstrap(every.take(inside), groups=None if speakers is None else speakers[inside])
            table.loc[number, ["lo", "hi"]] = interval(samples)[["ci_low", "ci_high"]].to_numpy()[0]
        tables.append(table.reset_index().assign(over=column))
        shown.append(pictures.line(slug(column), f"Error against {label}", label, table))
    text = [
        "The absolute error of a clip, mean over its emotions, in bins of equal numbers of clips, with its 95% "
        f"interval by {'clip' if speakers is None else 'speaker'}."
    ]
    return Section(title, text, pictures=shown, numbers=pd.concat(tables, ignore_index=True))


def training_section(task: Task, about: About) -> Section:
    """The learning curves."""
    epochs = about.epochs
    if epochs.empty:
        return Section("Training", ["The run has logged no epochs."])
    captions = {"loss": "Loss on the training clips"} | {name: f"{name} on val" for name in SCORES[task.name]}
    shown = [pictures.curve(f"epochs-{name}", text, epochs[name]) for name, text in captions.items() if name in epochs]
    return Section("Training", pictures=shown, numbers=epochs.reset_index())


def corpus_section(about: About) -> Section:
    """The digest and the audit's warnings."""
    text = [f"Digest of all labels and audio (SHA-256): {about.digest}"]
    return Section("Corpus", text if about.warnings else [*text, "The audit warns of nothing."], about.warnings)


def settings_section(about: About) -> Section:
    """Every option, and the commands that repeat the run."""
    columns: Columns = [
        ("option", list(about.options)),
        ("value", [default_text(value) for value in about.options.values()]),
    ]
    return Section("Settings", ["This repeats the run:"], code=about.commands, table=columns)
