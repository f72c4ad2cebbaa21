"""Clips to extract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from exvo.config import FeatureConfig
from exvo.features import extraction
from exvo.features.audio import Audio, read_audio

CONFIG = FeatureConfig()


def write_clips(folder: Path, count: int, seconds: float = 0.2) -> list[str]:
    folder.mkdir(exist_ok=True)
    names = []
    for number in range(count):
        noise = np.random.default_rng(number).normal(0, 0.1, int(16_000 * seconds) + 7 * number)
        soundfile.write(folder / f"{number:03}.wav", noise, 16_000)
        names.append(f"{number:03}.wav")
    return names


def count_decoding(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None] = lambda number: None
) -> list[str | bytes]:
    """The files (long ones) and contents that this process decodes; `before` runs ahead of each, with its number."""
    decoded: list[str | bytes] = []

    def counting(source: str | bytes, config: FeatureConfig) -> Audio:
        decoded.append(source)
        before(len(decoded))
        return read_audio(source, config)

    monkeypatch.setattr(extraction, "read_audio", counting)
    return decoded


def no_temporary_files(store_folder: Path) -> bool:
    return not list(store_folder.rglob("*.tmp"))
