"""Several tables as one corpus: each has a name, with which its files and speakers begin."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from exvo.corpora.base import Corpus, require_inside
from exvo.corpora.columns import OURS
from exvo.errors import InputError
from exvo.tables import refuse_items
from exvo.text import is_name, listing, printable

CORPUS = "corpus"
"""The column that holds the name of the table that a clip is of."""


ALL_BUT = "all but "
"""What stands before the name of a table for all the others."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table that is read.

    Attributes:
        source: its file, for sentences.
        root: the folder of its audio.
        rows: under our names.
        notes: how it was read.
        roots: of several in one, see `Corpus`; else empty.
    """

    source: Path
    root: Path
    rows: pd.DataFrame
    notes: list[str]
    roots: Mapping[str, str] = field(default_factory=dict)


def join(tables: Sequence[Table]) -> Table:
    """Several tables as one, with the column `CORPUS`.

    A table is called by its file without the ending, `clips.csv` by its folder. Files and speakers begin with the name
    and a slash, so that people of one name stay apart, and the digest does not depend on where the folders lie.

    Raises:
        InputError: two have one name, only some have the column split or category, or their numeric targets differ.
    """
    names = [_name(table.source) for table in tables]
    twice = sorted({name for name in names if names.count(name) > 1 or not is_name(name)})
    if twice:
        raise InputError(
            f"data: {len(tables)} tables are called {listing(map(printable, names))}, by which their speakers are told "
            f"apart; rename {printable(twice[0])}."
        )
    _require_alike(tables, names)
    folder = Path(os.path.commonpath([os.path.realpath(table.root) for table in tables]))
    parts = []
    for name, table in zip(names, tables, strict=True):
        require_inside(table.source, table.root, table.rows["file"])
        speakers = table.rows["speaker"]
        rows = table.rows.assign(
            file=f"{name}/" + table.rows["file"],
            speaker=speakers.where(speakers == "", f"{name}/" + speakers),
            **{CORPUS: name},
        )
        parts.append(rows.set_axis([f"{name}: {where}" for where in rows.index]))
    return Table(
        Path(", ".join(str(table.source) for table in tables)),
        folder,
        pd.concat(parts).fillna(""),
        [f"{name}: {note}" for name, table in zip(names, tables, strict=True) for note in table.notes],
        {
            name: Path(os.path.relpath(os.path.realpath(table.root), folder)).as_posix()
            for name, table in zip(names, tables, strict=True)
        },
    )


def split_each(rows: pd.DataFrame, table: Table, split: Callable[[Path, pd.DataFrame], np.ndarray]) -> pd.Series:
    """The split of each clip where exvo assigns them: of several tables each is divided as it would be alone.

    Args:
        rows: the clips that are used.
        table: the whole.
        split: gives the splits of one table, (clips,).
    """
    if not table.roots:
        return pd.Series(split(table.source, rows), index=rows.index)
    parts = []
    for name in table.roots:
        part = rows[rows["file"].str.startswith(f"{name}/")]
        own = part.assign(**{column: part[column].str.removeprefix(f"{name}/") for column in ("file", "speaker")})
        parts.append(pd.Series(split(Path(name), own) if len(own) else [], index=part.index, dtype=object))
    splits: pd.Series = pd.concat(parts).reindex(rows.index)
    return splits


def with_names(corpus: Corpus, roots: Mapping[str, str]) -> Corpus:
    """The corpus of several tables with the column `CORPUS`; of one (no roots) as it is.

    Raises:
        InputError: a target has the name of that column.
    """
    if not roots:
        return corpus
    if CORPUS in corpus.targets:
        raise InputError(f"{corpus.folder}: a category or target is called {CORPUS}; rename it (labels=, columns=).")
    clips = corpus.clips.copy()
    clips.insert(3, CORPUS, clips["file"].str.partition("/")[0])
    return replace(corpus, clips=clips, roots=dict(roots))


def of_table(corpus: Corpus, name: str) -> Corpus:
    """One of several tables: the other clips are in no split, and their categories are not among the targets.

    Args:
        corpus: of all tables.
        name: of the table; with `ALL_BUT` before it all the others together.
    """
    clips = corpus.clips
    inside = clips[CORPUS] == name if name in corpus.roots else clips[CORPUS] != name.removeprefix(ALL_BUT)
    present = set(clips.loc[inside, "category"]) if corpus.categories else set()
    others = [category for category in corpus.categories if category not in present]
    clips = clips.assign(split=clips["split"].where(inside, "")).drop(columns=others)
    targets = tuple(target for target in corpus.targets if target not in others)
    return replace(corpus, clips=clips, targets=targets, categories=targets if corpus.categories else ())


def _name(source: Path) -> str:
    return source.resolve().parent.name if source.stem == "clips" else source.stem


def _require_alike(tables: Sequence[Table], names: Sequence[str]) -> None:
    """Refuses tables that can't be one corpus, by their columns.

    Raises:
        InputError: only some have the column split or category, or their numeric targets differ.
    """
    columns = {name: set(table.rows.columns) for name, table in zip(names, tables, strict=True)}
    for column in ("split", "category"):
        having = [name for name in names if column in columns[name]]
        if having and len(having) < len(names):
            without = listing(name for name in names if name not in having)
            remedy = " or to none (columns=split:)" if column == "split" else ""
            raise InputError(
                f"data: {listing(map(printable, having))} has the column {column} and {printable(without)} has none; "
                f"give it to all{remedy}."
            )
    if "category" in columns[names[0]]:
        return
    targets = [each - set(OURS) for each in columns.values()]
    differing = sorted({name for each in targets for name in each for other in targets if name not in other})
    if differing:
        refuse_items(
            Path("data"),
            "numeric targets that only some of the tables have",
            differing,
            "say what is learnt, as in columns=<name>:<column>, of columns that all have",
        )
