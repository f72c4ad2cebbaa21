"""Predictions tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from exvo.evaluation.results import Condition

CONDITION = Condition("table", "a" * 64, "fewshot", "strict", "val")


def predictions(noise: float, seed: int, multitask: bool = False, clips: int = 60, speakers: int = 10) -> pd.DataFrame:
    """A predictions table whose truths are the same for all seeds."""
    truth, rng = np.random.default_rng(1), np.random.default_rng(seed)
    table = pd.DataFrame({"file": [f"{clip}.wav" for clip in range(clips)], "split": "val"})
    table["speaker"] = [f"s{clip * 7 % speakers}" for clip in range(clips)]
    table["scored"] = True
    for target in ("High", "Loud"):
        table[f"truth.{target}"] = truth.random(clips)
        table[f"prediction.{target}"] = table[f"truth.{target}"] + noise * rng.normal(size=clips)
    if multitask:
        table["truth.age"], table["truth.country"] = truth.uniform(20, 30, clips), truth.choice(["x", "y"], clips)
        table["prediction.age"] = table["truth.age"] + 3 * noise * rng.normal(size=clips)
        flipped = np.where(table["truth.country"] == "x", "y", "x")
        table["prediction.country"] = np.where(rng.random(clips) < noise, flipped, table["truth.country"])
    return table
