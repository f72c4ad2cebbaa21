"""Which corpus the options of an entry point name."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from exvo import corpora
from exvo.corpora.base import Corpus
from exvo.corpora.selection import Selection
from exvo.errors import InputError
from exvo.settings import (
    EvaluateSettings,
    ExtractSettings,
    ReproduceSettings,
    RunSettings,
    SubmitSettings,
    TrainSettings,
)

OF_ELSEWHERE = ("columns", "splits", "labels", "where", "clips_per_speaker")
"""The options of `evaluate` that are of another corpus alone."""


def load_corpus(settings: ExtractSettings, scored_only: bool = False) -> Corpus:
    """Reads the table of a corpus; `scored_only`: see `corpora.load`.

    Raises:
        InputError: the corpus can't be read.
    """
    if not settings.data and settings.corpus != "sample":
        raise InputError(
            f"corpus={settings.corpus} needs its folder: give data=<folder>; the README says how to get it."
        )
    folder = Path(settings.data) if settings.data else Path(settings.output) / "sample"
    return corpora.load(settings.corpus, folder, folds_of(settings), selection_of(settings), scored_only)


def folds_of(settings: ExtractSettings) -> int | str:
    """The folds of a cross-validation, or `SPEAKERS`; 0 where there is none."""
    return settings.folds if isinstance(settings, TrainSettings) else 0


def selection_of(settings: ExtractSettings) -> Selection:
    """The names of its columns and what of it is used."""
    return Selection(**{field.name: getattr(settings, field.name) for field in fields(Selection)})


def corpus_settings(
    settings: RunSettings | SubmitSettings | ReproduceSettings, training: TrainSettings
) -> TrainSettings:
    """The settings of a training run, with this command's folders, workers and cluster."""
    return replace(
        training,
        data=settings.data or training.data,
        root=settings.root or training.root,
        workers=settings.workers,
        cluster=settings.cluster if isinstance(settings, EvaluateSettings) else "",
        output=settings.output,
    )


def require_elsewhere(settings: EvaluateSettings) -> None:
    """Refuses options of another corpus where none is asked for: of its own the run knows how it was read.

    Raises:
        InputError: names the option.
    """
    given = [name for name in OF_ELSEWHERE if getattr(settings, name)]
    if given and not settings.elsewhere:
        raise InputError(
            f"{given[0]} is of another corpus than the run's own, which is read as it was in training; give elsewhere "
            f"too, as elsewhere=table, or leave {given[0]} out."
        )


def other_corpus(settings: EvaluateSettings, training: TrainSettings) -> TrainSettings:
    """The settings of a training run with another corpus in place of its own."""
    given = (*OF_ELSEWHERE, "data", "root", "workers", "cluster", "output")
    options = {name: getattr(settings, name) for name in given}
    return replace(training, corpus=settings.elsewhere, folds=0, **options)
