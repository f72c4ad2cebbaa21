"""Copies of the training clips on worse signals, which training hears beside the clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from exvo.batches.clips import Clips
from exvo.config import FeatureConfig
from exvo.experiments.corpus import Ready
from exvo.features import extraction
from exvo.features.audio import read_audio
from exvo.features.signals import Signal, Worse, copies, worsen
from exvo.features.store import Store
from exvo.files import on_disk
from exvo.settings import TrainSettings

BANK = 50
"""Training clips that babble is made of."""


def augmented(settings: TrainSettings, ready: Ready, clips: Clips) -> Clips:
    """The training clips with `augment` copies of each, whose features are computed where the store lacks them.

    Raises:
        InputError: a copy's features can't be computed.
    """
    if not settings.augment:
        return clips
    voices, versions = voices_of(ready), []
    for number, signal in enumerate(copies(settings.augment), 1):
        print(f"copy {number} of {settings.augment} of the training clips, on worse signals", flush=True)
        versions.append(
            worse_store(ready, "train", signal, voices, Path(settings.output) / "features", settings.workers)
        )
    return replace(clips, versions=versions)


def worse_store(
    ready: Ready, split: str, signal: Signal, voices: Sequence[np.ndarray], folder: Path, workers: int | None
) -> Store:
    """The features of a split's clips as a worse signal has them.

    Args:
        ready: the corpus.
        split: of the clips.
        signal: how they are worse.
        voices: as `voices_of` gives them.
        folder: where the stores lie.
        workers: processes; None: one a core.

    Raises:
        InputError: they can't be computed.
    """
    places = ready.corpus.places(ready.rows(split)["file"].tolist())
    extractor = worsen(ready.extractor, Worse(signal, voices))
    store, audio = extraction.extract(ready.corpus.folder, places, folder, extractor, workers or 0)
    extraction.require_readable(audio, skip_unreadable=False)
    return store


def voices_of(ready: Ready) -> list[np.ndarray]:
    """The clips that babble is made of, float32 (samples,) each: so many of the training split, evenly spaced."""
    files = ready.rows("train")["file"].tolist()
    chosen = [files[place] for place in np.linspace(0, len(files) - 1, min(BANK, len(files))).astype(int)]
    places = (on_disk(str(ready.corpus.folder), place) for place in ready.corpus.places(chosen))
    return [read_audio(place, FeatureConfig()).waveform for place in places]
