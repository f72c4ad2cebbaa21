"""Corpora: one reader a corpus, each giving one validated table of clips, and an audit of any of them."""

from __future__ import annotations

import os
from pathlib import Path

from exvo.corpora import emogator, hume_vb, sample, table
from exvo.corpora.base import Corpus
from exvo.corpora.categories import require_trained_categories
from exvo.corpora.selection import EVERYTHING, Selection
from exvo.corpora.splits import require_both, with_folds
from exvo.errors import InputError
from exvo.files import listed
from exvo.text import LONGEST_NAME, nearest, printable

__all__ = ["Corpus", "Selection", "load", "require_parts"]

_READERS = {"sample": sample.read, "hume-vb": hume_vb.read, "emogator": emogator.read, "table": table.read}


def load(
    name: str, folder: Path, folds: int | str = 0, selection: Selection = EVERYTHING, scored_only: bool = False
) -> Corpus:
    """Reads and validates a corpus. Whether its audio files exist is left to feature extraction.

    Args:
        name: of the corpus, as the option `corpus` has it.
        folder: that holds the corpus; for `sample`, the synthetic clips are written there if it is missing or empty;
            for `table` it may be the table itself, or several with commas.
        folds: of a cross-validation, see `splits.with_folds`; 0: the clips are in the splits of the corpus.
        selection: which of its clips and categories are used; of `table` also the names of its columns.
        scored_only: whether nothing is trained on it: then it may lack train and val, and all clips of a table without
            splits are its test clips.

    Raises:
        InputError: the name is unknown, options are of a table alone, the folder is missing, something breaks a rule of
            `Corpus`, there are fewer speakers than folds, or without folds too few clips in train or val.
    """
    if name not in _READERS:
        raise InputError(f"corpus={name} is not known{nearest(name, list(_READERS))}")
    given = [option for option in ("columns", "root", "splits") if getattr(selection, option)]
    if given and name != "table":
        raise InputError(f"{given[0]} is an option of corpus=table; {name} has its own layout, so leave it out.")
    for path in listed(str(folder)) if name == "table" else [str(folder)]:
        if name == "sample" or os.path.isdir(path) or (name == "table" and os.path.isfile(path)):
            continue
        place = printable(path, LONGEST_NAME)
        if os.path.exists(path):
            raise InputError(f"{place} of corpus {name} is not a folder; give the folder that holds the corpus.")
        raise InputError(f"the folder {place} of corpus {name} is not there; give the folder that holds the corpus.")
    corpus = table.read(folder, selection, scored_only) if name == "table" else _READERS[name](folder, selection)
    if folds:
        return with_folds(corpus, folds)
    if not scored_only:
        require_parts(corpus)
    return corpus


def require_parts(corpus: Corpus) -> None:
    """Refuses a corpus that can't be trained on: too few clips in train or val, a category that train lacks.

    A part of EmoGator's release, which has all its categories by name, is left as it is.

    Raises:
        InputError: names the split or the categories.
    """
    require_both(corpus)
    if corpus.name == "table" or corpus.selected:
        require_trained_categories(corpus)
