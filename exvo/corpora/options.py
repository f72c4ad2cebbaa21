"""Which corpus the options of an entry point name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from exvo import corpora
from exvo.corpora.base import Corpus
from exvo.errors import InputError
from exvo.settings import ExtractSettings, RunSettings, SubmitSettings, TrainSettings


def load_corpus(settings: ExtractSettings) -> Corpus:
    """Reads the table of a corpus.

    Raises:
        InputError: the corpus can't be read.
    """
    if not settings.data and settings.corpus != "sample":
        raise InputError(
            f"corpus={settings.corpus} needs its folder: give data=<folder>; the README says how to get it."
        )
    folder = Path(settings.data) if settings.data else Path(settings.output) / "sample"
    return corpora.load(settings.corpus, folder, settings.folds if isinstance(settings, TrainSettings) else 0)


def corpus_settings(settings: RunSettings | SubmitSettings, training: TrainSettings) -> TrainSettings:
    """The settings of a training run, with this command's folder and workers."""
    return replace(training, data=settings.data or training.data, workers=settings.workers, output=settings.output)
