"""Splits that exvo assigns, where a corpus has none or its own are set aside: by speaker, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from exvo.config import FEWEST_FOLDS
from exvo.corpora.base import Corpus
from exvo.errors import InputError
from exvo.text import listing

SEED = "exvo splits 1"
"""What a speaker's name is hashed with. Another one, or another training seed, would be another split."""

QUOTAS = {"train": 0.6, "val": 0.2, "test": 0.2}
"""The shares of the clips."""

FEWEST_CLIPS = 2
"""Without which a split can be neither trained on nor scored."""

ALL_SCORED = "none, so all clips are scored"
"""What `Corpus.assigned` says of a table without splits on which nothing is trained."""

BY_SPEAKER, BY_CLIP = "by speaker", "by clip"
"""What `Corpus.assigned` says of `split_by_speaker`; of a corpus that does not say who speaks, its files are dealt."""


def deal(speakers: pd.Series, quotas: Sequence[float]) -> np.ndarray:
    """Deals whole speakers to parts, so that each part gets about its share of the clips.

    Speakers come in the order of the SHA-256 of `exvo splits 1/<name>`. Each goes to the part that has the fewest
    clips for its quota, the first of several. So no part is empty where there are as many speakers as parts.

    Args:
        speakers: the speaker of each clip, (clips,).
        quotas: share of each part, (parts,).

    Returns:
        The part of each clip, (clips,), from 0.
    """
    counts = speakers.value_counts()
    order = sorted(counts.index, key=lambda speaker: hashlib.sha256(f"{SEED}/{speaker}".encode()).digest())
    filled, part_of = [0] * len(quotas), {}
    for speaker in order:
        part = min(range(len(quotas)), key=lambda part: filled[part] / quotas[part])
        part_of[speaker] = part
        filled[part] += int(counts[speaker])
    return speakers.map(part_of).to_numpy(int)


def split_by_speaker(speakers: pd.Series) -> np.ndarray:
    """The split of each clip of a corpus that has none, (clips,): 60% train, 20% val, 20% test, by speaker.

    Args:
        speakers: the speaker of each clip, at least three in all.
    """
    splits: np.ndarray = np.array(list(QUOTAS), dtype=object)[deal(speakers, list(QUOTAS.values()))]
    return splits


def require_both(corpus: Corpus) -> None:
    """Refuses a corpus with too few clips to train or to validate.

    Raises:
        InputError: names the split.
    """
    for split in ("train", "val"):
        count = int((corpus.clips["split"] == split).sum())
        if count < FEWEST_CLIPS:
            raise InputError(
                f"{corpus.folder}: split {split} has {count} clips; give it at least {FEWEST_CLIPS}, or train with "
                "folds=5, which sets the corpus' own splits aside."
            )


def with_folds(corpus: Corpus, folds: int | str) -> Corpus:
    """A corpus for cross-validation: its own splits are set aside, and each clip's split is its fold, `fold 1` and on.

    Clips without a speaker or without all their labels are in no fold (their split is empty).

    Args:
        corpus: with speakers.
        folds: how many, or `config.SPEAKERS`: each speaker is one, which is what as many folds as speakers are too.

    Raises:
        InputError: there are fewer than three folds, or fewer speakers than folds.
    """
    if isinstance(folds, int) and folds < FEWEST_FOLDS:
        raise InputError(
            f"folds={folds}: of the folds one tests, one validates and the others train, so give {FEWEST_FOLDS} or "
            "more, or 0 for the corpus' own splits."
        )
    if not corpus.has_speakers:
        raise InputError(
            f"folds={folds}, but the corpus {corpus.name} does not say who speaks, and folds test a model on speakers "
            "that it has not heard; give the column of the speakers, or leave folds out."
        )
    clips = corpus.clips
    usable = (clips["speaker"] != "") & clips[list(corpus.targets)].notna().all(axis=1)
    speakers = clips.loc[usable, "speaker"]
    count = max(FEWEST_FOLDS, speakers.nunique()) if isinstance(folds, str) else folds
    if speakers.nunique() < count:
        raise InputError(
            f"folds={folds}, but the corpus {corpus.name} has {speakers.nunique()} speakers with labelled clips, and a "
            f"fold needs one: give folds={speakers.nunique()} or fewer."
            if speakers.nunique() >= FEWEST_FOLDS
            else f"The corpus {corpus.name} has {speakers.nunique()} speakers with labelled clips; cross-validation "
            f"takes {FEWEST_FOLDS} or more, and as many as folds."
        )
    dealt = [f"fold {part + 1}" for part in deal(speakers, [1.0] * count)]
    names = pd.Series(dealt, index=speakers.index).reindex(clips.index, fill_value="")
    each = "" if speakers.nunique() > count else ", one for each"
    return reassigned(corpus, names, f"{count} folds by speaker{each}")


def fold_count(corpus: Corpus) -> int:
    """The number of folds of a corpus that `with_folds` has made."""
    return max(int(name.removeprefix("fold ")) for name in corpus.clips["split"].unique() if name)


def fold(corpus: Corpus, number: int, count: int) -> Corpus:
    """The corpus as fold `number` trains on it: that fold is test, the next one val (after the last the first).

    Args:
        corpus: as `with_folds` gives it.
        number: of the fold, from 1.
        count: of all folds.
    """
    parts = {f"fold {other}": "train" for other in range(1, count + 1)}
    parts |= {f"fold {number}": "test", f"fold {number % count + 1}": "val", "": ""}
    return reassigned(corpus, corpus.clips["split"].map(parts), f"fold {number} of {count}")


def reassigned(corpus: Corpus, splits: pd.Series, assigned: str) -> Corpus:
    """A corpus with other splits; its own are kept, as far as it has some, for its digest."""
    own = corpus.own_splits if corpus.assigned else tuple(corpus.clips["split"])
    return replace(corpus, clips=corpus.clips.assign(split=splits), assigned=assigned, own_splits=own)


def untrained(corpus: Corpus, count: int) -> list[str]:
    """What folds test that their training lacks, in phrases such as `Awe in fold 2`; see `with_folds`.

    It happens where few speakers have a category, and all of them are in the fold that tests and in the one that
    validates.
    """
    if not corpus.categories:
        return []
    phrases = []
    for number in range(1, count + 1):
        clips = fold(corpus, number, count).clips
        category = {split: set(clips["category"][clips["split"] == split]) for split in ("train", "test")}
        unheard = sorted(category["test"] - category["train"])
        phrases += [f"{listing(unheard)} in fold {number}"] if unheard else []
    return phrases
