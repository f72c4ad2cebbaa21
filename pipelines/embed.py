"""Writes the embeddings of a split under a trained run, and draws them with t-SNE by country and by speaker."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from exvo.config import EmbedSettings, InputError
from pipelines.common import Ready, command
from pipelines.evaluate import reopen

if TYPE_CHECKING:
    from exvo.networks import Checkpoint


def run(settings: EmbedSettings) -> None:
    """Embeds in a run of its own."""
    from exvo import embeddings, lookup, tracking
    from exvo.training import resolve_device

    settings = replace(settings, device=resolve_device(settings.device))
    source = lookup.find_run(settings.run_id)
    options = lookup.training_options(source)
    checkpoint = lookup.load_checkpoint(source)
    embeddings.check_embedding(checkpoint.network, settings.embedding)
    with tracking.run("embed", output=settings.output) as run_id:
        tracking.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        tracking.log_evaluated(source, options["protocol"])
        embed(checkpoint, reopen(settings, source, options), settings, options)
        print(tracking.where_to_look(run_id))


def embed(checkpoint: Checkpoint, ready: Ready, settings: EmbedSettings, options: dict[str, Any]) -> None:
    """Computes, logs and draws the embeddings of one split.

    Raises:
        InputError: the split has too few clips for t-SNE.
    """
    from exvo import embeddings, tracking

    rows = ready.rows(settings.split)
    if len(rows) < embeddings.FEWEST_CLIPS:
        raise InputError(
            f"The corpus {ready.corpus.name} has {len(rows)} readable clips in its {settings.split} split; t-SNE needs "
            f"at least {embeddings.FEWEST_CLIPS}."
        )
    clips = ready.clips(settings.split, checkpoint.task, options["fill"])
    enrolment = ready.enrolment(settings.split, options["protocol"], options["shots"])
    found = embeddings.embed(
        checkpoint.network,
        clips,
        settings.device,
        settings.embedding,
        enrolment.clips,
        progress="embeddings",
        protocol=checkpoint.protocol,
    )
    table = embeddings.embedding_table(rows, found)
    name = f"embeddings/{settings.split}-{settings.embedding}"
    tracking.log_table(table, f"{name}.parquet")
    drawn = min(len(table), embeddings.MOST_DRAWN)
    print(f"{len(table)} embeddings of {found.shape[1]} numbers; drawing {drawn} of them with t-SNE", flush=True)
    about = f"{ready.name}, {settings.split} split"
    model = f"{options['model']} (task={options['task']})"
    pictures = embeddings.pictures(table, model, about, settings.embedding)
    for group, figure in pictures.items():
        tracking.log_figure(figure, f"{name}-by-{group}.png")
    told = [f"{name}.parquet", *(f"{name}-by-{group}.png" for group in pictures)]
    print(f"artifacts of the run: {', '.join(told)}")


if __name__ == "__main__":
    command("embed", run)
