"""Tables as spreadsheets write them give the corpus that plain CSV gives, or a sentence that names the cause."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from exvo.config import EMOTIONS
from exvo.corpora import load
from exvo.corpora.audit import audit
from exvo.corpora.base import Corpus
from exvo.errors import InputError
from exvo.evaluation import submission
from exvo.spreadsheets import decode, parse
from exvo.tables import read_flat_parquet, validated_predictions

ROWS = [
    ["file", "split", "speaker", "age", "calm"],
    ["a.wav", "train", "José", "31.5", "0.25"],
    ["b.wav", "train", "Anna", "40", "1"],
    ["c.wav", "val", "Cem", "20", "0.125"],
    ["d.wav", "val", "Dan", "", "0.5"],
    ["e.wav", "test", "", "20", ""],
]
COMMAS = [[cell.replace(".", ",") if column > 2 and row else cell for column, cell in enumerate(cells)]
          for row, cells in enumerate(ROWS)]  # fmt: skip


def text(rows: list[list[str]], separator: str = ",", end: str = "\n") -> str:
    return "".join(separator.join(row) + end for row in rows)


def loaded(folder: Path, content: bytes) -> Corpus:
    (folder / "clips.csv").write_bytes(content)
    return load("table", folder)


def sentence(folder: Path, content: bytes) -> str:
    with pytest.raises(InputError) as caught:
        loaded(folder, content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SEMICOLONS = text(COMMAS, ";")


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (text(ROWS).encode(), []),
        (text(ROWS, end="\r\n").encode("utf-8-sig"), []),
        (text(ROWS, end="\r").encode(), []),
        (text([[f'"{cell}"' for cell in row] for row in ROWS]).encode(), []),
        (SEMICOLONS.encode(), ["semicolons between cells", "decimal commas"]),
        (SEMICOLONS.encode("utf-16"), ["UTF-16", "semicolons between cells", "decimal commas"]),
        (text(ROWS, "\t").encode("utf-16"), ["UTF-16", "tabs between cells"]),
        (b"\xfe\xff" + text(ROWS).encode("utf-16-be"), ["UTF-16"]),
        (text(ROWS).encode("cp1252"), ["Windows-1252"]),
        (f"sep=;\r\n{SEMICOLONS}".encode(), ["semicolons between cells", "decimal commas"]),
        (f'"sep=,"\n{text(ROWS)}'.encode(), ["commas between cells"]),
        (text([[f'"{cell}"' for cell in row] for row in COMMAS]).encode(), ["decimal commas"]),
        (text([[*row, "", ""] for row in ROWS]).encode(), ["empty columns at the end left out"]),
        (text([ROWS[0], *[[*row, "", " "] for row in ROWS[1:]]]).encode(), ["empty columns at the end left out"]),
        (text([*ROWS[:2], [""] * 5, *ROWS[2:], [""] * 5]).encode(), ["2 empty rows left out"]),
        (text([*ROWS[:2], [], *ROWS[2:], [], []]).encode(), []),
        (text([[*row[:4], "calm, cool"] if row is COMMAS[0] else row for row in COMMAS], ";").encode(),
         ["semicolons between cells", "decimal commas"]),
    ],
)  # fmt: skip
def test_all_ways_of_a_spreadsheet_give_the_same_corpus(tmp_path: Path, content: bytes, notes: list[str]) -> None:
    corpus = loaded(tmp_path, content)
    assert list(corpus.notes) == notes
    assert corpus.clips["file"].tolist() == ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav"]
    assert corpus.clips["speaker"].tolist() == ["José", "Anna", "Cem", "Dan", ""]
    np.testing.assert_array_equal(corpus.clips["age"], [31.5, 40, 20, np.nan, 20])
    np.testing.assert_array_equal(corpus.clips[corpus.targets[0]], [0.25, 1, 0.125, 0.5, np.nan])


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (text(ROWS).replace("José", "Hélène").encode("cp1252"), ("line 2 is not UTF-8", "'Hélène'", "'Hélčne'")),
        (text(ROWS).replace("José", "Ирина").encode("cp1251"), ("line 2 is not UTF-8", "CSV UTF-8")),
        (text(ROWS).replace("José", "田中").encode("shift_jis"), ("is not UTF-8",)),
        (text(ROWS).replace("José", "José").encode("mac_roman"), ("is not UTF-8",)),
        (text(ROWS).encode("utf-16-le"), ("null characters, as UTF-16 without a byte order mark",)),
        (b"PK\3\4" + bytes(80), ("the file of a spreadsheet program (as .xlsx)", "CSV UTF-8")),
        (b"\xff\xfeabc", ("begins as UTF-16 but is not",)),
        (SEMICOLONS.replace("0,25", "1.000,25").encode(), ("calm is not a number: line 2 ('1.000,25')", "thousands")),
        (SEMICOLONS.replace("0,25", "1,000,25").encode(), ("line 2 ('1,000,25')", "nothing between thousands")),
        (text([ROWS[0], *[[*row[:3], "30", '"1,234"'] for row in ROWS[1:]]]).encode(), ("may be 1.234 or 1234",)),
        (text([[f'"{",".join(row)}"'] for row in ROWS]).encode(), ("single cell in quotes",)),
        (f"sep=|\n{text(ROWS, '|')}".encode(), ("its first line says sep=|; separate its cells by commas",)),
        ((text(COMMAS[:3], ";") + "c.wav;val\n").encode(),
         ("rows without the header's 5 fields: line 4 (2)", "semicolons between cells")),
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused_with_the_cause(
    tmp_path: Path, content: bytes, parts: tuple[str, ...]
) -> None:
    found = sentence(tmp_path, content)
    assert str(tmp_path / "clips.csv") in found
    for part in parts:
        assert part in found


def test_a_workbook_instead_of_csv_is_named(tmp_path: Path) -> None:
    (tmp_path / "clips.xlsx").write_bytes(b"PK\3\4")
    with pytest.raises(
        InputError, match=r"clips\.xlsx is the file of a spreadsheet program, .* save it as 'CSV UTF-8'\."
    ):
        load("table", tmp_path)
    (tmp_path / "data_info.ods").write_bytes(b"PK\3\4")
    with pytest.raises(InputError, match=r"data_info\.ods is the file of a spreadsheet program"):
        load("hume-vb", tmp_path)


def test_lines_are_counted_after_the_line_of_the_separator() -> None:
    table = parse("sep=;\na;b\n\n1;2\n")
    assert (table.header, table.places, table.cells) == (["a", "b"], ["line 4"], [["1", "2"]])
    assert decode("é".encode()) == ("é", "")


def audited(corpus: Corpus) -> audit.Audit:
    count = len(corpus.clips)
    facts = pd.DataFrame({"file": corpus.clips["file"], "content": [f"{n}" for n in range(count)]})
    return audit(corpus, facts.assign(seconds=1.0, rate=16_000, problem=""))


def test_how_the_table_was_read_is_in_the_audit_once(tmp_path: Path) -> None:
    found = audited(loaded(tmp_path, SEMICOLONS.encode("utf-16")))
    assert found.summary["reading"] == ["UTF-16", "semicolons between cells", "decimal commas"]
    assert found.text().count("table      read with UTF-16, semicolons between cells, decimal commas\n") == 1
    plain = audited(loaded(tmp_path, text(ROWS).encode()))
    assert plain.summary["reading"] == []
    assert "read with" not in plain.text()
    assert plain.digest == found.digest


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_both_forms_of_a_name_are_one(tmp_path: Path, kind: str) -> None:
    """A person, a country and a target whose names are composed in one place and decomposed in another."""
    composed, decomposed = "José", unicodedata.normalize("NFD", "José")
    frame = pd.DataFrame(
        {
            "file": [f"{decomposed}.wav", "b.wav", "c.wav", "d.wav"],
            "split": ["train", "train", "val", "val"],
            "speaker": [composed, "Ben", decomposed, "Dan"],
            "country": [decomposed, composed, "Peru", "Peru"],
            unicodedata.normalize("NFD", "Überraschung"): [0.1, 0.2, 0.3, 0.4],
        }
    )
    write = frame.to_csv if kind == "csv" else frame.to_parquet
    write(tmp_path / f"clips.{kind}", index=False)
    corpus = load("table", tmp_path)
    assert corpus.clips["speaker"].tolist() == ["José", "Ben", "José", "Dan"]
    assert corpus.clips["country"].tolist() == ["José", "José", "Peru", "Peru"]
    assert corpus.clips["file"][0] == "José.wav"
    assert corpus.targets == ("Überraschung",)
    assert any("several splits" in warning and "José" in warning for warning in audited(corpus).warnings)


def test_two_forms_of_a_path_are_the_same_file(tmp_path: Path) -> None:
    rows = [list(row) for row in ROWS]
    rows[1][0], rows[3][0] = "é.wav", unicodedata.normalize("NFD", "é.wav")
    assert "files given more than once: é.wav (line 2, line 4)" in sentence(tmp_path, text(rows).encode())


def test_a_link_out_of_the_folder_is_found_under_the_other_form(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (tmp_path / "secret.wav").touch()
    (folder / unicodedata.normalize("NFD", "é.wav")).symlink_to(tmp_path / "secret.wav")
    rows = [["é.wav", *ROWS[1][1:]] if row is ROWS[1] else row for row in ROWS]
    assert "links that leave the corpus folder: line 2 (é.wav is " in sentence(folder, text(rows).encode())


def test_names_that_look_alike_are_warned_of(tmp_path: Path) -> None:
    changed = {"José": "anna", "Cem": "\uff21nna", "Dan": "An na"}
    rows = [[changed.get(cell, cell) for cell in row] for row in ROWS]
    found = audited(loaded(tmp_path, text(rows).encode()))
    assert found.summary["look_alikes"] == {"speaker": [["An na", "Anna", "anna", "\uff21nna"]]}
    (warning,) = [one for one in found.warnings if "look alike" in one]
    assert warning.startswith("speaker names that look alike count as different ones: 'An na' = 'Anna' = 'anna'")
    assert not audited(loaded(tmp_path, text(ROWS).encode())).summary["look_alikes"]


def test_a_predictions_table_of_the_other_form_is_the_same_table(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "José")
    frame = pd.DataFrame({"file": [f"{name}.wav"], "split": ["test"], "speaker": [name], "scored": [True]})
    frame.assign(**{f"truth.{name}": [0.5], f"prediction.{name}": [0.4]}).to_parquet(tmp_path / "test.parquet")
    table = validated_predictions(read_flat_parquet(tmp_path / "test.parquet"), "test.parquet")
    assert table.columns.tolist() == ["file", "split", "speaker", "scored", "truth.José", "prediction.José"]
    assert table.iloc[0, :3].tolist() == ["José.wav", "test", "José"]


def test_a_submission_that_is_not_plain_csv_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "ExVo-Few_team_1.csv"
    rows = [["File_ID", *EMOTIONS], ["[é]", *["0.5"] * 10]]
    path.write_text(text(rows, ";"))
    (problem,) = submission.check(path, ["[é]"]).problems
    assert problem == "It is not plain CSV (UTF-8, commas, decimal points): it has semicolons between cells."
    path.write_text(unicodedata.normalize("NFD", text(rows)))
    assert submission.check(path, ["[é]"]).problems == []
    assert "is not there" in submission.check(tmp_path / ("x" * 300), ["[é]"]).problems[0]
    assert "is a folder, not a file: check=" in submission.check(tmp_path, ["[é]"]).problems[0]


def test_decimal_commas_without_quotes_are_named(tmp_path: Path) -> None:
    said = sentence(tmp_path, text(COMMAS).encode())
    assert "rows without the header's 5 fields: line 2 (7), " in said
    assert "; decimal commas without quotes are the likely cause" in said
    extra = [[*row, "loud"] if place == 2 else row for place, row in enumerate(ROWS)]
    assert "line 3 (6); correct these rows, with commas between cells." in sentence(tmp_path, text(extra).encode())


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    "title", ["Ratings of 2022", "Ratings of 2022{0}{0}{0}{0}", "Ratings{0} 2022", "{0}Ratings{0}{0}{0}"]
)
def test_a_title_above_the_header_is_named(tmp_path: Path, title: str, separator: str) -> None:
    said = sentence(tmp_path, (title.format(separator) + "\n" + text(ROWS, separator)).encode())
    assert "the first line looks like a title (Ratings" in said
    assert said.endswith("): the header must be the first line.")


def test_an_index_without_a_name_is_no_title(tmp_path: Path) -> None:
    rows = [[str(place) if place else "", *row] for place, row in enumerate(ROWS)]
    assert sentence(tmp_path, text(rows).encode()).endswith(
        "column 1; name or remove them (pandas: to_csv(index=False))."
    )
