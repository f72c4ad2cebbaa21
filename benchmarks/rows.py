"""The rows of docs/results.md: each a system with a budget, and the command that trains it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """A row of the results: a system with a budget.

    Attributes:
        name: by which `--rows` chooses it.
        title: what the page calls it.
        options: of `exvo train`, but for corpus and seed; features `{row}` are the run of that row and seed.
        seeds: how many runs; three where the row claims something.
        against: the name of the plain row that a personalised one is compared with.
        svm: whether it is not trained by exvo: a linear SVM on the features that `options` name.
        is_scored: whether the test speakers are; not where it only says what data, width or time are worth.
    """

    name: str
    title: str
    options: Mapping[str, str] = field(default_factory=dict)
    seeds: int = 1
    against: str = ""
    svm: bool = False
    is_scored: bool = True


# Epochs of the published systems, so that they train as long as `resnet`: some 16 minutes.
CNN = {"width": "0.25", "precision": "auto"}
ROWS = (
    Row("prior", "prior: what training says without hearing anything", {"model": "prior"}),
    Row("svm-egemaps", "eGeMAPS, linear SVM", {"features": "egemaps"}, svm=True),
    Row("svm-compare", "ComParE 2016, linear SVM", {"features": "compare2016"}, svm=True),
    Row("frozen-egemaps", "eGeMAPS, `frozen`", {"model": "frozen", "features": "egemaps"}),
    Row("frozen-compare", "ComParE 2016, `frozen`", {"model": "frozen", "features": "compare2016"}),
    Row(
        "relative-compare",
        "ComParE 2016, `frozen-relative`",
        {"model": "frozen-relative", "features": "compare2016"},
        against="frozen-compare",
    ),
    Row("cnn14", "published `cnn14`, quarter width", CNN | {"model": "cnn14", "epochs": "9"}),
    Row(
        "cnn14-attention",
        "published attention, quarter width",
        CNN | {"model": "cnn14-attention-cnn10-multitask-adversarial", "epochs": "4"},
    ),
    Row("resnet-20", "`resnet`", {"model": "resnet", "epochs": "30"}, seeds=3),
    Row("relative-20", "`resnet-relative`", {"model": "resnet-relative", "epochs": "30"}, 3, "resnet-20"),
    Row("film-20", "`resnet-film`", {"model": "resnet-film", "epochs": "30"}, 1, "resnet-20"),
    Row("head", "head over `resnet`", {"model": "frozen", "features": "{resnet-20}"}, 3),
    Row(
        "relative-head",
        "personalised head over `resnet`",
        {"model": "frozen-relative", "features": "{resnet-20}"},
        seeds=3,
        against="head",
    ),
    Row("three", "three `resnet-relative`s in one", {"model": "resnet-relative", "epochs": "20", "members": "3"}),
    Row(
        "half-width",
        "`resnet`, half the channels",
        {"model": "resnet", "epochs": "30", "width": "0.5"},
        is_scored=False,
    ),
    Row(
        "third-clips",
        "`resnet`, a third of the clips of each person",
        {"model": "resnet", "epochs": "30", "clips_per_speaker": "30"},
        is_scored=False,
    ),
)
"""On all of EmoGator."""

MINI = (
    Row("prior", "prior", {"model": "prior"}),
    Row("svm-compare", "ComParE 2016, linear SVM", {"features": "compare2016"}, svm=True),
    Row("frozen-compare", "ComParE 2016, `frozen`", {"model": "frozen", "features": "compare2016"}, 3),
    Row(
        "relative-compare",
        "ComParE 2016, `frozen-relative`",
        {"model": "frozen-relative", "features": "compare2016"},
        seeds=3,
        against="frozen-compare",
    ),
    Row("cnn10", "published `cnn10`, quarter width", CNN | {"model": "cnn10", "epochs": "30"}),
    Row("resnet", "`resnet`", {"model": "resnet", "epochs": "30"}),
    Row("relative", "`resnet-relative`", {"model": "resnet-relative", "epochs": "30"}, against="resnet"),
)
"""On emogator-mini, in minutes."""


CORPORA = {"emogator": ROWS, "emogator-mini": MINI}


def training_words(
    row: Row, seed: int, corpus: Sequence[str], epochs: str, run_of: Callable[[str], str] = "<run of {}>".format
) -> list[str]:
    """The command that trains a row.

    Args:
        row: the row.
        seed: of the run.
        corpus: the options that name the corpus.
        epochs: instead of its own, if it is not empty.
        run_of: the run of an encoder's row, by the row's name.
    """
    options = dict(row.options) | {"seed": str(seed)}
    if encoder := re.fullmatch(r"\{(.+)\}", options.get("features", "")):
        options["features"] = run_of(encoder[1])
    if epochs and "epochs" in options:
        options["epochs"] = epochs
    return ["train", *corpus, *(word for name, value in options.items() for word in (f"--{name}", value))]
