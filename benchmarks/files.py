"""Log-mels as one `.npy` a clip: how one would keep them without a feature store."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class Files(dict[str, np.ndarray]):
    """content -> log-mel from one `.npy` a clip, read anew each time."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, content: str) -> np.ndarray:
        log_mel: np.ndarray = np.load(self.folder / f"{content}.npy")
        return log_mel
