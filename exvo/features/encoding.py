"""The features of an encoder, computed from decoded clips in batches and written as shards."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from exvo.features.audio import Audio
from exvo.features.conditions import level_db
from exvo.features.containers import AudioError
from exvo.features.extractors import Encoder
from exvo.features.shards import Clip
from exvo.features.store import Store

BATCH_SAMPLES = 2**22
"""Samples (4.4 minutes at 16 kHz, 16 MB) that are encoded together; then a shard is written."""


def stored_clip(content: str, values: np.ndarray, audio: Audio) -> Clip:
    """A clip as the store keeps it, with its levels.

    Args:
        content: SHA-256 of the file's bytes, hexadecimal.
        values: its features.
        audio: of the clip.
    """
    return Clip(
        content,
        values,
        seconds=audio.seconds,
        rate=audio.rate,
        channels=audio.channels,
        peak=audio.peak,
        rms_db=level_db(audio.waveform, audio.peak),
        decoded=audio.decoded,
        note=audio.note,
    )


class EncodedShards:
    """Decoded clips that wait until they are many enough to be encoded, and then are written as a shard.

    Attributes:
        problems: content -> what is wrong, of clips whose features can't be used.
    """

    def __init__(self, store: Store, encoder: Encoder) -> None:
        self.problems: dict[str, str] = {}
        self._store, self._encoder = store, encoder
        self._clips: dict[str, Audio] = {}

    def add(self, clips: Mapping[str, Audio]) -> str | None:
        """Takes decoded clips by their content; those that wait already are taken once. Returns what `write` does."""
        self._clips |= {content: audio for content, audio in clips.items() if content not in self._store}
        full = sum(len(audio.waveform) for audio in self._clips.values()) >= BATCH_SAMPLES
        return self.write() if full else None

    def write(self) -> str | None:
        """Encodes the clips that wait, and writes them. Returns why they can't be written, None where they were."""
        waiting, self._clips = self._clips, {}
        states = self._encoder.states([audio.waveform for audio in waiting.values()]) if waiting else []
        clips = []
        for (content, audio), values in zip(waiting.items(), states, strict=True):
            if isinstance(values, AudioError):
                self.problems[content] = values.problem
            elif np.isfinite(values).all():
                clips.append(stored_clip(content, values, audio))
            else:
                self.problems[content] = f"its {self._encoder.features.kind} hold numbers that are not finite"
        try:
            self._store.add(clips)
        except OSError as error:
            return error.strerror or str(error)
        return None
