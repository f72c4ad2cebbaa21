"""What of a corpus is used and under which names: which clips, which categories, how many of a speaker."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from exvo.corpora.base import Corpus
from exvo.corpora.rules import Condition, holds, parse_conditions, parse_merges, require_known
from exvo.errors import InputError
from exvo.text import listing, printable

SECONDS = "seconds"
"""What `where` calls the length of a clip, which is known only once its audio is read."""


@dataclass(frozen=True)
class Selection:
    """The options by which a corpus is read; their texts are those of the command line.

    Attributes:
        columns: of a table, `ours:theirs` with commas, see `exvo.corpora.columns`.
        root: of a table, the folder of its audio; empty: that of the table.
        splits: of a table, which of its words for splits is train, val or test, as `labels`.
        labels: merges, renames and leaves out categories, see `rules.parse_merges`.
        where: the conditions that the clips must meet, see `rules.parse_conditions`.
        clips_per_speaker: the most clips of a speaker; 0: all.
    """

    columns: str = ""
    root: str = ""
    splits: str = ""
    labels: str = ""
    where: str = ""
    clips_per_speaker: int = 0

    @property
    def is_part(self) -> bool:
        """Whether clips are left out or categories changed."""
        return bool(self.labels or self.where or self.clips_per_speaker)


EVERYTHING = Selection()
"""A corpus as it is."""


def select(
    source: Path, rows: pd.DataFrame, selection: Selection, names: Mapping[str, str] | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """The clips that are used, with the categories that they have then.

    Conditions on `SECONDS` are left to `within_seconds`.

    Args:
        source: the file that the rows come from, for sentences.
        rows: a row a clip, with the columns by which `where` chooses.
        selection: the options.
        names: further names of columns, by which `where` may call them too.

    Returns:
        The rows, and what was done in phrases.

    Raises:
        InputError: an option names what is not there, or nothing is left.
    """
    said: list[str] = []
    rows = _where(source, rows, selection.where, names or {}, said)
    if selection.labels:
        rows = _relabel(source, rows, selection.labels, said)
    if selection.clips_per_speaker:
        rows = _clip_speakers(source, rows, selection.clips_per_speaker, said)
    return rows, said


def _where(source: Path, rows: pd.DataFrame, text: str, names: Mapping[str, str], said: list[str]) -> pd.DataFrame:
    """The rows that meet all conditions; adds to `said` how many each leaves out."""
    conditions = [one for one in parse_conditions(text) if one.column != SECONDS]
    known = list(dict.fromkeys([*rows.columns, *names, SECONDS]))
    require_known("where", [one.column for one in conditions], known, "column")
    if rows.empty:
        return rows
    counts = []
    for condition in conditions:
        kept = holds(condition, rows[names.get(condition.column, condition.column)])
        counts.append(f"{condition.text} leaves {int(kept.sum()):,} of {len(rows):,}")
        said.append(f"where {condition.text}: {int((~kept).sum()):,} of {len(rows):,} clips left out")
        rows = rows[kept]
        if rows.empty:
            raise InputError(f"{source}: where={printable(text, 200)} leaves no clip ({listing(counts)}); change it.")
    return rows


def _relabel(source: Path, rows: pd.DataFrame, text: str, said: list[str]) -> pd.DataFrame:
    """The rows with their new categories, without those that are left out; adds to `said` what was done.

    Raises:
        InputError: there are no categories, one is not known, or fewer than two are left.
    """
    if "category" not in rows:
        raise InputError(f"{source}: labels= merges and renames exclusive categories, and here are none; leave it out.")
    merges = parse_merges("labels", text)
    old = rows["category"]
    present = sorted(set(old) - {""})
    require_known("labels", list(merges), present, "category")
    new = old.map(lambda name: merges.get(name, name))
    counts = old.value_counts()
    for name in dict.fromkeys(merges.values()):
        olds = [one for one, becomes in merges.items() if becomes == name]
        clips = f"{int(counts[olds].sum()):,} clips"
        said.append(f"{' + '.join(olds)} as {name} ({clips})" if name else f"without {listing(olds)} ({clips})")
    left = sorted(set(new) - {""})
    if len(left) < 2:
        what = f"one category, {printable(left[0])!r}" if left else "no category"
        raise InputError(f"{source}: labels={printable(text, 200)} leaves {what}; to recognise one takes two or more.")
    return rows.assign(category=new)[(new != "") | (old == "")]


def _clip_speakers(source: Path, rows: pd.DataFrame, most: int, said: list[str]) -> pd.DataFrame:
    """At most so many clips of each speaker: the first by the SHA-256 of `exvo clips 1/<file>`.

    Raises:
        InputError: the corpus does not say who speaks.
    """
    speakers = rows["speaker"]
    if (speakers == "").all():
        raise InputError(
            f"{source}: clips_per_speaker={most}, but the corpus does not say who speaks; leave the option out."
        )
    keys = [hashlib.sha256(f"exvo clips 1/{file}".encode("utf-8", "surrogateescape")).digest() for file in rows["file"]]
    order = np.array(sorted(range(len(rows)), key=keys.__getitem__))
    rank = np.empty(len(rows), int)
    rank[order] = speakers.iloc[order].groupby(speakers.iloc[order].to_numpy()).cumcount().to_numpy()
    kept = (rank < most) | (speakers == "").to_numpy()
    if kept.all():
        said.append(f"at most {most} clips of a speaker: nobody has more")
        return rows
    fewer = int(speakers[~kept].nunique())
    said.append(f"at most {most} clips of a speaker: {int((~kept).sum()):,} clips of {fewer:,} speakers left out")
    return rows[kept]


def length_conditions(where: str) -> list[Condition]:
    """The conditions of `where` on the length of a clip."""
    return [condition for condition in parse_conditions(where) if condition.column == SECONDS]


def within_seconds(corpus: Corpus, audio: pd.DataFrame, where: str) -> tuple[Corpus, pd.DataFrame]:
    """The clips whose length meets the conditions of `where`, and what can't be read, which has none.

    Args:
        corpus: whose other conditions are met.
        audio: one row a clip with `seconds`, in the order of the corpus.
        where: the option.

    Returns:
        Corpus and audio of the clips that are left.

    Raises:
        InputError: none is left.
    """
    said = []
    for condition in length_conditions(where):
        kept = (holds(condition, audio["seconds"]) | (audio["problem"] != "")).to_numpy()
        said.append(f"where {condition.text}: {int((~kept).sum()):,} of {len(audio):,} clips left out")
        if not kept.any():
            lengths = f"{audio['seconds'].min():.2f} to {audio['seconds'].max():.2f} s"
            raise InputError(f"{corpus.folder}: where={condition.text} leaves no clip; they are of {lengths}.")
        own = tuple(np.array(corpus.own_splits, dtype=object)[kept]) if corpus.own_splits else ()
        clips = corpus.clips[kept].reset_index(drop=True)
        corpus, audio = replace(corpus, clips=clips, own_splits=own), audio[kept].reset_index(drop=True)
    return replace(corpus, selected=(*corpus.selected, *said)), audio
