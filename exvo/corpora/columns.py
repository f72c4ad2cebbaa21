"""A table as others write it: their names of columns, their words for splits, paths of another machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import pandas as pd

from exvo.config import SPLITS
from exvo.corpora.base import is_missing
from exvo.corpora.rules import parse_merges, parts, plain, require_known
from exvo.errors import InputError
from exvo.files import on_disk
from exvo.tables import refuse_items
from exvo.text import listing, printable

OURS = ("file", "speaker", "category", "split", "age", "country")
"""The columns with a meaning of their own; all others may be numeric targets."""

USUAL = {
    "file": "file filename filepath fileid path audiopath audiofile audio wav wavfile wavpath clip relativepath",
    "speaker": "speaker speakerid speakername spkr spkrid spk spkid subject subjectid actor actorid participant "
    "participantid person personid contributor contributorid",
    "category": "category emotion emotionclass emotionlabel emo emoclass class classlabel label target expression "
    "vocalization",
    "split": "split splitset partition subset set",
    "age": "age ageyears",
    "country": "country countrystring nationality",
}
"""What others call these columns, in small letters without signs between the words."""

WORDS = {
    "train": "train training trn",
    "val": "val valid validation dev devel development",
    "test": "test testing tst",
}
"""What others call the splits; a number may follow, as in Test1."""


def parse_columns(text: str) -> dict[str, str]:
    """Our name of a column -> theirs, '' where the table is to count as having none.

    >>> parse_columns("file:FileName,category:EmoClass,speaker:")
    {'file': 'FileName', 'category': 'EmoClass', 'speaker': ''}

    Raises:
        InputError: a part has no colon, or a name or a column occurs twice.
    """
    named: dict[str, str] = {}
    for part in filter(None, parts(text, ",")):
        ours, *theirs = (plain(word) for word in parts(part, ":"))
        if len(theirs) != 1 or not ours:
            raise InputError(
                f"columns: {printable(part, 80)} is no pair; write name:column, as in file:FileName,category:EmoClass "
                f"(names with a meaning are {', '.join(OURS)}; any other is a numeric target)."
            )
        if ours in named:
            both = f"{printable(named[ours])!r} and {printable(theirs[0])!r}"
            raise InputError(f"columns: {both} are both mapped to {printable(ours)}; give one of them.")
        if theirs[0] and theirs[0] in named.values():
            raise InputError(f"columns: {printable(theirs[0])!r} is mapped to two names; give one of them.")
        named[ours] = theirs[0]
    return named


def rename(source: Path, rows: pd.DataFrame, named: dict[str, str]) -> pd.DataFrame:
    """The table under our names; a column that has one of them already without being mapped to it is left out.

    Raises:
        InputError: a column is not there, or the category is mapped beside numeric targets.
    """
    theirs = {column: ours for ours, column in named.items() if column}
    require_known("columns", list(theirs), list(rows.columns), "column")
    targets = [name for name in named if name not in OURS]
    if targets and named.get("category"):
        raise InputError(
            f"columns maps the category and also {listing(map(printable, targets))}, which would be numeric targets; "
            "give the one or the others, as it is either that is learnt."
        )
    hidden = [name for name in rows.columns if name in named and name not in theirs]
    return rows.drop(columns=hidden).rename(columns=theirs)


def looks_like(columns: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """For each of our names the first column whose name is usual for it, where there is one.

    >>> looks_like(["FileName", "Spkr_ID", "EmoClass", "note"], ["file", "speaker", "category", "split"])
    {'file': 'FileName', 'speaker': 'Spkr_ID', 'category': 'EmoClass'}
    """
    keys = {name: re.sub(r"[^a-z0-9]", "", name.casefold()) for name in columns}
    found = {}
    for ours in wanted:
        usual = USUAL[ours].split()
        near = [name for word in usual for name, key in keys.items() if key == word]
        if near:
            found[ours] = near[0]
    return found


def require_names(source: Path, rows: pd.DataFrame, named: dict[str, str]) -> None:
    """Refuses a table that seems to have the file, the speaker, the split or a category of text under another name.

    Raises:
        InputError: says which columns look like them, and how to say so.
    """
    absent = [name for name in OURS if name not in rows and name not in named]
    found = looks_like([name for name in rows.columns if name not in named], absent)
    urgent: list[str] = [name for name in ("file", "speaker", "split") if name in found]
    if "category" in found and not any(name not in OURS for name in named):
        cells = rows[found["category"]]
        urgent += ["category"] if any(re.search(r"[^\W\d_eE]", cell) and not is_missing(cell) for cell in cells) else []
    if not urgent:
        return
    first, *more = [f"{printable(found[name])} looks like the {name}" for name in found]
    alike = listing([first, *(one.replace(" looks", "") for one in more)])
    mapping = named | found
    option = ",".join(f"{name}:{_escaped(column)}" for name, column in mapping.items())
    none = f" ({urgent[-1]}: without a column says that there is none)" if urgent[-1] != "file" else ""
    raise InputError(f"{source} has no column {listing(urgent)}: {alike}; give columns={option}{none}.")


def _escaped(name: str) -> str:
    return printable(re.sub(r"([,:])", r"\\\1", name), 200)


def read_splits(source: Path, rows: pd.DataFrame, rules: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows with their splits as train, val and test, without those that `rules` leave out.

    Args:
        source: the table, for sentences.
        rows: with the column `split`.
        rules: the option `splits`, as train=A+B,val=C.

    Returns:
        The rows, and what stands for which in phrases.

    Raises:
        InputError: a rule is for none of the splits or names a word that is not there, or a word may mean any split.
    """
    merges = parse_merges("splits", rules)
    wrong = [name for name in dict.fromkeys(merges.values()) if name not in ("", *SPLITS)]
    if wrong:
        raise InputError(f"splits: {printable(wrong[0])!r} is no split; write train=, val= or test= and their words.")
    words = rows["split"]
    present = list(dict.fromkeys(words))
    require_known("splits", list(merges), present, "word for a split")
    usual = {word: split for split, names in WORDS.items() for word in names.split()}
    meaning = {word: usual.get(re.sub(r"[\s_-]*\d*$", "", word.casefold()), word) for word in present} | merges
    unknown = words[~words.map(meaning).isin(["", *SPLITS]) | (words == "")]
    if len(unknown):
        cells = [f"{where} ({word!r})" for where, word in unknown.items()]
        others = [printable(word) for word in dict.fromkeys(unknown) if word]
        which = f"say which is which, as in splits=train={'+'.join(others[:2])}" if others else "fill the cells"
        refuse_items(source, "unknown split", cells, f"the splits are {listing(SPLITS)}; {which}")
    said = []
    for split in (*SPLITS, ""):
        others = [printable(word) for word, becomes in meaning.items() if becomes == split != word]
        if others:
            said.append(f"split {' + '.join(others)} {f'as {split}' if split else 'left out'}")
    rows = rows.assign(split=words.map(meaning))
    return rows[rows["split"] != ""], said


def local_paths(source: Path, files: pd.Series, root: Path, asked: bool) -> pd.Series:
    """The paths of a table relative to the folder of its audio.

    Where all are absolute, of whatever machine, they lose the folders that this one does not have: the fewest that
    leave a path below `root` for the first file that is found.

    Args:
        source: the table, for sentences.
        files: (clips,), as it has them.
        root: the folder of the audio.
        asked: whether the user has named the folder: then Windows' paths are read too, and one file must be there.

    Raises:
        InputError: none of the files is below the folder, or absolute ones have no folder in common.
    """
    if asked:
        files = files.str.replace("\\", "/", regex=False)
    absolute = files.map(lambda file: PurePosixPath(file).is_absolute() or bool(PureWindowsPath(file).drive))
    if len(files) and absolute.all():
        files = _below(source, files, root, asked)
    elif asked and len(files) and not any(os.path.exists(on_disk(root, file)) for file in files if "\0" not in file):
        raise InputError(
            f"{source}: of its {len(files):,} files none is in {root}; the first is {printable(files.iloc[0], 200)}: "
            "give root=<the folder below which they are>."
        )
    return files


def _below(source: Path, files: pd.Series, root: Path, asked: bool) -> pd.Series:
    """Absolute paths relative to `root`; as they are where none is found and the user has named no folder."""
    for file in files:
        folders = file.split("/")
        for cut in range(1, len(folders)):
            rest = "/".join(folders[cut:])
            if rest and ".." not in folders and os.path.isfile(on_disk(root, rest)):
                start = file.removesuffix(rest)
                wrong = files.index[~files.str.startswith(start)]
                if len(wrong):
                    refuse_items(source, f"files that are not in {start}, as others are", wrong, "give one folder")
                return files.str.removeprefix(start)
    if not asked:
        return files
    raise InputError(
        f"{source}: of its {len(files):,} files none is below {root}, whatever folders are left out at the beginning; "
        f"the first is {printable(files.iloc[0], 200)}: give root=<the folder that holds them here>."
    )
