"""Readers and validation of corpora, against folders written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from exvo import corpora
from exvo.config import CORPORA, EMOTIONS
from exvo.corpora import load
from exvo.corpora.emogator import CATEGORIES
from exvo.errors import InputError
from exvo.reports import card

HUME_HEADER = ["File_ID", "Split", "Subject_ID", "Country", "Country_string", "Age", *EMOTIONS]


def clips(**changes: list) -> pd.DataFrame:
    """Two train, two val and two test clips of one target, `calm`."""
    columns = {
        "file": [f"wav/{number}.wav" for number in range(6)],
        "split": ["train", "train", "val", "val", "test", "test"],
        "speaker": ["a", "b", "c", "c", "d", "e"],
        "age": [30.5, 41.0, 20.0, 20.0, None, 65.0],
        "country": ["Chile", "Chile", "Peru", "Peru", "", "Peru"],
        "calm": [0.25, 1.0, 0.0, 1 / 3, None, 0.5],
    }
    return pd.DataFrame({**columns, **changes})


def table(folder: Path, frame: pd.DataFrame) -> Path:
    frame.to_csv(folder / "clips.csv", index=False)
    return folder


def refused(folder: Path, *parts: str, corpus: str = "table") -> str:
    """The message of the InputError, which must hold every part."""
    with pytest.raises(InputError) as caught:
        load(corpus, folder)
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert message.endswith((".", "?"))
    assert "\n" not in message
    return message


def hume_rows() -> list[list]:
    """Train, Val and Test clips with the emotions 0.0, 0.1 ... 0.9; the last one unlabelled."""
    emotions = [number / 10 for number in range(10)]
    people = [("Train", "S1", 0, "China", 40.5), ("Val", "S2", 3, "Venezuela", 23.0), ("Test", "S3", 2, "", "")]
    rows = [
        [f"[{number:05}]", split, speaker, code, country, age, *emotions]
        for number, (split, speaker, code, country, age) in enumerate([p for p in people for _ in range(2)])
    ]
    rows[-1][6:] = [""] * 10
    return rows


def hume(folder: Path, rows: list[list], encoding: str = "utf-8") -> Path:
    pd.DataFrame(rows, columns=HUME_HEADER).to_csv(folder / "data_info.csv", index=False, encoding=encoding)
    return folder


def test_table_keeps_order_columns_and_values(tmp_path: Path) -> None:
    frame = clips(rough=[-3, 2.5, 1e3, 0, 7, 1])[["rough", "speaker", "calm", "file", "country", "split", "age"]]
    frame.loc[4, "rough"] = None
    corpus = load("table", table(tmp_path, frame))
    assert (corpus.name, corpus.folder, corpus.targets) == ("table", tmp_path, ("rough", "calm"))
    assert (corpus.synthetic, corpus.categories) == (False, ())
    assert list(corpus.clips) == ["file", "split", "speaker", "country", "age", "rough", "calm"]
    assert corpus.clips["file"].tolist() == [f"wav/{number}.wav" for number in range(6)]
    np.testing.assert_array_equal(corpus.clips["calm"], [0.25, 1.0, 0.0, 1 / 3, np.nan, 0.5])
    np.testing.assert_array_equal(corpus.clips["rough"], [-3, 2.5, 1000, 0, np.nan, 1])
    np.testing.assert_array_equal(corpus.clips["age"], [30.5, 41, 20, 20, np.nan, 65])
    assert corpus.clips["country"].tolist() == ["Chile", "Chile", "Peru", "Peru", "", "Peru"]


def test_csv_and_parquet_give_equal_corpora(tmp_path: Path) -> None:
    frame = clips(
        speaker=pd.array([1, 2, 3, 3, 4, 5], dtype="int64"),
        rough=np.array([0.1, 0.2, 0.7, 1e-7, np.nan, 3], dtype=np.float32),
        loud=pd.array([1, 0, 1, 0, None, 1], dtype="Int64"),
        country=pd.Categorical(["Chile", "Chile", "Peru", "Peru", None, "Peru"]),
    )
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = load("table", table(tmp_path / "one", frame))
    frame.to_parquet(tmp_path / "two" / "clips.parquet")
    two = load("table", tmp_path / "two")
    pd.testing.assert_frame_equal(one.clips, two.clips)
    assert one.targets == two.targets == ("calm", "rough", "loud")
    assert two.clips["speaker"].tolist() == ["1", "2", "3", "3", "4", "5"]
    assert two.clips["rough"][0] == 0.1


def test_table_needs_exactly_one_file(tmp_path: Path) -> None:
    refused(tmp_path, "neither clips.csv nor clips.parquet")
    table(tmp_path, clips())
    clips().to_parquet(tmp_path / "clips.parquet")
    refused(tmp_path, "both clips.csv and clips.parquet")


def test_table_without_targets_and_broken_parquet(tmp_path: Path) -> None:
    refused(table(tmp_path, clips().drop(columns="calm")), "no target")
    (tmp_path / "clips.csv").unlink()
    (tmp_path / "clips.parquet").write_bytes(b"not parquet")
    refused(tmp_path, "clips.parquet", "can't be read as Parquet")
    clips(split=["train"] * 5 + ["late"]).to_parquet(tmp_path / "clips.parquet")
    refused(tmp_path, "clips.parquet", "row 6 ('late')")


def test_missing_column(tmp_path: Path) -> None:
    refused(table(tmp_path, clips().drop(columns="file")), "clips.csv", "missing beside", ": file;")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"file": ["x.wav", "y.wav", "./x.wav", "b//z.wav", "b/z.wav", "q.wav"]},
         ("more than once", "x.wav (line 2, line 4)", "b/z.wav (line 5, line 6)")),
        ({"file": ["/etc/x.wav", "../y.wav", "a/../../z.wav", "C:/w.wav", "a\\b.wav", ""]},
         ("relative path", "line 2 ('/etc/x.wav')", "line 3 ('../y.wav')", "line 4", "line 5", "line 6", "line 7")),
        ({"split": ["train", "train", "val", "val", "late", "3"]},
         ("unknown split", "line 6 ('late')", "line 7 ('3')", "train, val, test", "splits=train=late+3")),
        ({"speaker": ["a", "", "c", " ", "", ""]}, ("without a speaker", "line 3, line 5;")),
        ({"calm": [0.1, "loud", 0.2, "inf", "0,5", 0.3]},
         ("calm is not a number", "line 3 ('loud')", "line 5 ('inf')", "line 6 ('0,5')")),
        ({"calm": [0.1, 1e39, 0.2, 0.3, None, 0.3]}, ("calm is out of range", "line 3 ('1e+39')")),
        ({"calm": [0.1, None, "nan", 0.3, None, 0.3]}, ("without a label", "line 3 (calm), line 4 (calm);")),
        ({"mood": ["good"] * 6},
         ("mood holds text ('good'); if these are exclusive categories, give columns=category:mood",)),
        ({"age": [-1, 30, 131, 30, 30, 30]}, ("age is out of range", "line 2 ('-1')", "line 4 ('131')", "0 to 130")),
        ({"age": ["old", 30, 13, 30, 30, 30]}, ("age is not a number", "line 2 ('old')")),
        ({"rough": [1, 1, 1, 1, 1, None]}, ("only a part", "line 6 (calm), line 7 (rough);")),
    ],
)  # fmt: skip
def test_bad_rows_are_all_named(tmp_path: Path, changes: dict, parts: tuple[str, ...]) -> None:
    refused(table(tmp_path, clips(**changes)), str(tmp_path / "clips.csv"), *parts)


def test_test_split_is_optional_and_may_be_anonymous(tmp_path: Path) -> None:
    corpus = load("table", table(tmp_path, clips(speaker=["a", "b", "c", "c", "", ""])))
    assert corpus.clips["speaker"].tolist()[4:] == ["", ""]
    corpus = load("table", table(tmp_path, clips()[:4]))
    assert corpus.clips["split"].tolist() == ["train", "train", "val", "val"]


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    frame = pd.concat([clips()] * 5, ignore_index=True)
    frame["file"] = [f"{number}.wav" for number in range(30)]
    frame["split"] = "late"
    message = refused(table(tmp_path, frame), "and 20 more")
    assert len(re.findall(r"line \d+", message)) == 10


@pytest.mark.parametrize(
    ("split", "missing"),
    [
        (["train"] * 2 + ["test"] * 4, "split val has 0 clips; give it at least 2"),
        (["val"] * 3 + ["test"] * 3, "split train has 0 clips"),
        (["train"] * 3 + ["val", "test", "test"], "split val has 1 clips"),
    ],
)
def test_a_split_without_clips_to_train_or_validate_is_named(tmp_path: Path, split: list[str], missing: str) -> None:
    refused(table(tmp_path, clips(split=split)), f"{tmp_path}: {missing}")


def test_single_clip_and_empty_table(tmp_path: Path) -> None:
    refused(table(tmp_path, clips()[:1]), "split train has 1 clips")
    refused(table(tmp_path, clips()[:0]), "holds no clips")
    (tmp_path / "clips.csv").write_text("")
    refused(tmp_path, "clips.csv")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"file,split\n\xff\xfe,train\n", ("UTF-8",)),
        (b"file,split,speaker,calm\na.wav,train,x\nb.wav,val,y,1,2\n", ("line 2 (3)", "line 3 (5)", "4 fields")),
        (b"file,split,speaker,calm,calm\n", ("more than once: calm",)),
        (b",file,split,speaker,calm\n", ("column 1", "index=False")),
        (b'file,split,speaker,calm\n"a.wav,train,x,1\n', ("not a CSV file",)),
    ],
)
def test_broken_csv(tmp_path: Path, text: bytes, parts: tuple[str, ...]) -> None:
    (tmp_path / "clips.csv").write_bytes(text)
    refused(tmp_path, "clips.csv", *parts)


def test_lines_are_those_of_an_editor(tmp_path: Path) -> None:
    """Blank lines count, as they do in an editor; cells are stripped."""
    rows = ["file,split,speaker,calm", "", "a.wav, train ,x,1", "b.wav,train,x,0", "", "c.wav,late,y,1"]
    (tmp_path / "clips.csv").write_text("\r\n".join(rows))
    message = refused(tmp_path, "line 6 ('late')")
    assert "line 3" not in message


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "corpus" / "wav").mkdir(parents=True)
    (tmp_path / "corpus2").mkdir()
    outside = tmp_path / "corpus2" / "secret.wav"
    outside.touch()
    (tmp_path / "corpus" / "wav" / "1.wav").symlink_to(outside)
    (tmp_path / "corpus" / "wav" / "0.wav").symlink_to("2.wav")
    table(tmp_path / "corpus", clips())
    message = refused(tmp_path / "corpus", "line 3 (wav/1.wav is ", "secret.wav")
    assert "line 2" not in message
    (tmp_path / "corpus" / "wav" / "1.wav").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "corpus")
    assert len(load("table", tmp_path / "link").clips) == 6


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_hume_vb(tmp_path: Path, encoding: str) -> None:
    corpus = load("hume-vb", hume(tmp_path, hume_rows(), encoding))
    assert (corpus.name, corpus.targets) == ("hume-vb", EMOTIONS)
    assert list(corpus.clips) == ["file", "split", "speaker", "country", "age", *EMOTIONS]
    assert corpus.clips["file"].tolist() == [f"wav/{number:05}.wav" for number in range(6)]
    assert corpus.clips["split"].tolist() == ["train", "train", "val", "val", "test", "test"]
    assert corpus.clips["speaker"].tolist() == ["S1", "S1", "S2", "S2", "S3", "S3"]
    assert corpus.clips["country"].tolist() == ["China", "China", "Venezuela", "Venezuela", "", ""]
    np.testing.assert_array_equal(corpus.clips["age"], [40.5, 40.5, 23, 23, np.nan, np.nan])
    labels = corpus.clips[list(EMOTIONS)].to_numpy()
    np.testing.assert_array_equal(labels[:5], [np.arange(10) / 10] * 5)
    assert np.isnan(labels[5]).all()
    assert corpus.clips["Surprise"].tolist()[:2] == [0.9, 0.9]


def change(row: int, column: str, value: object) -> Callable[[list[list]], None]:
    def edit(rows: list[list]) -> None:
        rows[row][HUME_HEADER.index(column)] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (change(1, "File_ID", "00001"), ("brackets", "line 3 ('00001')")),
        (change(1, "File_ID", "[../x]"), ("brackets", "line 3 ('[../x]')")),
        (change(1, "File_ID", "[..]"), ("brackets", "line 3")),
        (change(1, "File_ID", "[/etc/x]"), ("brackets", "line 3")),
        (change(1, "File_ID", ""), ("brackets", "line 3 ('')")),
        (change(1, "File_ID", "[00000]"), ("more than once", "wav/00000.wav (line 2, line 3)")),
        (change(2, "Split", "Dev"), ("unknown split", "line 4")),
        (change(0, "Awe", 1.01), ("Awe is out of range", "line 2 ('1.01')", "0 to 1")),
        (change(0, "Awe", -0.1), ("Awe is out of range", "line 2")),
        (change(3, "Horror", "high"), ("Horror is not a number", "line 5 ('high')")),
        (change(3, "Fear", ""), ("without a label", "line 5 (Fear)")),
        (change(4, "Fear", ""), ("only a part", "line 6 (Fear)")),
        (change(0, "Subject_ID", ""), ("without a speaker", "line 2")),
    ],
)
def test_hume_vb_refuses(tmp_path: Path, edit: Callable[[list[list]], None], parts: tuple[str, ...]) -> None:
    rows = hume_rows()
    edit(rows)
    refused(hume(tmp_path, rows), "data_info.csv", *parts, corpus="hume-vb")


def test_hume_vb_layout(tmp_path: Path) -> None:
    refused(tmp_path, "data_info.csv is not there", "wav", corpus="hume-vb")
    pd.DataFrame(hume_rows(), columns=HUME_HEADER).drop(columns=["Age", "Awe"]).to_csv(tmp_path / "data_info.csv")
    refused(tmp_path, "column 1", corpus="hume-vb")
    frame = pd.DataFrame(hume_rows(), columns=HUME_HEADER).drop(columns=["Age", "Awe"])
    frame.to_csv(tmp_path / "data_info.csv", index=False)
    refused(tmp_path, "columns missing", ": Age, Awe;", corpus="hume-vb")


def emogator(folder: Path, names: list[str]) -> Path:
    mp3 = folder / "data" / "mp3"
    mp3.mkdir(parents=True)
    for name in names:
        (mp3 / name).touch()
    return folder


def test_emogator_names_are_the_labels(tmp_path: Path) -> None:
    names = ["000004-01-1.mp3", "000001-30-3.mp3", "000001-02-1.mp3", "000009-13-2.mp3", "000357-19-2.mp3"]
    corpus = load("emogator", emogator(tmp_path, [*names, ".DS_Store", "000010-27-1.mp3"]))
    assert corpus.clips["file"].tolist() == [
        "data/mp3/000001-02-1.mp3",
        "data/mp3/000001-30-3.mp3",
        "data/mp3/000004-01-1.mp3",
        "data/mp3/000009-13-2.mp3",
        "data/mp3/000010-27-1.mp3",
        "data/mp3/000357-19-2.mp3",
    ]
    assert corpus.clips["category"].tolist() == [
        "Amusement", "Triumph", "Adoration", "Elation", "Surprise (Negative)", "Pain",
    ]  # fmt: skip
    assert corpus.clips["split"].tolist() == ["train", "train", "val", "val", "test", "train"]
    assert corpus.clips["speaker"].tolist() == ["000001", "000001", "000004", "000009", "000010", "000357"]
    labels = corpus.clips[list(corpus.targets)]
    assert labels.idxmax(axis=1).tolist() == corpus.clips["category"].tolist()
    assert (labels.sum(axis=1) == 1.0).all()
    assert list(corpus.clips) == ["file", "split", "speaker", "category", *CATEGORIES]


def test_emogator_refuses(tmp_path: Path) -> None:
    refused(tmp_path, "data/mp3", "git clone https://github.com/fredbuhl/EmoGator", corpus="emogator")
    odd = ["000001-00-1.mp3", "000001-31-1.mp3", "000001-01-4.mp3", "1-01-1.mp3", "000001-01-1.wav", "notes.txt"]
    message = refused(emogator(tmp_path, ["000001-01-1.mp3", *odd]), *odd, corpus="emogator")
    assert "000001-01-1.mp3" not in message
    refused(emogator(tmp_path / "none", []), "holds no clips", corpus="emogator")
    one_speaker = emogator(tmp_path / "one", ["000001-01-1.mp3", "000001-01-2.mp3"])
    refused(one_speaker, "split val has 0 clips", corpus="emogator")


def test_emogator_mini(emogator_mini: Path) -> None:
    """24 contributors of 90 clips: 4, 9, 14, 19, 24 are val and 5, 10, 15, 20 are test."""
    corpus = load("emogator", emogator_mini)
    assert len(corpus.clips) == 2160
    assert corpus.clips["speaker"].nunique() == 24
    assert corpus.clips["split"].value_counts().to_dict() == {"train": 15 * 90, "val": 5 * 90, "test": 4 * 90}
    assert set(corpus.clips["speaker"][corpus.clips["split"] == "test"]) == {"000005", "000010", "000015", "000020"}
    assert (corpus.clips[list(CATEGORIES)].sum() == 24 * 3).all()
    described = " ".join((emogator_mini / "README.md").read_text().split())
    assert ", ".join(CATEGORIES) + "." in described
    assert corpus.categories == corpus.targets == CATEGORIES


def test_unknown_corpus_and_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path, "corpus=hume is not known; did you mean hume-vb?", corpus="hume")
    refused(tmp_path, "corpus=x is not known; known are sample, hume-vb, emogator, table", corpus="x")
    refused(tmp_path / "gone", "gone of corpus table is not there")


def test_the_option_offers_just_the_corpora_that_can_be_read() -> None:
    assert set(CORPORA) == set(corpora._READERS)


def test_every_corpus_has_a_licence_and_says_what_its_labels_are() -> None:
    assert set(CORPORA) == set(card.LICENCES) == set(card.LABELS)


def test_a_file_in_place_of_a_folder_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "data_info.csv").mkdir()
    refused(tmp_path, "data_info.csv is a folder, not a file: ", corpus="hume-vb")
    (tmp_path / "data").write_text("")
    for corpus in ("hume-vb", "emogator"):
        refused(tmp_path / "data", f"data of corpus {corpus} is not a folder; give the folder", corpus=corpus)
    refused(tmp_path / "data", "columns missing: file;", corpus="table")
