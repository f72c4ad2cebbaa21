"""EmoGator (Buhl & Buhl, arXiv 2301.00508): 30 categories of vocal bursts, the file names are the labels."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd

from exvo.corpora.base import Corpus, build
from exvo.corpora.categories import one_hot
from exvo.corpora.rules import parse_merges
from exvo.corpora.selection import EVERYTHING, Selection, select
from exvo.errors import InputError
from exvo.tables import refuse_items

CATEGORIES = (
    "Adoration",
    "Amusement",
    "Anger",
    "Awe",
    "Confusion",
    "Contempt",
    "Contentment",
    "Desire",
    "Disappointment",
    "Disgust",
    "Distress",
    "Ecstasy",
    "Elation",
    "Embarrassment",
    "Fear",
    "Guilt",
    "Interest",
    "Neutral",
    "Pain",
    "Pride",
    "Realization",
    "Relief",
    "Romantic Love",
    "Sadness",
    "Serenity",
    "Shame",
    "Surprise (Negative)",
    "Surprise (Positive)",
    "Sympathy",
    "Triumph",
)
"""The categories in the order of the release, 01 to 30."""

_NAME = re.compile(r"(\d{6})-(0[1-9]|[12]\d|30)-[1-3]\.mp3", re.ASCII)
_SPLITS = ("test", "train", "train", "train", "val")
"""The split of a contributor, by the number modulo 5."""


def read(folder: Path, selection: Selection = EVERYTHING) -> Corpus:
    """Reads EmoGator, the whole release or any of its contributors, in the order of the file names.

    A clip is `data/mp3/NNNNNN-EE-I.mp3`: contributor (the speaker), category 01-30, instance 1-3. Targets are the 30
    categories: 1 for the one that the contributor was asked to express, 0 for the others.

    The release has no splits. Here the contributor's number modulo 5 decides: 4 is val, 0 is test, the others are train
    (60/20/20). So a contributor is in the same split, whichever others are there.

    Raises:
        InputError: `data/mp3` is missing, or files in it have other names (hidden files are ignored).
    """
    source = folder / "data" / "mp3"
    if not os.path.isdir(source):
        state = "not a folder" if os.path.exists(source) else "not there"
        raise InputError(
            f"{source} is {state}: an EmoGator folder holds data/mp3/000001-01-1.mp3 and so on, "
            "to be had with git clone https://github.com/fredbuhl/EmoGator."
        )
    names = sorted(path.name for path in source.iterdir() if not path.name.startswith("."))
    matches = [_NAME.fullmatch(name) for name in names]
    other = [name for name, match in zip(names, matches, strict=True) if match is None]
    if other:
        refuse_items(source, "names that are not NNNNNN-EE-I.mp3", other, "move these files elsewhere")
    parts = [match.groups() for match in matches if match is not None]
    rows = pd.DataFrame(
        {
            "file": [f"data/mp3/{name}" for name in names],
            "split": [_SPLITS[int(speaker) % 5] for speaker, _ in parts],
            "speaker": [speaker for speaker, _ in parts],
            "category": [CATEGORIES[int(number) - 1] for _, number in parts],
        },
        index=names,
    )
    rows, selected = select(source, rows, selection)
    categories: tuple[str, ...] = CATEGORIES
    if selection.is_part:
        merges = parse_merges("labels", selection.labels)
        present = set(rows["category"])
        categories = tuple(dict.fromkeys(name for old in CATEGORIES if (name := merges.get(old, old)) in present))
    table = rows.join(one_hot(rows["category"], categories))
    corpus = build("emogator", folder, source, table, categories, categories=categories)
    return replace(corpus, selected=tuple(selected))
