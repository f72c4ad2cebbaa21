"""Corpora: one reader a corpus, each giving one validated table of clips, and an audit of any of them."""

from __future__ import annotations

import os
from pathlib import Path

from exvo.corpora import emogator, hume_vb, sample, table
from exvo.corpora.base import Corpus
from exvo.corpora.splits import require_both, with_folds
from exvo.errors import InputError
from exvo.text import LONGEST_NAME, nearest, printable

__all__ = ["Corpus", "load"]

_READERS = {"sample": sample.read, "hume-vb": hume_vb.read, "emogator": emogator.read, "table": table.read}


def load(name: str, folder: Path, folds: int = 0) -> Corpus:
    """Reads and validates a corpus. Whether its audio files exist is left to feature extraction.

    Args:
        name: of the corpus, as the option `corpus` has it.
        folder: that holds the corpus; for `sample`, the synthetic clips are written there if it is missing or empty.
        folds: of a cross-validation, see `splits.with_folds`; 0: the clips are in the splits of the corpus.

    Raises:
        InputError: the name is unknown, the folder is missing, something breaks a rule of `Corpus`, there are fewer
            speakers than folds, or without folds too few clips in train or val.
    """
    if name not in _READERS:
        raise InputError(f"corpus={name} is not known{nearest(name, list(_READERS))}")
    if name != "sample" and not os.path.isdir(folder):
        place = printable(str(folder), LONGEST_NAME)
        if os.path.exists(folder):
            raise InputError(f"{place} of corpus {name} is not a folder; give the folder that holds the corpus.")
        raise InputError(f"the folder {place} of corpus {name} is not there; give the folder that holds the corpus.")
    corpus = _READERS[name](folder)
    if folds:
        return with_folds(corpus, folds)
    require_both(corpus)
    if name == "table":
        table.require_trained_categories(corpus)
    return corpus
