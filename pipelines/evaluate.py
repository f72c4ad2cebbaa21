"""Scores a trained run on a split of its corpus: the only place where the test split is ever scored."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from exvo.config import EvaluateSettings, ExtractSettings, InputError
from pipelines.common import Ready, command, log_corpus, read_corpus, report, require_readable

if TYPE_CHECKING:
    from exvo.networks import Checkpoint


def run(settings: EvaluateSettings) -> None:
    """Evaluates in a run of its own."""
    from exvo import tracking
    from exvo.training import resolve_device

    device = resolve_device(settings.device)
    source = tracking.find_run(settings.run_id)
    options = tracking.load_settings(source)["options"]
    checkpoint = tracking.load_checkpoint(source)
    with tracking.run("evaluate") as run_id:
        tracking.log_settings(asdict(settings) | {"device": device}, {"evaluated_run": source.info.run_id})
        ready = read_corpus(corpus_settings(settings, options))
        log_corpus(ready)
        trained_on = source.data.tags[tracking.DIGEST_TAG]
        if ready.audit.digest != trained_on:
            raise InputError(
                f"The corpus has the digest {ready.audit.digest[:12]}, but the run {source.info.run_name} was trained "
                f"on {trained_on[:12]}: labels, audio or order differ. Give the folder that it was trained on as data."
            )
        require_readable(ready, options["skip_unreadable"])
        evaluate(checkpoint, ready, settings.split, device, options)
        print(tracking.where_to_look(run_id))


def corpus_settings(settings: EvaluateSettings, options: dict[str, Any]) -> ExtractSettings:
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
    outputs = predict(checkpoint.network, clips, device, progress=split)
    report(checkpoint.task.table(rows, outputs), checkpoint.task, split, options["model"], ready)


if __name__ == "__main__":
    command("evaluate", run)
