"""Tables as others write them, and which clips and categories of a corpus are used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from exvo.corpora import Selection, load
from exvo.corpora.audit import audit
from exvo.corpora.base import Corpus
from exvo.corpora.emogator import CATEGORIES
from exvo.corpora.selection import within_seconds
from exvo.errors import InputError


def theirs(**changes: list) -> pd.DataFrame:
    """48 clips of six speakers under the names of a public table: splits by speaker, three categories in turn."""
    columns = {
        "FileName": [f"wav/{number}.wav" for number in range(48)],
        "SpkrID": [f"p{number // 8}" for number in range(48)],
        "Gender": [("Female", "Male")[number % 2] for number in range(48)],
        "EmoClass": [("A", "H", "S")[number % 3] for number in range(48)],
        "EmoAct": [number / 48 for number in range(48)],
        "Split_Set": [
            ("Train", "Train", "Train", "Development", "Test1", "Test2")[number // 8] for number in range(48)
        ],
    }
    return pd.DataFrame({**columns, **changes})


COLUMNS = "file:FileName,speaker:SpkrID,category:EmoClass,split:Split_Set"


def read(folder: Path, frame: pd.DataFrame, folds: int = 0, **options: str | int) -> Corpus:
    frame.to_csv(folder / "clips.csv", index=False)
    return load("table", folder, folds, Selection(**{"columns": COLUMNS, **options}))  # type: ignore[arg-type]


def refused(folder: Path, frame: pd.DataFrame, *sentence: str, folds: int = 0, **options: str | int) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, frame, folds, **options)
    message = str(caught.value)
    assert [part for part in sentence if part not in message] == [], message
    assert message.endswith((".", "?"))
    assert "\n" not in message
    return message


def digest(corpus: Corpus) -> str:
    content = [hashlib.sha256(file.encode()).hexdigest() for file in corpus.clips["file"]]
    audio = pd.DataFrame({"file": corpus.clips["file"], "content": content, "seconds": 1.0, "rate": 16_000})
    return audit(corpus, audio.assign(problem="")).digest


# Names of columns


def test_a_public_table_is_read_as_it_is(tmp_path: Path) -> None:
    corpus = read(tmp_path, theirs())
    own = theirs().rename(columns={"FileName": "file", "SpkrID": "speaker", "EmoClass": "category"})
    own["split"] = own["Split_Set"].map({"Train": "train", "Development": "val", "Test1": "test", "Test2": "test"})
    (tmp_path / "own").mkdir()
    own[["file", "speaker", "category", "split"]].to_csv(tmp_path / "own" / "clips.csv", index=False)
    plain = load("table", tmp_path / "own")
    pd.testing.assert_frame_equal(corpus.clips, plain.clips)
    assert digest(corpus) == digest(plain)
    assert corpus.notes == (
        "split Train as train",
        "split Development as val",
        "split Test1 + Test2 as test",
        "category as what is recognised, and these columns left out: Gender, EmoAct",
    )


def test_numeric_targets_are_named_in_the_same_option(tmp_path: Path) -> None:
    corpus = read(tmp_path, theirs(), columns="file:FileName,speaker:SpkrID,arousal:EmoAct,split:Split_Set")
    assert (corpus.targets, corpus.categories) == (("arousal",), ())
    np.testing.assert_allclose(corpus.clips["arousal"], np.arange(48) / 48)
    assert corpus.notes[-1] == "arousal as what is learnt, and these columns left out: Gender, EmoClass"


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ("", ("FileName looks like the file, SpkrID like the speaker, EmoClass like the category, Split_Set like",
              f"give columns={COLUMNS}")),
        ("file:FileName,category:EmoClass,split:Split_Set", ("no column speaker: SpkrID looks like the speaker",
         "give columns=file:FileName,category:EmoClass,split:Split_Set,speaker:SpkrID", "speaker: without a column")),
        ("file:FileName,speaker:SpkrID,split:Split_Set", ("EmoClass looks like the category",)),
        (f"{COLUMNS},category:Gender", ("'EmoClass' and 'Gender' are both mapped to category",)),
        (f"{COLUMNS},country:EmoClass", ("'EmoClass' is mapped to two names",)),
        (f"{COLUMNS},age:Agee", ("columns: the corpus has no column 'Agee'",)),
        (f"{COLUMNS},arousal:EmoAct", ("columns maps the category and also arousal",)),
        ("FileName", ("FileName is no pair; write name:column",)),
        ("file:a:b", ("file:a:b is no pair",)),
    ],
)  # fmt: skip
def test_maps_that_are_refused(tmp_path: Path, columns: str, sentence: tuple[str, ...]) -> None:
    refused(tmp_path, theirs(), *sentence, columns=columns)


def test_what_a_table_is_to_lack_is_said_with_an_empty_name(tmp_path: Path) -> None:
    corpus = read(tmp_path, theirs(), columns="file:FileName,speaker:,category:EmoClass,split:")
    assert not corpus.has_speakers
    assert corpus.assigned == "by clip"


def test_columns_are_an_option_of_tables_alone(emogator_mini: Path) -> None:
    with pytest.raises(InputError, match=r"columns is an option of corpus=table; emogator has its own layout"):
        load("emogator", emogator_mini, selection=Selection(columns="file:x"))


# Words for splits


def test_words_for_splits_that_are_not_usual_are_asked_for_and_given(tmp_path: Path) -> None:
    frame = theirs(Split_Set=[("A", "A", "A", "B", "C", "X")[number // 8] for number in range(48)])
    refused(tmp_path, frame, "unknown split: line 2 ('A')", "say which is which, as in splits=train=A+B")
    corpus = read(tmp_path, frame, splits="train=A,val=B,test=C,X=")
    assert corpus.clips["split"].value_counts().to_dict() == {"train": 24, "val": 8, "test": 8}
    assert "split X left out" in corpus.notes
    refused(tmp_path, frame, "splits: 'dev' is no split; write train=, val= or test=", splits="train=A,dev=B")
    refused(tmp_path, frame, "splits: the corpus has no word for a split 'Z'", splits="train=Z")
    refused(tmp_path, theirs(Split_Set=[""] * 48), "unknown split: line 2 ('')", "fill the cells")
    refused(tmp_path, theirs(), "has no column split, so splits=train=A means nothing", splits="train=A",
            columns="file:FileName,speaker:SpkrID,category:EmoClass,split:")  # fmt: skip


# Paths of another machine


@pytest.mark.parametrize("start", ["/home/anna/bursts/", "C:\\data\\bursts\\", "bursts\\", "/srv/bursts/wav/../"])
def test_paths_of_another_machine_are_found_below_root(tmp_path: Path, start: str) -> None:
    (tmp_path / "here" / "bursts" / "wav").mkdir(parents=True)
    for number in range(48):
        (tmp_path / "here" / "bursts" / "wav" / f"{number}.wav").touch()
    sign = "\\" if "\\" in start else "/"
    frame = theirs(FileName=[f"{start}wav{sign}{number}.wav" for number in range(48)])
    if ".." in start:
        refused(tmp_path, frame, "none is below", root=str(tmp_path / "here"))
        return
    corpus = read(tmp_path, frame, root=str(tmp_path / "here"))
    assert corpus.folder == tmp_path / "here"
    assert corpus.clips["file"].tolist() == [f"bursts/wav/{number}.wav" for number in range(48)]
    refused(tmp_path, frame, "its 48 files none is", "root=<", root=str(tmp_path))
    refused(tmp_path, frame, "nowhere is no folder", root="nowhere")


def test_the_table_may_lie_elsewhere_and_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "audio" / "wav").mkdir(parents=True)
    (tmp_path / "audio" / "wav" / "7.wav").touch()
    path = tmp_path / "labels" / "consensus.csv"
    theirs().to_csv(path, index=False)
    corpus = load("table", path, selection=Selection(columns=COLUMNS, root=str(tmp_path / "audio")))
    assert (len(corpus.clips), corpus.folder) == (48, tmp_path / "audio")
    with pytest.raises(InputError, match=r"none is in .*labels; the first is wav/0.wav: give root="):
        load("table", path, selection=Selection(columns=COLUMNS))
    with pytest.raises(InputError, match=r"a table of another name is given itself, as data=.*consensus.csv"):
        load("table", tmp_path / "labels")


def test_absolute_paths_in_several_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "3.wav").touch()
    frame = theirs(FileName=[f"/a/{number}.wav" if number else "/b/0.wav" for number in range(48)])
    refused(tmp_path, frame, "files that are not in /a/, as others are: line 2", root=str(tmp_path))


# Categories


def test_labels_merge_rename_and_leave_out(tmp_path: Path) -> None:
    frame = theirs(EmoClass=[("A", "H", "S", "X")[number % 4] for number in range(48)])
    corpus = read(tmp_path, frame, labels="bad=A+S,good=H,X=")
    assert corpus.categories == corpus.targets == ("bad", "good")
    assert corpus.clips["category"].value_counts().to_dict() == {"bad": 24, "good": 12}
    assert corpus.selected == ("A + S as bad (24 clips)", "H as good (12 clips)", "without X (12 clips)")
    assert digest(corpus) != digest(read(tmp_path, frame))
    assert read(tmp_path, frame, labels="A=A+H").categories == ("A", "S", "X")
    sign = theirs(EmoClass=[("a,b", "c=d", "e+f")[number % 3] for number in range(48)])
    assert read(tmp_path, sign, labels=r"x=a\,b+c\=d").categories == ("e+f", "x")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("bad=A+Q", "labels: the corpus has no category 'Q'"),
        ("bad=A+S+H", "labels=bad=A+S+H leaves one category, 'bad'; to recognise one takes two or more"),
        ("A=,H=", "leaves one category, 'S'"),
        ("A=,H=,S=", "leaves no category"),
        ("bad=A,worse=A", "'A' is named twice; give each name one rule"),
        ("bad", "bad is no rule; write new=old1+old2"),
        ("=A", "=A is no rule"),
        ("bad=A+", "has an empty name"),
        ("age=A", "with the name of something else in the tables: age; rename them"),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, labels: str, sentence: str) -> None:
    refused(tmp_path, theirs(), sentence, labels=labels)


def test_labels_of_what_are_no_categories_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, theirs(), "labels= merges and renames exclusive categories, and here are none", labels="a=b",
            columns="file:FileName,speaker:SpkrID,arousal:EmoAct,split:Split_Set")  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (("3", "3.0", "sad"), "holds numbers written in several ways ('3', '3.0') and texts ('sad'); write all in one"),
        (("3", "4", "sad"), "holds numbers ('3', '4') and texts ('sad')"),
        (("3", "3.0", "4"), "holds numbers written in several ways ('3', '3.0'); write all in one way"),
    ],
)
def test_labels_of_mixed_type_are_one_sentence(tmp_path: Path, cells: tuple[str, ...], sentence: str) -> None:
    frame = theirs(EmoClass=[cells[number % 3] for number in range(48)])
    assert "labels=name=" in refused(tmp_path, frame, sentence)
    three = "sad2" if cells[2] == "sad" else "four"
    merged = read(tmp_path, frame, labels=f"three={cells[0]}+{cells[1]},{three}={cells[2]}")
    assert merged.categories == tuple(sorted(("three", three)))


def test_ten_thousand_categories(tmp_path: Path) -> None:
    frame = pd.DataFrame({"file": [f"{n}.wav" for n in range(20_000)], "speaker": [f"p{n % 9}" for n in range(20_000)]})
    frame["category"] = [f"kind {n // 2}" for n in range(20_000)]
    refused(tmp_path, frame, "category has 10,000 different values, more than 1,000", "(labels=)", columns="")


# Filters


def test_conditions_are_met_by_every_clip(tmp_path: Path) -> None:
    frame = theirs(EmoAct=[number if number else "" for number in range(48)])
    corpus = read(
        tmp_path, frame, where="Gender=Female,EmoClass!=S,EmoAct>=2,EmoAct<40,SpkrID=p0|p1|p3|p4,split=train|val"
    )
    kept = [n for n in range(48) if n // 8 in (0, 1, 3) and n % 2 == 0 and n % 3 != 2 and 2 <= n < 40]
    assert corpus.clips["file"].tolist() == [f"wav/{number}.wav" for number in kept]
    assert corpus.selected[0] == "where Gender=Female: 24 of 48 clips left out"


def test_numbers_are_equal_however_they_are_written(tmp_path: Path) -> None:
    frame = theirs(EmoAct=[("1", "1.0", "2")[number // 3 % 3] for number in range(48)])
    assert len(read(tmp_path, frame, where="EmoAct=1.00").clips) == 33
    assert len(read(tmp_path, frame, where="EmoAct!=1|7").clips) == 15


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("Gender=Other", "where=Gender=Other leaves no clip (Gender=Other leaves 0 of 48); change it"),
        ("Gender=Female,EmoAct>1", "(Gender=Female leaves 24 of 48, EmoAct>1 leaves 0 of 24)"),
        ("Gendr=Female", "where: the corpus has no column 'Gendr'; did you mean Gender"),
        ("Gender", "where: Gender is no condition"),
        ("EmoAct>high", "EmoAct>high is no condition"),
        ("Gender>3", "Gender>3 compares numbers, but Gender holds 'Female', 'Male'"),
        ("EmoAct>1|2", "is no condition"),
        ("split=test", "split train has 0 clips"),
        ("Gender=a\x1b[2Jb", "where=Gender=a?[2Jb leaves no clip (Gender=a?[2Jb leaves 0 of 48); change it"),
        ("seconds<1\x1b", "where: seconds<1? is no condition"),
    ],
)
def test_filters_that_are_refused(tmp_path: Path, where: str, sentence: str) -> None:
    refused(tmp_path, theirs(), sentence, where=where)


def test_at_most_so_many_clips_of_a_speaker_whatever_the_order(tmp_path: Path) -> None:
    corpus = read(tmp_path, theirs(), clips_per_speaker=5)
    assert corpus.clips["speaker"].value_counts().tolist() == [5] * 6
    chosen = sorted([f"wav/{number}.wav" for number in range(8)],
                    key=lambda file: hashlib.sha256(f"exvo clips 1/{file}".encode()).hexdigest())[:5]  # fmt: skip
    assert set(corpus.clips["file"][corpus.clips["speaker"] == "p0"]) == set(chosen)
    again = read(tmp_path, theirs().sample(frac=1, random_state=1), clips_per_speaker=5)
    assert set(again.clips["file"]) == set(corpus.clips["file"])
    assert corpus.selected == ("at most 5 clips of a speaker: 18 clips of 6 speakers left out",)
    assert read(tmp_path, theirs(), clips_per_speaker=8).selected == ("at most 8 clips of a speaker: nobody has more",)
    refused(tmp_path, theirs(), "does not say who speaks; leave the option out", clips_per_speaker=5,
            columns="file:FileName,speaker:,category:EmoClass,split:Split_Set")  # fmt: skip


def test_lengths_are_conditions_once_the_audio_is_known(tmp_path: Path) -> None:
    corpus = read(tmp_path, theirs(), where="seconds>=0.5,Gender=Female,seconds<2")
    assert len(corpus.clips) == 24
    audio = pd.DataFrame(
        {"file": corpus.clips["file"], "seconds": [number / 10 for number in range(24)], "problem": ""}
    )
    audio.loc[0, ["seconds", "problem"]] = [np.nan, "missing"]
    left, heard = within_seconds(corpus, audio, "seconds>=0.5,Gender=Female,seconds<2")
    places = [0, *range(5, 20)]
    assert left.clips["file"].tolist() == heard["file"].tolist() == corpus.clips["file"].iloc[places].tolist()
    assert left.selected == (
        "where Gender=Female: 24 of 48 clips left out",
        "where seconds>=0.5: 4 of 24 clips left out",
        "where seconds<2: 4 of 20 clips left out",
    )
    with pytest.raises(InputError, match=r"where=seconds>9 leaves no clip; they are of 0.10 to 2.30 s"):
        within_seconds(corpus, audio[1:].reset_index(drop=True).assign(problem=""), "seconds>9")


def test_other_corpora_are_selected_from_in_the_same_way(emogator_mini: Path) -> None:
    def part(**options: str | int) -> Corpus:
        return load("emogator", emogator_mini, selection=Selection(**options))  # type: ignore[arg-type]

    assert part().categories == CATEGORIES
    merged = part(labels="surprise=Surprise (Negative)+Surprise (Positive),Neutral=")
    assert merged.categories == (*CATEGORIES[:17], *CATEGORIES[18:26], "surprise", *CATEGORIES[28:])
    assert len(merged.clips) == 2160 - 72
    assert (merged.clips["surprise"] == 1).sum() == 144
    two = part(where="category=Awe|Fear", clips_per_speaker=4)
    assert two.categories == ("Awe", "Fear")
    assert len(two.clips) == 24 * 4
    assert digest(two) != digest(part(where="category=Awe|Fear"))


# Nobody is named


def nameless(**changes: list) -> pd.DataFrame:
    return theirs(**changes).drop(columns="SpkrID").rename(columns={"FileName": "file", "EmoClass": "category"})


def test_a_table_without_speakers_is_read_and_the_audit_says_what_that_means(tmp_path: Path) -> None:
    corpus = read(tmp_path, nameless(), columns="split:Split_Set")
    assert (set(corpus.clips["speaker"]), corpus.has_speakers, corpus.assigned) == ({""}, False, "")
    audio = pd.DataFrame({"file": corpus.clips["file"], "content": corpus.clips["file"], "seconds": 1.0, "rate": 1.0})
    found = audit(corpus, audio.assign(problem=""))
    assert found.warnings[0].startswith("Who speaks is not known: the same people may be in training")


def test_without_speakers_and_splits_clips_are_dealt(tmp_path: Path) -> None:
    corpus = read(tmp_path, nameless().drop(columns="Split_Set"), columns="")
    assert corpus.assigned == "by clip"
    shares = corpus.clips["split"].value_counts() / 48
    assert abs(shares - pd.Series({"train": 0.6, "val": 0.2, "test": 0.2})).max() < 0.03
    again = read(tmp_path, nameless().drop(columns="Split_Set").sample(frac=1, random_state=2), columns="")
    assert dict(zip(again.clips["file"], again.clips["split"], strict=True)) == dict(
        zip(corpus.clips["file"], corpus.clips["split"], strict=True)
    )
    refused(tmp_path, nameless(), "folds=3, but the corpus table does not say who speaks", folds=3,
            columns="split:Split_Set")  # fmt: skip
