"""Feature stores with clips of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from exvo.config import FeatureConfig
from exvo.features.shards import Clip
from exvo.features.store import Store

CONFIG = FeatureConfig()


def clip(number: int, frames: int = 20) -> Clip:
    log_mel = np.random.default_rng(number).normal(-40, 20, (frames, CONFIG.bands)).astype(np.float32)
    about = (frames / 100, 48_000, 1 + number % 2, 0.5, -20.0 - number, 1_000 + number, f"note {number}")
    return Clip(f"{number:064x}", log_mel, *about)


def shards(store: Store) -> list[Path]:
    return sorted(store.folder.glob("*.arrow"))


def reopened(store: Store) -> Store:
    return Store(store.root, store.config)
