"""Exclusive categories: one target each, and the checks that they can be learnt and told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from exvo.corpora.base import Corpus, build, is_missing
from exvo.corpora.columns import OURS
from exvo.corpora.rules import is_number
from exvo.errors import InputError
from exvo.tables import refuse_items
from exvo.text import listing, printable, slug

MAX_CATEGORIES = 1_000
"""Each category is a column of the table of clips, and two of the predictions."""


def build_categories(name: str, folder: Path, source: Path, rows: pd.DataFrame) -> Corpus:
    """The corpus of rows with a category: one target each, 1 for the clips of that category and 0 for others.

    Args:
        name: of the corpus.
        folder: that holds it.
        source: the file that the rows come from, for sentences.
        rows: with the column `category` and others of `Corpus.clips`; further ones are left out.

    Raises:
        InputError: a clip of train or val has no category, or the categories can't be told apart.
    """
    category = rows["category"].where(~rows["category"].map(is_missing), "")
    missing = category[(category == "") & rows["split"].isin(["train", "val"])]
    if len(missing):
        refuse_items(source, "clips of train or val without a category", missing.index, "give them one, or remove them")
    categories = sorted(set(category) - {""})
    _require_distinct(source, categories)
    plain = rows[[column for column in OURS if column in rows]].assign(category=category)
    table = pd.concat([plain, one_hot(category, categories)], axis=1)
    table.attrs["notes"] = tuple(rows.attrs.get("notes", ()))
    return build(name, folder, source, table, categories, categories=tuple(categories))


def one_hot(category: pd.Series, categories: Sequence[str]) -> pd.DataFrame:
    """A column for each category, 1 in the rows that have it and 0 in others; NaN in rows without one."""
    labels = np.full((len(category), len(categories)), np.nan)
    codes = pd.Categorical(category, categories=list(categories)).codes
    labels[codes >= 0] = np.eye(len(categories))[codes[codes >= 0]]
    return pd.DataFrame(labels, columns=list(categories), index=category.index)


def require_trained_categories(corpus: Corpus) -> None:
    """Refuses a corpus with categories that no training clip has, because their clips can't be recognised.

    Raises:
        InputError: names them.
    """
    clips = corpus.clips
    trained = set(clips["category"][clips["split"] == "train"]) if corpus.categories else set()
    unheard = [category for category in corpus.categories if category not in trained]
    if unheard:
        rows = clips[clips["category"].isin(unheard)]
        splits = rows.groupby("category")["split"].agg(lambda column: " and ".join(sorted(set(column), reverse=True)))
        missing = listing(f"{name} (only in {splits[name]})" for name in unheard)
        what = "the column split" if corpus.name == "table" else "the choice of clips"
        remedy = "give train some clips of each"
        if corpus.assigned:
            what = f"the split {corpus.assigned}"
            remedy = "add a column split that gives train some of each" + ", or give folds=5" * corpus.has_speakers
        raise InputError(
            f"{corpus.folder}: {what} leaves train without a clip of these categories, which can't be recognised: "
            f"{missing}; {remedy}, or leave these clips out (labels=)."
        )


def _require_distinct(source: Path, categories: Sequence[str]) -> None:
    """Refuses categories that can't be learnt or told apart: one alone, too many, mixed types, equal names.

    Raises:
        InputError: names them.
    """
    if len(categories) < 2:
        names = repr(printable(categories[0])) if categories else "none"
        raise InputError(f"{source}: the only category is {names}; to recognise one takes two or more.")
    if len(categories) > MAX_CATEGORIES:
        raise InputError(
            f"{source}: category has {len(categories):,} different values, more than {MAX_CATEGORIES:,}; is it the "
            "column of the categories? Merge or leave out the rare ones (labels=)."
        )
    _require_one_type(source, categories)
    reserved = [name for name in categories if name in OURS or slug(name) == "emotion"]
    if reserved:
        refuse_items(
            source,
            "categories with the name of something else in the tables",
            reserved,
            f"rename them (labels=new={printable(reserved[0])})",
        )
    counts = Counter(map(slug, categories))
    alike = [repr(printable(name)) for name in categories if counts[slug(name)] > 1 or not slug(name)]
    if alike:
        problem = "categories whose names have the same letters and digits (a to z, 0 to 9), or none"
        refuse_items(source, problem, alike, "rename them, or merge them if they are one (labels=new=old+old)")


def _require_one_type(source: Path, categories: Sequence[str]) -> None:
    """Refuses categories that are numbers and texts, or one number written in two ways.

    Raises:
        InputError: names them.
    """
    numbers = [name for name in categories if is_number(name)]
    values = Counter(map(float, numbers))
    twice = [name for name in numbers if values[float(name)] > 1]
    texts = [name for name in categories if not is_number(name)]
    if not twice and not (numbers and texts):
        return
    shown = listing([repr(printable(name)) for name in (twice or numbers)], 5)
    what = f"numbers written in several ways ({shown})" if twice else f"numbers ({shown})"
    beside = f" and texts ({listing([repr(printable(name)) for name in texts], 5)})" if texts else ""
    example = "+".join(printable(name) for name in (twice or numbers)[:2])
    raise InputError(
        f"{source}: category holds {what}{beside}; write all in one way, or say what they are: labels=name={example} "
        "and so on."
    )
