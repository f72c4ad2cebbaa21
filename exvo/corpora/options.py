"""Which corpus the options of an entry point name."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from exvo import corpora
from exvo.corpora.base import Corpus
from exvo.corpora.selection import Selection
from exvo.errors import InputError
from exvo.settings import ExtractSettings, ReproduceSettings, RunSettings, SubmitSettings, TrainSettings


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
    return corpora.load(settings.corpus, folder, folds_of(settings), selection_of(settings))


def folds_of(settings: ExtractSettings) -> int | str:
    """The folds of a cross-validation, or `SPEAKERS`; 0 where there is none."""
    return settings.folds if isinstance(settings, TrainSettings) else 0


def selection_of(settings: ExtractSettings) -> Selection:
    """The names of its columns and what of it is used."""
    return Selection(**{field.name: getattr(settings, field.name) for field in fields(Selection)})


def corpus_settings(
    settings: RunSettings | SubmitSettings | ReproduceSettings, training: TrainSettings
) -> TrainSettings:
    """The settings of a training run, with this command's folders and workers."""
    return replace(
        training,
        data=settings.data or training.data,
        root=settings.root or training.root,
        workers=settings.workers,
        output=settings.output,
    )
