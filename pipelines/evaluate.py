"""Scores a trained run on a split of its corpus: the only place where the test split is ever scored."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from exvo.config import EvaluateSettings, ExtractSettings, InputError, RunSettings
from pipelines.common import Ready, command, describe_enrolment, log_corpus, read_corpus, report, require_readable

if TYPE_CHECKING:
    from exvo.networks import Checkpoint
    from exvo.tracking import Run


def run(settings: EvaluateSettings) -> None:
    """Evaluates in a run of its own."""
    from exvo import tracking
    from exvo.training import resolve_device

    device = resolve_device(settings.device)
    source = tracking.find_run(settings.run_id)
    options = tracking.load_settings(source)["options"]
    if options["task"] == "speaker":
        raise InputError(
            f"The run {source.info.run_name} is a speaker recogniser: the other splits have people that it does "
            "not know; its score on held-out clips of those it knows is in the run itself."
        )
    checkpoint = tracking.load_checkpoint(source)
    settings = replace(
        settings,
        device=device,
        protocol=options["protocol"] if settings.protocol == "auto" else settings.protocol,
        shots=settings.shots or options["shots"],
    )
    with tracking.run("evaluate") as run_id:
        tracking.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        tracking.log_evaluated(source, settings.protocol)
        evaluate(checkpoint, reopen(settings, source, options), settings.split, device, options | asdict(settings))
        print(tracking.where_to_look(run_id))


def reopen(settings: RunSettings, source: Run, options: dict[str, Any]) -> Ready:
    """The corpus of a training run, as it was; logs it in the present run.

    Raises:
        InputError: the corpus has changed or can't be read.
    """
    from exvo import tracking

    ready = read_corpus(corpus_settings(settings, options))
    log_corpus(ready)
    trained_on = source.data.tags[tracking.DIGEST_TAG]
    if ready.audit.digest != trained_on:
        raise InputError(
            f"The corpus has the digest {ready.audit.digest[:12]}, but the run {source.info.run_name} was trained "
            f"on {trained_on[:12]}: labels, audio or order differ. Give the folder that it was trained on as data."
        )
    require_readable(ready, options["skip_unreadable"])
    return ready


def corpus_settings(settings: RunSettings, options: dict[str, Any]) -> ExtractSettings:
    """The run's corpus with this command's folder and workers."""
    names = {field.name for field in fields(ExtractSettings)}
    kept = {name: value for name, value in options.items() if name in names}
    kept |= {"workers": settings.workers, "output": settings.output}
    return ExtractSettings(**kept | ({"data": settings.data} if settings.data else {}))


def evaluate(checkpoint: Checkpoint, ready: Ready, split: str, device: str, options: dict[str, Any]) -> None:
    """Predicts and scores one split; logs predictions and scores.

    Raises:
        InputError: the split has no clips.
    """
    from exvo.training import predict

    rows = ready.rows(split)
    if rows.empty:
        raise InputError(f"The corpus {ready.corpus.name} has no readable clips in its {split} split.")
    clips = ready.clips(split, checkpoint.task, options["fill"])
    enrolment = ready.enrolment(split, options["protocol"], options["shots"])
    if checkpoint.network.personalised or options["protocol"] == "strict":
        print(describe_enrolment(ready, split, options["protocol"], options["shots"]), end="")
    outputs = predict(checkpoint.network, clips, device, enrolment.clips, progress=split)
    predictions = checkpoint.task.table(rows, outputs, enrolment.scored)
    report(predictions, checkpoint.task, split, options["model"], ready)


if __name__ == "__main__":
    command("evaluate", run)
