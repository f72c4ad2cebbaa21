"""Clips as small MP3 files, to be heard in a browser."""

from __future__ import annotations

import io
import os

import numpy as np
import soundfile

from exvo.config import FeatureConfig
from exvo.features.audio import read_audio
from exvo.files import on_disk

SECONDS = 10
"""Of a clip, at most: 40 kB."""

COMPRESSION = 0.85
"""What libsndfile makes 32 kbit/s of at 16 kHz."""


def playable(folder: str | os.PathLike[str], file: str) -> bytes:
    """The first 10 seconds of a clip as MP3: what networks hear, mono at 16 kHz, without the file's tags.

    Args:
        folder: of the corpus.
        file: relative to it.

    Raises:
        AudioError: it can't be read.
    """
    config = FeatureConfig()
    waveform = read_audio(on_disk(folder, file), config).waveform[: SECONDS * config.sample_rate]
    content = io.BytesIO()
    with soundfile.SoundFile(
        content,
        "w",
        config.sample_rate,
        channels=1,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=COMPRESSION,
        bitrate_mode="CONSTANT",
    ) as sound:
        sound.write(np.clip(waveform, -1.0, 1.0))
    return content.getvalue()
