"""What computes features from waveforms: clip by clip in worker processes, or many clips at a time on some device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from exvo.config import FeatureConfig
from exvo.features.containers import AudioError
from exvo.features.functionals import SETS, Functionals
from exvo.features.log_mel import LogMel
from exvo.features.shards import Features


class ClipExtractor(Protocol):
    """Features of one clip after the other, computed where the clip is decoded: `LogMel` and `Functionals`.

    It is made in the main process and used in its forks, so it loads what does not bear that at its first call.
    """

    config: FeatureConfig  # of the audio: sampling rate and limits of length
    features: Features

    @property
    def most(self) -> int:
        """The most numbers that a clip can have."""

    def shape(self, samples: int) -> tuple[int, int]:
        """The shape of a clip's features, if it has so many samples."""

    def __call__(self, waveform: np.ndarray, values: np.ndarray, /) -> None:
        """Computes the features of a clip into an array.

        Args:
            waveform: float32 (samples,), as `read_audio` gives it.
            values: of the clip's shape, which is overwritten.

        Raises:
            AudioError: the clip can't be used.
        """


@runtime_checkable
class Encoder(Protocol):
    """Features of many clips at a time, by a network in the main process: a pretrained encoder, or a run of ours.

    A clip's features do not depend on the others. Models that take them carry the encoder in a folder.
    """

    features: Features

    def states(self, waveforms: Sequence[np.ndarray], /) -> Sequence[np.ndarray | AudioError]:
        """The features of each clip, of the shape of `features`; or why it has none.

        Args:
            waveforms: float32 (samples,) each, at 16 kHz, as `read_audio` gives them; of any number and length.
        """

    def save(self, folder: Path, /) -> None:
        """Writes all that loading it again needs into a folder, which is there."""


Extractor = ClipExtractor | Encoder
LOG_MEL = "log-mel"


def clip_extractor(name: str) -> ClipExtractor | None:
    """The extractor that the option `features` names, where it is one that works clip by clip.

    Raises:
        InputError: what it needs is not installed.
    """
    if name == LOG_MEL:
        return LogMel(FeatureConfig())
    return Functionals(name) if name in SETS else None
