"""Writes the embeddings of a split, and draws them with t-SNE.

The pictures show them by country and by speaker.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from exvo.devices import resolve_device
from exvo.errors import InputError
from exvo.experiments.corpus import Ready, reopen
from exvo.networks.checkpoint import Checkpoint
from exvo.networks.inference import check_embedding, embed_clips
from exvo.reports import tsne
from exvo.settings import EmbedSettings, TrainSettings
from exvo.tracking import artifacts, experiments, lookup, models, runs


def run(settings: EmbedSettings) -> None:
    """Embeds in a run of its own."""
    settings = replace(settings, device=resolve_device(settings.device))
    source = lookup.find_run(settings.run_id)
    training = artifacts.require_training(source)
    checkpoint = models.checkpoint_of(source)
    check_embedding(checkpoint.network, settings.embedding)
    with runs.start_run("embed", output=settings.output) as run_id:
        runs.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        runs.log_evaluated(source, training.protocol)
        embed(checkpoint, reopen(settings, source, training), settings, training)
        print(experiments.where_to_look(run_id))


def embed(checkpoint: Checkpoint, ready: Ready, settings: EmbedSettings, training: TrainSettings) -> None:
    """Computes, logs and draws the embeddings of one split.

    Args:
        checkpoint: the network.
        ready: the corpus.
        settings: this command's.
        training: the training run's.

    Raises:
        InputError: the split has too few clips for t-SNE.
    """
    rows = ready.rows(settings.split)
    if len(rows) < tsne.FEWEST_CLIPS:
        raise InputError(
            f"The corpus {ready.corpus.name} has {len(rows)} readable clips in its {settings.split} split; t-SNE needs "
            f"at least {tsne.FEWEST_CLIPS}."
        )
    clips = ready.clips(settings.split, checkpoint.task, training.fill)
    enrolment = ready.enrolment(settings.split, training.protocol, training.shots)
    embeddings = embed_clips(
        checkpoint.network,
        clips,
        settings.device,
        settings.embedding,
        enrolment.clips,
        progress="embeddings",
        protocol=checkpoint.protocol,
    )
    table = tsne.embedding_table(rows, embeddings)
    name = f"embeddings/{settings.split}-{settings.embedding}"
    runs.log_table(table, f"{name}.parquet")
    drawn = min(len(table), tsne.MOST_DRAWN)
    print(f"{len(table)} embeddings of {embeddings.shape[1]} numbers; drawing {drawn} of them with t-SNE", flush=True)
    clips_shown = f"{ready.name}, {settings.split} split"
    model = f"{training.model} (task={training.task})"
    pictures = tsne.tsne_figures(table, model, clips_shown, settings.embedding)
    for group, figure in pictures.items():
        runs.log_figure(figure, f"{name}-by-{group}.png")
    paths = [f"{name}.parquet", *(f"{name}-by-{group}.png" for group in pictures)]
    print(f"artifacts of the run: {', '.join(paths)}")
