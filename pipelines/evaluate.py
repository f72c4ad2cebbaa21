"""Scores a trained run on a split of its corpus: the only place where the test split is ever scored."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from exvo.config import EvaluateSettings, ExtractSettings, InputError, RunSettings, SubmitSettings
from exvo.options import command_line
from pipelines.common import (
    Ready,
    command,
    describe_enrolment,
    log_copies,
    log_corpus,
    log_page,
    read_corpus,
    report,
    require_readable,
)

if TYPE_CHECKING:
    import pandas as pd

    from exvo.lookup import Trained
    from exvo.networks import Checkpoint
    from exvo.tracking import Run


def run(settings: EvaluateSettings) -> None:
    """Evaluates in a run of its own."""
    from exvo import lookup, tracking
    from exvo.enrolment import EnrolmentSettings
    from exvo.training import resolve_device

    device = resolve_device(settings.device)
    source = lookup.find_run(settings.run_id)
    options = lookup.training_options(source)
    if options["task"] == "speaker":
        raise InputError(
            f"The run {source.info.run_name} is a speaker recogniser: the other splits have people that it does "
            "not know; its score on held-out clips of those it knows is in the run itself."
        )
    checkpoint = lookup.load_checkpoint(source)
    asked = settings.protocol
    settings = replace(
        settings,
        device=device,
        protocol=options["protocol"] if settings.protocol == "auto" else settings.protocol,
        shots=settings.shots or options["shots"],
    )
    if asked != "auto":
        checkpoint = replace(checkpoint, enrolment=EnrolmentSettings(settings.protocol, settings.shots))
    with tracking.run("evaluate", output=settings.output) as run_id:
        tracking.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        tracking.log_evaluated(source, settings.protocol)
        ready = reopen(settings, source, options)
        evaluate(checkpoint, ready, settings.split, device, options | asdict(settings), lookup.trained(source))
        print(tracking.where_to_look(run_id))


def reopen(settings: RunSettings | SubmitSettings, source: Run, options: dict[str, Any]) -> Ready:
    """The corpus of a training run, as it was; logs it in the present run.

    Raises:
        InputError: the corpus has changed or can't be read.
    """
    ready = read_corpus(corpus_settings(settings, options))
    log_corpus(ready)
    require_same(ready, source)
    require_readable(ready, options["skip_unreadable"])
    return ready


def require_same(ready: Ready, source: Run) -> None:
    """Refuses another corpus than that of a training run.

    Raises:
        InputError: the digest is another one.
    """
    from exvo import lookup

    trained_on = source.data.tags[lookup.DIGEST_TAG]
    if ready.audit.digest != trained_on:
        raise InputError(
            f"The corpus has the digest {ready.audit.digest[:12]}, but the run {source.info.run_name} was trained "
            f"on {trained_on[:12]}: labels, audio or order differ. Give the folder that it was trained on as data."
        )


def corpus_settings(settings: RunSettings | SubmitSettings, options: dict[str, Any]) -> ExtractSettings:
    """The run's corpus with this command's folder and workers."""
    names = {field.name for field in fields(ExtractSettings)}
    kept = {name: value for name, value in options.items() if name in names}
    kept |= {"workers": settings.workers, "output": settings.output}
    return ExtractSettings(**kept | ({"data": settings.data} if settings.data else {}))


def evaluate(
    checkpoint: Checkpoint, ready: Ready, split: str, device: str, options: dict[str, Any], trained: Trained
) -> None:
    """Predicts and scores one split; logs predictions, scores and the report.

    Args:
        checkpoint: of the training run; enrolment clips are filled under its protocol.
        ready: its corpus.
        split: to score.
        device: cpu or cuda.
        options: of the training run, with those of the evaluation.
        trained: the training run.

    Raises:
        InputError: the split has no clips.
    """
    from exvo.enrolment import swap
    from exvo.training import predict_each

    rows = ready.rows(split)
    if rows.empty:
        raise InputError(f"The corpus {ready.corpus.name} has no readable clips in its {split} split.")
    network, task = checkpoint.network, checkpoint.task
    clips = ready.clips(split, task, options["fill"])
    enrolment = ready.enrolment(split, options["protocol"], options["shots"])
    if network.personalised or options["protocol"] == "strict":
        print(describe_enrolment(ready, split, options["protocol"], options["shots"]), end="")
    log_copies(enrolment, split)
    enrolments = {"right": enrolment.clips}
    enrolling = {speaker for speaker, own in zip(clips.speakers, enrolment.clips, strict=True) if len(own)}
    if network.personalised and len(enrolling) > 1:
        enrolments |= {"typical": None, "wrong": swap(enrolment, clips.speakers)}
    outputs = predict_each(network, clips, device, list(enrolments.values()), None, split, checkpoint.protocol)
    tables = [task.table(rows, one, enrolment.scored) for one in outputs]
    scored = report(tables[0], task, split, options["model"], ready)
    if scored is not None:
        write_report(
            *scored, dict(zip(list(enrolments)[1:], tables[1:], strict=True)), checkpoint, ready, options, trained
        )


def write_report(
    predictions: pd.DataFrame,
    scores: pd.DataFrame,
    enrolled: dict[str, pd.DataFrame],
    checkpoint: Checkpoint,
    ready: Ready,
    options: dict[str, Any],
    trained: Trained,
) -> None:
    """Logs the report of a split and prints where it is."""
    from exvo.report import About, report

    split = predictions["split"].iloc[0]
    about = About(
        model=options["model"],
        corpus=ready.corpus.name,
        synthetic=ready.corpus.synthetic,
        split=split,
        run=f"{trained.name} ({trained.run_id})",
        digest=ready.audit.digest,
        warnings=ready.audit.warnings,
        options=options,
        commands=commands(trained, split, options),
        epochs=trained.epochs,
        enrolled=enrolled,
    )
    log_page(f"report/{split}", report(predictions, scores, checkpoint.task, about))
    print(f"report of the run: the artifact report/{split}.html")


def commands(trained: Trained, split: str, options: dict[str, Any]) -> str:
    """What repeats a training run, in a run of its own, and the scoring of one split of this one."""
    from exvo.lookup import ENTRY_TAG

    tags = trained.tags
    entry_point = tags[ENTRY_TAG]
    commit = tags.get("git.commit", "none")
    lines = [] if commit == "none" else [f"git checkout {commit}"]
    if tags.get("git.dirty") == "true":
        lines.append("git apply uncommitted.diff.txt   # an artifact of the training run; new files are not in it")
    if tags.get("git.dirty") == "unknown":
        lines.append("# git could not tell whether there were uncommitted changes")
    lines.append(command_line(entry_point, trained.options))
    if (entry_point, split) != ("main", "test"):
        chosen = {"run_id": trained.run_id, "split": split, "protocol": options["protocol"], "shots": options["shots"]}
        lines.append(command_line("evaluate", chosen))
    return "\n".join(lines)


if __name__ == "__main__":
    command("evaluate", run)
