"""Corpora: one reader a corpus, each giving one validated table of clips, and an audit of any of them."""

from __future__ import annotations

import os
from pathlib import Path

from exvo.corpora import emogator, hume_vb, sample, table
from exvo.corpora.base import Corpus
from exvo.errors import InputError
from exvo.text import LONGEST_NAME, nearest, printable

__all__ = ["Corpus", "load"]

_READERS = {"sample": sample.read, "hume-vb": hume_vb.read, "emogator": emogator.read, "table": table.read}


def load(name: str, folder: Path) -> Corpus:
    """Read and validate a corpus.

    For `sample`, `folder` is where the synthetic clips are written if they are not there yet. Whether the audio files
    of the other corpora exist is left to feature extraction.

    Raises InputError for an unknown name, a missing folder and everything that breaks a rule of `Corpus`.
    """
    if name not in _READERS:
        raise InputError(f"corpus={name} is not known{nearest(name, list(_READERS))}")
    if name != "sample" and not os.path.isdir(folder):
        place = printable(str(folder), LONGEST_NAME)
        if os.path.exists(folder):
            raise InputError(f"{place} of corpus {name} is not a folder; give the folder that holds the corpus.")
        raise InputError(f"the folder {place} of corpus {name} is not there; give the folder that holds the corpus.")
    return _READERS[name](folder)
