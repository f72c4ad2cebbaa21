"""What answers must fulfil: sentences for people, and the rules of a corpus."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from exvo.config import SPLITS
from exvo.corpora.audit import audit
from exvo.corpora.base import Corpus
from exvo.errors import InputError
from exvo.tasks import make_task
from exvo.text import is_name

LONGEST_SENTENCE = 6_000
"""Characters: ten clips or rows by name, each with up to 200 characters, and the path."""

NO_MEMORY = ("malloc of", "realloc of", "bad_alloc", "can't allocate", "MemoryError")
"""In a sentence: something has asked for more memory than there is, and its error was caught."""


class Broken(AssertionError):
    """What was promised does not hold."""


def require(holds: bool, problem: str) -> None:
    """Checks a promise.

    Raises:
        Broken: it does not hold.
    """
    if not holds:
        raise Broken(problem)


def clean(text: str) -> bool:
    """Whether a text moves no terminal's cursor but to new lines."""
    return all(is_name(letter) for letter in set(text) - {"\n"})


def check_sentence(sentence: str, names: str = "") -> None:
    """Checks that an error is one sentence for people that names the file.

    Raises:
        Broken: it is not.
    """
    require(sentence[-1:] in (".", "?"), f"no sentence: {sentence[:500]!r}")
    require(clean(sentence) and "\n" not in sentence, f"not fit for a terminal: {sentence[:500]!r}")
    require(len(sentence) <= LONGEST_SENTENCE, f"a sentence of {len(sentence)} characters: {sentence[:500]!r}")
    require(names in sentence, f"does not name {names}: {sentence[:500]!r}")
    require(not any(word in sentence for word in NO_MEMORY), f"asks for too much memory: {sentence[:500]!r}")


def check_corpus(corpus: Corpus, folder: Path) -> None:
    """Checks that a corpus keeps all the rules of `Corpus`, and that its audit is fit for a terminal.

    Raises:
        Broken: one does not hold.
    """
    clips = corpus.clips
    root = os.path.realpath(folder)
    require(clips["file"].is_unique, "a file twice")
    paths = [os.path.realpath(os.path.join(root, file)) for file in clips["file"]]
    require(all(path.startswith(f"{root.rstrip('/')}/") for path in paths), "a file out of the folder")
    require(set(clips["split"]) <= set(SPLITS), "a split")
    labelled = clips.loc[clips["split"] != "test", list(corpus.targets)].to_numpy(np.float64)
    require(bool(np.isfinite(labelled).all()), "labels that are not finite")
    require(all(map(is_name, [*clips["speaker"], *clips["file"], *corpus.targets])), "a name with controls")
    audio = pd.DataFrame({"file": clips["file"], "content": "", "seconds": 1.0, "rate": 16_000, "problem": ""})
    summary = audit(corpus, audio).text()
    require(clean(summary), "an audit with controls")
    try:
        make_task("fewshot", clips, corpus.targets, corpus.name, bool(corpus.categories))
    except InputError as error:
        check_sentence(str(error))
