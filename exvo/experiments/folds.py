"""Cross-validation by speaker: a run with a run for each fold beneath it, and the pooled scores of all clips."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from exvo import systems
from exvo.config import POOLED, SPEAKERS
from exvo.corpora.splits import fold_count, untrained
from exvo.errors import InputError
from exvo.evaluation import scoring
from exvo.evaluation.groups import group_scores, with_intervals
from exvo.evaluation.prior import chance
from exvo.experiments.children import Child, read_child, write_child
from exvo.experiments.corpus import Ready, log_corpus, read_corpus, require_usable_clips
from exvo.experiments.evaluate import log_report, log_scores
from exvo.experiments.features import open_extractor, record
from exvo.experiments.prediction import predictions_of
from exvo.experiments.resume import Begun, resumable
from exvo.experiments.train import Watch, log_system, start, train, training_task
from exvo.networks.checkpoint import WEIGHTS, load_checkpoint
from exvo.networks.run_encoder import RunEncoder
from exvo.progress import duration
from exvo.reports import pictures
from exvo.reports.names import score_name
from exvo.reports.page import Section
from exvo.reports.tables import columns_of, interval_texts, number_texts
from exvo.settings import TrainSettings
from exvo.systems import SystemConfig
from exvo.tasks import Task
from exvo.text import listing, printable
from exvo.tracking import experiments, lookup, runs
from exvo.tracking.tags import DIGEST_TAG, FOLD_TAG, FOLDS_TAG
from exvo.training.states import Epoch, States

LONG = 60.0
"""Seconds from which on it is said how long all folds take."""


def cross_validate(entry_point: str, settings: TrainSettings, system: SystemConfig) -> None:
    """Trains and tests each fold in a run beneath the command's, then scores the clips of all folds together.

    Every clip is predicted once, by the model that has not heard its speaker. Folds that are done are not done again
    by the command that goes on with a run.

    Args:
        entry_point: train or main.
        settings: without `auto`.
        system: that they train.

    Raises:
        InputError: the folds can't be made of the corpus, or the system knows the speakers of a fold already.
    """
    require_new_speakers(settings, system)
    with resumable(entry_point, settings, system) as begun:
        ready = start_folds(settings, system, begun.ready)
        alone, settings = settings.folds == SPEAKERS, replace(settings, folds=fold_count(ready.corpus))
        folder = Path(settings.output) / "runs" / begun.run_id / "folds"
        tested: list[Child] = []
        for number in numbers(ready):
            done = read_child(folder, number)
            if done is None:
                begun.fold = number
                done = train_fold(settings, system, ready.fold(number, len(numbers(ready))), begun)
                write_child(folder, number, done)
            else:
                print(f"fold {number} of {settings.folds} is done: run {done.run} ({done.run_id})")
            tested.append(done)
        task = training_task(settings, system, ready.fold(1, len(tested)).corpus)
        log_pooled(settings, task, ready, tested, alone)
        print(experiments.where_to_look(begun.run_id))
    shutil.rmtree(folder, ignore_errors=True)


def numbers(ready: Ready) -> range:
    """The numbers of the folds of a corpus."""
    return range(1, fold_count(ready.corpus) + 1)


def require_new_speakers(settings: TrainSettings, system: SystemConfig) -> None:
    """Refuses what makes no sense where each fold is to be tested by a model that has not heard its speakers.

    Raises:
        InputError: the task is to tell speakers apart, or training starts from a run that has heard them.
    """
    if settings.task == "speaker":
        raise InputError(
            "folds test a model on new speakers, of whom task=speaker knows none; leave folds out, and it holds out "
            "clips of the speakers that it knows."
        )
    if settings.init.startswith("runs:/") or (system.start in systems.SYSTEMS and not settings.init):
        source = settings.init or f"a run of {system.start}"
        raise InputError(
            f"folds={settings.folds} with weights from {source}: that run may have learnt from the speakers that a "
            "fold tests; start from random weights, or from a file of PANNs weights."
        )


def require_new_encoder(settings: TrainSettings, ready: Ready) -> None:
    """Refuses the embeddings of a run that has learnt from this corpus: it may have heard the speakers of a fold.

    Raises:
        InputError: they are.
    """
    if not isinstance(ready.extractor, RunEncoder):
        return
    source = lookup.find_run(settings.features, "features")
    if source.data.tags.get(DIGEST_TAG) == ready.audit.digest:
        raise InputError(
            f"folds={settings.folds} with features={settings.features}: the run {source.info.run_name} has learnt from "
            "speakers of this corpus, whom a fold would test; take a run of another corpus, or leave folds out."
        )


def require_two_clips(ready: Ready) -> None:
    """Refuses to leave out speakers of whom a single clip can be read: a score takes two.

    Raises:
        InputError: names them.
    """
    clips = ready.corpus.clips[(ready.audio["problem"] == "").to_numpy()]
    counts = clips.loc[clips["split"] != "", "speaker"].value_counts()
    lone = sorted(counts.index[counts < 2])
    if lone:
        without = "|".join(map(printable, lone[:3]))
        raise InputError(
            f"folds={SPEAKERS}: of {len(lone)} speakers a single clip can be read, and a score takes two: "
            f"{listing(lone)}; leave them out (where=speaker!={without}), or give a number of folds."
        )


def start_folds(settings: TrainSettings, system: SystemConfig, ready: Ready | None) -> Ready:
    """Logs the settings and the corpus in the command's run, after all that can be refused was looked at.

    Raises:
        InputError: the corpus can't be used, or one of its folds can't be trained.
    """
    features = record(open_extractor(settings.features, settings.device))
    runs.log_settings(asdict(settings), {"system": asdict(system), "features": features})
    log_system(settings)
    ready = ready or read_corpus(settings)
    log_corpus(ready)
    count = fold_count(ready.corpus)
    runs.set_tags({FOLDS_TAG: count})
    require_new_encoder(settings, ready)
    if settings.folds == SPEAKERS:
        require_two_clips(ready)
    require_usable_clips(ready, settings.skip_unreadable, [f"fold {number}" for number in numbers(ready)])
    for number in numbers(ready):
        task = training_task(settings, system, ready.fold(number, count).corpus)
    runs.log_resolved({"objective": task.objective})
    print(
        f"{count} folds, each a training of {settings.epochs} epochs at most; the first epoch tells how long all take"
    )
    unheard = untrained(ready.corpus, count)
    if unheard:
        print(f"can't be recognised, because no speaker of the folds that train has the category: {listing(unheard)}")
        runs.set_tags({"exvo.untrained": listing(unheard)})
    runs.keep_run()
    return ready


def train_fold(settings: TrainSettings, system: SystemConfig, ready: Ready, begun: Begun) -> Child:
    """Trains one fold in a run beneath the command's, in that of an earlier command where there is one.

    Args:
        settings: without `auto`.
        system: that they train.
        ready: the corpus with the splits of the fold.
        begun: the command's run and the number of the fold.
    """
    counts = ready.corpus.clips.groupby("split")["speaker"].nunique()
    speakers = f"{counts['train']} speakers to learn from, {counts['val']} to validate, {counts['test']} to test"
    print(f"\nfold {begun.fold} of {settings.folds}: {speakers}", flush=True)
    earlier, tags = lookup.run_beneath(begun.run_id, FOLD_TAG, begun.fold), {FOLD_TAG: str(begun.fold)}
    with runs.start_run("train", earlier, parent=begun.run_id, tags=tags, output=settings.output) as run_id:
        best_file = Path(settings.output) / "runs" / run_id / WEIGHTS
        begun.states = States(best_file, f"{begun.command}-{begun.fold}")
        start(settings, system, ready)
        best = train(settings, system, ready, run_id, time_all(settings, begun.fold), begun.states)
        checkpoint = load_checkpoint(best_file)
        tables = predictions_of(checkpoint, ready, "test", settings)
        log_scores(tables["right"], checkpoint.task, "test", settings.model, ready)
        name = runs.present_run().name
    begun.states.clear()
    tables = {name: ready.with_audio(table, "test") for name, table in tables.items()}
    return Child(run_id, name, best.number, tables)


def time_all(settings: TrainSettings, fold: int) -> Watch:
    """Prints after the first epoch of a fold how long this one and those after it take, where that is over a minute."""

    def watch(epoch: Epoch) -> None:
        left = int(settings.folds) - fold + 1
        seconds = (epoch.seconds + epoch.validation_seconds) * (settings.epochs or 1) * left
        if epoch.number == 1 and seconds > LONG and (fold == 1 or left == 1 or fold % 10 == 0):
            print(f"at this pace {left} folds take about {duration(seconds)}, less where they stop early", flush=True)

    return watch


def log_pooled(settings: TrainSettings, task: Task, ready: Ready, tested: Sequence[Child], alone: bool) -> None:
    """Logs the predictions of all folds as one table, its scores by clip and by speaker, and the report.

    Args:
        settings: without `auto`.
        task: of the folds.
        ready: the corpus with its folds.
        tested: each fold, in order.
        alone: whether each fold is one speaker.
    """
    order = {file: place for place, file in enumerate(ready.corpus.clips["file"])}
    names = [name for name in tested[0].predictions if all(name in fold.predictions for fold in tested)]
    pooled = {
        name: pd.concat([fold.predictions[name].assign(fold=number) for number, fold in enumerate(tested, 1)])
        .sort_values("file", key=lambda files: files.map(order))
        .reset_index(drop=True)
        for name in names
    }
    table = speaker_table(pooled["right"], task, tested) if alone else fold_table(pooled["right"], task, tested)
    runs.log_table(table, "folds.csv")
    print()
    headline = scoring.headline(task)
    shown = table.rename(columns={headline: score_name(headline), "best_epoch": "best epoch"})
    print(shown.to_string(index=False, float_format=lambda number: f"{number:.4f}"))
    scored = log_scores(pooled.pop("right"), task, POOLED, settings.model, ready)
    if scored is not None:
        section = alone_section(table, task) if alone else folds_section(table, headline)
        log_report(scored, pooled, task, POOLED, ready, settings, runs.trained(settings), sections=[section])


def fold_table(pooled: pd.DataFrame, task: Task, tested: Sequence[Child]) -> pd.DataFrame:
    """A row a fold: its number, its speakers and clips, the headline score of these, the best epoch, and the run."""
    rows = []
    for number, fold in enumerate(tested, 1):
        clips = pooled[pooled["fold"] == number]
        score = scoring.score_epoch(clips, task)[scoring.headline(task)]
        rows.append((number, clips["speaker"].nunique(), len(clips), score, fold.best_epoch, fold.run, fold.run_id))
    columns = ["fold", "speakers", "clips", scoring.headline(task), "best_epoch", "run", "run_id"]
    return pd.DataFrame(rows, columns=columns)


def speaker_table(pooled: pd.DataFrame, task: Task, tested: Sequence[Child]) -> pd.DataFrame:
    """`fold_table` where each fold is one speaker, the worst first, with an interval over the speaker's own clips."""
    table = fold_table(pooled, task, tested).drop(columns="speakers")
    rows = scoring.scorable(pooled)
    names = rows["speaker"].to_numpy(str)
    metric = scoring.headline(task)
    clips = scoring.statistics_of(rows, task, metric)
    scores = with_intervals(group_scores(clips, names, metric), clips, names, metric)
    speakers = pooled.groupby("fold")["speaker"].first()
    table.insert(0, "speaker", table["fold"].map(speakers))
    for end in ("lo", "hi"):
        table[end] = table["speaker"].map(scores[end])
    return table.sort_values(metric, kind="stable", ignore_index=True)


def alone_section(table: pd.DataFrame, task: Task) -> Section:
    """Each speaker's score under a model that has heard all others but one, the worst first."""
    metric = scoring.headline(task)
    title = score_name(metric)
    text = [
        "Each speaker was tested by a model that has learnt from all others but the one by whom its best epoch was "
        "chosen. Brackets are 95% intervals over the speaker's own clips; where there are few clips somebody always "
        "looks worst."
    ]
    cells = zip(
        table["speaker"], number_texts(table[metric], 3), interval_texts(table["lo"], table["hi"], 3), strict=True
    )
    rows = [
        (speaker, score, "" if bounds == "undefined" else bounds, f"{row['clips']:,}", str(row["best_epoch"]))
        for (speaker, score, bounds), row in zip(cells, table.to_dict("records"), strict=True)
    ]
    columns = columns_of(["speaker", title, "95% by clip", "clips", "best epoch"], rows)
    guessed = chance(task) if task.name == "fewshot" else math.nan
    caption = f"{title} of each speaker, the worst first; the dashed line is chance"
    picture = pictures.ranking(
        "speakers-alone", caption, table["speaker"], table.rename(columns={metric: "value"}), title, guessed
    )
    return Section("Speakers, each left out", text, pictures=[picture], table=columns, numbers=table)


def folds_section(table: pd.DataFrame, headline: str) -> Section:
    """The folds side by side."""
    text = [
        "Speakers were dealt to the folds. The model of a fold has learnt from the others, but for the next one, by "
        "which its best epoch was chosen; so each clip is predicted once, by a model that has not heard its speaker. "
        "The scores above are over all clips together; their intervals by speaker are over all speakers."
    ]
    scores = number_texts(table[headline], 3)
    cells = [
        (str(row["fold"]), f"{row['speakers']:,}", f"{row['clips']:,}", score, str(row["best_epoch"]), str(row["run"]))
        for row, score in zip(table.to_dict("records"), scores, strict=True)
    ]
    columns = columns_of(["fold", "speakers", "clips", score_name(headline), "best epoch", "run"], cells)
    return Section("Folds", text, table=columns, numbers=table)
