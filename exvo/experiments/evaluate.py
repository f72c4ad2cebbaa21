"""Scores a trained run on a split of its corpus, with a report.

Training scores the validation split alone. The test split is scored here, and where a command is asked to.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from exvo.config import ELSEWHERE, POOLED
from exvo.corpora.options import require_elsewhere
from exvo.devices import resolve_device
from exvo.enrolment import EnrolmentSettings
from exvo.errors import InputError
from exvo.evaluation import results, scoring
from exvo.evaluation.prior import Prior, prior_of
from exvo.experiments.calibration import log_loss_metric, log_loss_of
from exvo.experiments.corpus import Ready, reopen
from exvo.experiments.prediction import UNCALIBRATED, predictions_of
from exvo.features.containers import AudioError
from exvo.features.playback import playable
from exvo.networks.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from exvo.options import command_line
from exvo.reports import listening
from exvo.reports.description import description
from exvo.reports.lead import OTHER_CLIPS, OTHER_CORPUS, TRAINED_ON, UNHEARD
from exvo.reports.page import Section
from exvo.reports.run import RunFacts, report_page
from exvo.reports.sentences import score_sentence
from exvo.reports.tables import split_text
from exvo.settings import EvaluateSettings, TrainSettings
from exvo.tasks import Task
from exvo.text import NO_SPEAKERS
from exvo.tracking import artifacts, experiments, labels, lookup, models, runs
from exvo.tracking.artifacts import Trained
from exvo.tracking.tags import ENTRY_TAG, OTHER_SHOTS_TAG, SYSTEM_TAG


@dataclass(frozen=True, eq=False)
class ScoredSplit:
    """A split that is predicted and scored.

    Attributes:
        predictions: the predictions table, with each clip's length and loudness.
        scores: with their intervals, see `scoring.score`.
    """

    predictions: pd.DataFrame
    scores: pd.DataFrame


def log_scores(predictions: pd.DataFrame, task: Task, split: str, model: str, ready: Ready) -> ScoredSplit | None:
    """Logs the predictions of a split and its scores, and prints the headline score.

    A split without labels (HUME-VB's test split) is predicted, not scored.

    Returns:
        What was logged; None where nothing was scored.
    """
    if split != POOLED:
        predictions = ready.with_audio(predictions, split)
    runs.log_table(predictions, f"predictions/{split}.parquet")
    rows = scoring.scorable(predictions)
    clips = "held-out clips of the train split" if task.name == "speaker" else split_text(split)
    share = f", {len(rows)} of them scored" if len(rows) < len(predictions) else ""
    print(f"\n{model} on {ready.name}, {clips}, {len(predictions)} clips{share}")
    if len(rows) < 2:
        print(f"no labels to score against; the predictions are the run's artifact predictions/{split}.parquet")
        return None
    scores = scoring.score(predictions, task)
    runs.log_table(scores, f"scores/{split}.csv")
    runs.log_metrics(scoring.as_metrics(scores, split))
    print(score_sentence(scores, scoring.headline(task)))
    return ScoredSplit(predictions, scores)


def run(settings: EvaluateSettings) -> None:
    """Evaluates in a run of its own."""
    settings = replace(settings, device=resolve_device(settings.device))
    require_elsewhere(settings)
    source = lookup.find_run(settings.run_id)
    training = artifacts.require_training(source)
    if training.task == "speaker":
        raise InputError(
            f"The run {source.info.run_name} is a speaker recogniser: the other splits have people that it does "
            "not know; its score on held-out clips of those it knows is in the run itself."
        )
    checkpoint = models.checkpoint_of(source)
    own = training.protocol, training.shots
    shots, asks_for_protocol = settings.shots or training.shots, settings.protocol != "auto"
    settings = replace(settings, protocol=settings.protocol if asks_for_protocol else training.protocol, shots=shots)
    training = replace(training, protocol=settings.protocol, shots=shots, device=settings.device)
    if asks_for_protocol:
        checkpoint = replace(checkpoint, enrolment=EnrolmentSettings(settings.protocol, shots))
    with runs.start_run("evaluate", output=settings.output, beside=source.info.run_id) as run_id:
        runs.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        runs.log_evaluated(source, settings.protocol, settings.elsewhere)
        if shots != own[1]:
            runs.set_tags({OTHER_SHOTS_TAG: shots})
        if settings.elsewhere:
            from exvo.experiments.elsewhere import evaluate_elsewhere  # which uses this module

            evaluate_elsewhere(checkpoint, settings, source, training)
            print(experiments.where_to_look(run_id))
            return
        ready = reopen(settings, source, training)
        scored = evaluate(checkpoint, ready, settings.split, training, artifacts.trained(source), settings)
        if scored is not None and settings.split == "test" and own == (settings.protocol, shots):
            report = runs.artifact_page("report/test.html")
            text = described(scored, checkpoint.task, "test", ready, training, report)
            labels.write_on(source, settings.output, scoring.as_metrics(scored.scores, "test"), text)
        print(experiments.where_to_look(run_id))


def evaluate(
    checkpoint: Checkpoint,
    ready: Ready,
    split: str,
    settings: TrainSettings,
    trained: Trained,
    command: EvaluateSettings | None = None,
) -> ScoredSplit | None:
    """Predicts and scores one split; logs predictions, scores and the report.

    Args:
        checkpoint: of the training run; enrolment clips are filled under its protocol.
        ready: its corpus.
        split: to score.
        settings: of the training run; device, protocol and shots are those of the evaluation.
        trained: the training run.
        command: the settings of `evaluate`; None where the training run itself evaluates.

    Returns:
        As `log_scores`.

    Raises:
        InputError: the split has no clips.
    """
    tables = predictions_of(checkpoint, ready, split, settings, cluster=command.cluster if command else "")
    scored = log_scores(tables.pop("right"), checkpoint.task, split, settings.model, ready)
    if scored is not None:
        log_report(scored, tables, checkpoint.task, split, ready, settings, trained, command, checkpoint=checkpoint)
    return scored


def evaluate_best(settings: TrainSettings, ready: Ready, run_id: str) -> ScoredSplit | None:
    """Scores the best epoch of the present run, which has trained, on the test split; says where there is nothing.

    Args:
        settings: of the run, without `auto`.
        ready: its corpus.
        run_id: of the run.

    Returns:
        As `log_scores`.
    """
    if settings.task == "speaker":
        print("The test split has other people than a speaker recogniser knows; the score above is all there is.")
        return None
    if ready.rows("test").empty:
        print("The corpus has no test split; the validation score above is all there is.")
        return None
    checkpoint = load_checkpoint(Path(settings.output) / "runs" / run_id / WEIGHTS)
    return evaluate(checkpoint, ready, "test", settings, runs.trained(settings))


def described(
    scored: ScoredSplit, task: Task, split: str, ready: Ready, settings: TrainSettings, report: str = ""
) -> str:
    """The description of a run by its scores of a split.

    Args:
        scored: the split.
        task: what was learnt.
        split: its name.
        ready: the corpus.
        settings: of the training; protocol and shots are those of the scores.
        report: its address in the UI; empty where there is none.
    """
    speakers = set(scoring.scorable(scored.predictions)["speaker"])
    count = 0 if "" in speakers else len(speakers)
    text = description(split, scored.scores, task, settings, ready.name, count, report)
    return text if ready.corpus.has_speakers else f"{text}\n\n{NO_SPEAKERS}"


def log_report(
    scored: ScoredSplit,
    enrolled: Mapping[str, pd.DataFrame],
    task: Task,
    split: str,
    ready: Ready,
    settings: TrainSettings,
    trained: Trained,
    command: EvaluateSettings | None = None,
    sections: Sequence[Section] = (),
    checkpoint: Checkpoint | None = None,
    prior: Prior | None = None,
) -> None:
    """Logs the report of a split, and the further tables of `predictions_of`, see `evaluate`.

    `sections` are put behind the scores; `checkpoint` is of the network, None where there are several; `prior` is that
    of the training labels, None where they are in the corpus.
    """
    others = dict(enrolled)
    uncalibrated = log_loss_of(others.pop(UNCALIBRATED), task) if UNCALIBRATED in others else math.nan
    if not math.isnan(uncalibrated):
        runs.log_metrics({log_loss_metric(split): uncalibrated})
    for name, table in others.items():
        runs.log_table(table, f"enrolment/{split}-{name}.parquet")
    if prior is None:
        prior = prior_of(ready.corpus.clips if split == POOLED else ready.rows("train"), task)
    condition = results.Condition(ready.corpus.name, ready.audit.digest, task.name, settings.protocol, split)
    published = results.published_figure(condition, trained.tags.get(SYSTEM_TAG, ""), scoring.headline(task))
    about = RunFacts(
        model=settings.model,
        corpus=ready.corpus.name,
        synthetic=ready.corpus.synthetic,
        split=split,
        run=f"{trained.name} ({trained.run_id})",
        digest=ready.audit.digest,
        warnings=ready.audit.warnings,
        options=asdict(settings) | (asdict(command) if command else {}),
        commands=commands(trained, split, settings, command),
        epochs=trained.epochs,
        enrolled=others,
        people=people(ready, split),
        prior=prior,
        temperature=checkpoint.temperature if checkpoint else None,
        levels=checkpoint.levels if checkpoint else (),
        uncalibrated=uncalibrated,
        published=published,
        selected=ready.corpus.selected,
        sounds=sounds(scored.predictions, task, ready),
    )
    page = report_page(scored.predictions, scored.scores, task, about)
    page = replace(page, sections=[*page.sections[:1], *sections, *page.sections[1:]])
    runs.log_page(f"report/{split}", page)
    runs.describe(described(scored, task, split, ready, settings, runs.artifact_page(f"report/{split}.html")))
    print(f"report of the run: the artifact report/{split}.html")


def sounds(predictions: pd.DataFrame, task: Task, ready: Ready) -> dict[str, bytes]:
    """The worst and the best clips of a split to play, by file; none of a corpus whose licence may forbid it."""
    if ready.corpus.name not in listening.MAY_BE_PASSED_ON:
        return {}
    rows = scoring.scorable(predictions)
    worst, best = listening.worst_and_best(rows, task)
    found = {}
    for file in rows["file"].iloc[[*worst, *best]]:
        with contextlib.suppress(AudioError):  # it has gone since
            found[file] = playable(ready.corpus.folder, file)
    return found


def people(ready: Ready, split: str) -> str:
    """Whose clips a split holds, as seen from training, for a sentence."""
    if split == "train":
        return TRAINED_ON
    if split in (POOLED, ELSEWHERE):
        return UNHEARD if split == POOLED else OTHER_CORPUS
    speakers, trained = (set(ready.rows(name)["speaker"]) for name in (split, "train"))
    return OTHER_CLIPS if "" in speakers or speakers & trained else UNHEARD


def commands(trained: Trained, split: str, settings: TrainSettings, command: EvaluateSettings | None = None) -> str:
    """The commands that repeat a training run in a run of its own, and the scoring of one split of this one."""
    tags = trained.tags
    entry_point = tags[ENTRY_TAG]
    commit = tags.get("git.commit", "none")
    lines = [] if commit == "none" else [f"git checkout {commit}"]
    if tags.get("git.dirty") == "true":
        lines.append("git apply uncommitted.diff.txt   # an artifact of the training run; new files are not in it")
    if tags.get("git.dirty") == "unknown":
        lines.append("# git could not tell whether there were uncommitted changes")
    lines.append(command_line(entry_point, asdict(trained.settings)))
    if split == ELSEWHERE and command is not None:
        lines.append(command_line("evaluate", asdict(command) | {"run_id": trained.run_id}))
    elif split != POOLED and (entry_point, split) != ("main", "test"):
        options = {"run_id": trained.run_id, "split": split, "protocol": settings.protocol, "shots": settings.shots}
        lines.append(command_line("evaluate", options))
    return "\n".join(lines)
