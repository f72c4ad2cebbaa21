"""Writes the embeddings of a split, and draws them with t-SNE.

The pictures show them by country and by speaker.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from exvo.config import EmbedSettings
from exvo.devices import resolve_device
from exvo.errors import InputError
from exvo.experiments.corpus import Ready, reopen
from exvo.networks.checkpoint import Checkpoint
from exvo.networks.inference import check_embedding, embed_clips
from exvo.reports import tsne
from exvo.tracking import artifacts, lookup, models, runs


def run(settings: EmbedSettings) -> None:
    """Embeds in a run of its own."""
    settings = replace(settings, device=resolve_device(settings.device))
    source = lookup.find_run(settings.run_id)
    options = artifacts.training_options(source)
    checkpoint = models.checkpoint_of(source)
    check_embedding(checkpoint.network, settings.embedding)
    with runs.start_run("embed", output=settings.output) as run_id:
        runs.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        runs.log_evaluated(source, options["protocol"])
        embed(checkpoint, reopen(settings, source, options), settings, options)
        print(runs.where_to_look(run_id))


def embed(checkpoint: Checkpoint, ready: Ready, settings: EmbedSettings, options: dict[str, Any]) -> None:
    """Computes, logs and draws the embeddings of one split.

    Raises:
        InputError: the split has too few clips for t-SNE.
    """
    rows = ready.rows(settings.split)
    if len(rows) < tsne.FEWEST_CLIPS:
        raise InputError(
            f"The corpus {ready.corpus.name} has {len(rows)} readable clips in its {settings.split} split; t-SNE needs "
            f"at least {tsne.FEWEST_CLIPS}."
        )
    clips = ready.clips(settings.split, checkpoint.task, options["fill"])
    enrolment = ready.enrolment(settings.split, options["protocol"], options["shots"])
    found = embed_clips(
        checkpoint.network,
        clips,
        settings.device,
        settings.embedding,
        enrolment.clips,
        progress="embeddings",
        protocol=checkpoint.protocol,
    )
    table = tsne.embedding_table(rows, found)
    name = f"embeddings/{settings.split}-{settings.embedding}"
    runs.log_table(table, f"{name}.parquet")
    drawn = min(len(table), tsne.MOST_DRAWN)
    print(f"{len(table)} embeddings of {found.shape[1]} numbers; drawing {drawn} of them with t-SNE", flush=True)
    about = f"{ready.name}, {settings.split} split"
    model = f"{options['model']} (task={options['task']})"
    pictures = tsne.pictures(table, model, about, settings.embedding)
    for group, figure in pictures.items():
        runs.log_figure(figure, f"{name}-by-{group}.png")
    told = [f"{name}.parquet", *(f"{name}-by-{group}.png" for group in pictures)]
    print(f"artifacts of the run: {', '.join(told)}")
