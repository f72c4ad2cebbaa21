"""The peak of the memory, in MB and without mapped files, of a process that reads all batches of an epoch.

python -m benchmarks.memory <folder of a store>

The network is left out: it is the same for every store, and the peaks of its kernels vary by tens of megabytes from
one process to the next, far more than what is to be seen here.
"""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path

import numpy as np

from exvo.batches.clips import Clips, evaluation_batches
from exvo.batches.epoch import training_batches
from exvo.config import EMOTIONS, FeatureConfig
from exvo.features.shards import Clip
from exvo.features.store import Store

FRAMES = 240  # of a clip: what EmoGator's have on average


def fill(folder: Path, clips: int) -> float:
    """A store of so many clips of noise; returns its size in MB."""
    store, rng = Store(folder, FeatureConfig()), np.random.default_rng(0)
    for start in range(0, clips, 500):
        log_mels = rng.normal(-50, 20, (min(500, clips - start), FRAMES, 64)).astype(np.float32)
        store.add(
            [Clip(f"{start + row:064x}", log_mel, 2.4, 16_000, 1, 1.0, -20.0) for row, log_mel in enumerate(log_mels)]
        )
    return sum(path.stat().st_size for path in store.folder.iterdir()) / 1e6


def own_memory() -> float:
    """MB of this process that no file holds."""
    match = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) * 1024 / 1e6


def main() -> None:
    """Prints the peak, MB."""
    peak, done = [own_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    store = Store(sys.argv[1], FeatureConfig())
    contents = list(store)
    labels = np.random.default_rng(0).random((len(contents), len(EMOTIONS)))
    clips = Clips(contents, contents, store, labels, "repeat")
    for _ in training_batches(clips, 32, 0, 1):
        pass
    for _ in evaluation_batches(clips, 32, 1):
        pass
    done.set()
    watcher.join()
    print(peak[0])


if __name__ == "__main__":
    main()
