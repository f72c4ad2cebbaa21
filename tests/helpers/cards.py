"""What a model card says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from exvo.tasks import Task

TASK = Task("fewshot", ("High", "Loud"))
PART = {"clips": 40, "speakers": 8, "hours": 0.01}
SPLITS = {"train": PART, "val": PART | {"clips": 1234}, "test": PART | {"clips": 0}}
AUDIT: dict[str, Any] = {"synthetic": False, "splits": SPLITS, "countries": None, "ages": None}
OPTIONS: dict[str, Any] = {
    "model": "cnn14",
    "optimizer": "sgd",
    "precision": "float32",
    "width": 0.25,
    "epochs": 3,
    "batch_size": 32,
    "learning_rate": 0.001,
    "seed": 0,
    "shots": 2,
}
ENROLLED = pd.DataFrame(
    {
        "enrolment": ["right", "typical", "wrong"],
        "metric": "emotion_ccc",
        "right_over_it": [0.0, 0.08, 0.1],
        "lo_difference": [0.0, 0.02, 0.05],
        "hi_difference": [0.0, 0.14, 0.15],
        "speakers": 8,
    }
)


def predictions(noise: float, seed: int = 2, clips: int = 80, speakers: int = 8, task: Task = TASK) -> pd.DataFrame:
    """Clips with the same truth whatever the noise."""
    truth, rng = np.random.default_rng(1), np.random.default_rng(seed)
    table = pd.DataFrame({"file": [f"{clip}.wav" for clip in range(clips)], "split": "val"})
    table["speaker"] = [f"s{clip % speakers}" for clip in range(clips)]
    table["country"] = [("Chile", "Kenya")[clip % 2] for clip in range(clips)]
    table["scored"] = True
    for target in task.targets:
        table[f"truth.{target}"] = truth.random(clips)
        table[f"prediction.{target}"] = table[f"truth.{target}"] + noise * rng.normal(size=clips)
    return table
