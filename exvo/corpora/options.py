"""Which corpus the options of an entry point name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from exvo import corpora
from exvo.config import ExtractSettings, RunSettings, SubmitSettings, TrainSettings
from exvo.corpora.base import Corpus
from exvo.errors import InputError


def load_corpus(settings: ExtractSettings) -> Corpus:
    """Reads the table of a corpus.

    Raises:
        InputError: the corpus can't be read.
    """
    if not settings.data and settings.corpus != "sample":
        raise InputError(
            f"corpus={settings.corpus} needs its folder: give data=<folder>; the README says how to get it."
        )
    return corpora.load(settings.corpus, Path(settings.data) if settings.data else Path(settings.output) / "sample")


def corpus_settings(settings: RunSettings | SubmitSettings, training: TrainSettings) -> ExtractSettings:
    """The corpus of a training run, with this command's folder and workers."""
    options = {field.name: getattr(training, field.name) for field in fields(ExtractSettings)}
    options |= {"data": settings.data or training.data, "workers": settings.workers, "output": settings.output}
    return ExtractSettings(**options)
