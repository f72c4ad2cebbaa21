"""HUME-VB as released for ExVo 2022 (Baird et al., arXiv 2205.01780): `data_info.csv` and `wav/`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from exvo.config import EMOTIONS
from exvo.corpora.base import Corpus, build
from exvo.corpora.selection import EVERYTHING, Selection, select
from exvo.tables import read_csv_cells, refuse_items, require_columns

_COLUMNS = {"Split": "split", "Subject_ID": "speaker", "Country_string": "country", "Age": "age"}
_LAYOUT = "a HUME-VB folder holds data_info.csv and the folder wav, as released for ExVo 2022"


def read(folder: Path, selection: Selection = EVERYTHING) -> Corpus:
    """Reads HUME-VB: the ten emotions as targets, the country as its name, the age in years.

    The `File_ID` `[58712]` is `wav/58712.wav`. Labels of test clips may be empty.

    Raises:
        InputError: `data_info.csv` is missing or malformed; names the lines.
    """
    source = folder / "data_info.csv"
    rows = read_csv_cells(source, _LAYOUT)
    require_columns(source, rows, ["File_ID", *_COLUMNS, *EMOTIONS])
    names = rows["File_ID"]
    wrong = names[~names.str.fullmatch(r"\[[A-Za-z0-9_][A-Za-z0-9_.-]*\]")]
    if len(wrong):
        cells = [f"{where} ({text!r})" for where, text in wrong.items()]
        refuse_items(source, "File_ID is not a name in brackets", cells, "write it as [58712], which is wav/58712.wav")
    rows = rows.rename(columns=_COLUMNS)
    rows["file"] = "wav/" + names.str[1:-1] + ".wav"
    rows["split"] = rows["split"].str.lower()
    rows, selected = select(source, rows, selection)
    return replace(build("hume-vb", folder, source, rows, EMOTIONS), selected=tuple(selected))


def country_codes(folder: Path) -> dict[str, int]:
    """The number that `data_info.csv` gives each country (its column `Country`), as the challenge's files hold it.

    Raises:
        InputError: a number is missing or not whole, or a country has two.
    """
    source = folder / "data_info.csv"
    rows = read_csv_cells(source, _LAYOUT)
    require_columns(source, rows, ["Country", "Country_string"])
    pairs = rows.loc[rows["Country_string"] != "", ["Country_string", "Country"]].drop_duplicates()
    wrong = pairs[~pairs["Country"].str.fullmatch(r"[0-9](\.0*)?") | pairs["Country_string"].duplicated(keep=False)]
    if len(wrong):
        countries = [f"{name} ({code!r})" for name, code in wrong.itertuples(index=False)]
        refuse_items(
            source, "Country is not one number for each Country_string", countries, "number the countries 0 to 3"
        )
    return {name: int(code[0]) for name, code in pairs.itertuples(index=False)}
