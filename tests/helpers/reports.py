"""A report of predictions made by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from exvo.evaluation import scoring
from exvo.reports.page import Page, Section
from exvo.reports.run import RunFacts, report_page
from exvo.tasks import Task

FEWSHOT = Task("fewshot", ("Awe", "Fear"))
ABOUT = RunFacts(
    model="cnn14",
    corpus="table",
    synthetic=False,
    split="test",
    run="quiet-owl-1 (abc)",
    digest="d1" * 32,
    warnings=["2 of 60 clips can't be used."],
    options={"model": "cnn14", "protocol": "published", "shots": 2, "seed": 0},
    commands="mlflow run . -e train -P seed=0",
    epochs=pd.DataFrame({"loss": [0.9, 0.8], "emotion_ccc": [0.1, 0.2]}, index=pd.Index([1, 2], name="epoch")),
)


def table(clips: int = 240, speakers: int = 12, targets: tuple[str, ...] = ("Awe", "Fear")) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    found = pd.DataFrame({"file": [f"{i}.wav" for i in range(clips)], "split": "test"})
    found["speaker"] = [f"s{i % speakers}" for i in range(clips)]
    found["country"] = [("Chile", "Kenya")[i % speakers % 2] for i in range(clips)]
    found["scored"] = True
    for target in targets:
        found[f"truth.{target}"] = rng.random(clips)
        found[f"prediction.{target}"] = 0.6 * found[f"truth.{target}"] + 0.2 * rng.random(clips)
    found["seconds"], found["rms_db"] = rng.gamma(4, 0.4, clips), rng.normal(-30, 5, clips)
    return found


def made(predictions: pd.DataFrame, task: Task = FEWSHOT, **different: Any) -> Page:
    return report_page(predictions, scoring.score(predictions, task), task, replace(ABOUT, **different))


def section(page: Page, title: str) -> Section:
    return next(one for one in page.sections if one.title == title)


def text_of(html: str) -> str:
    """What a reader of a page sees, without its tags."""
    return re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<style>.*?</style>", "", html))
