"""Categories and splits of tables: what is recognised, who is in which split or fold, and the digest of it all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from exvo.corpora import load
from exvo.corpora.audit import audit
from exvo.corpora.base import Corpus
from exvo.corpora.splits import fold, untrained
from exvo.errors import InputError


def clips(speakers: int = 10, each: int = 4, **changes: list) -> pd.DataFrame:
    """So many clips of each speaker, of three categories in turn; no splits."""
    count = speakers * each
    columns = {
        "file": [f"{number}.wav" for number in range(count)],
        "speaker": [f"p{number % speakers}" for number in range(count)],
        "category": [("joy", "fear", "awe")[number % 3] for number in range(count)],
    }
    return pd.DataFrame({**columns, **changes})


def read(folder: Path, frame: pd.DataFrame, folds: int | str = 0) -> Corpus:
    frame.to_csv(folder / "clips.csv", index=False)
    return load("table", folder, folds)


def refused(folder: Path, frame: pd.DataFrame, *parts: str, folds: int = 0) -> None:
    """One sentence refuses the table, and holds every part."""
    with pytest.raises(InputError) as caught:
        read(folder, frame, folds)
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    assert message.endswith(".")
    assert "\n" not in message


def digest(corpus: Corpus) -> str:
    content = [hashlib.sha256(file.encode()).hexdigest() for file in corpus.clips["file"]]
    audio = pd.DataFrame({"file": corpus.clips["file"], "content": content, "seconds": 1.0, "rate": 16_000})
    return audit(corpus, audio.assign(problem="")).digest


def people(corpus: Corpus) -> dict[str, set[str]]:
    """Split -> its speakers."""
    return {str(split): set(rows["speaker"]) for split, rows in corpus.clips.groupby("split")}


# Categories


def test_a_category_is_a_target_each(tmp_path: Path) -> None:
    frame = clips(split=["train"] * 20 + ["val"] * 10 + ["test"] * 10)
    frame.loc[35, "category"] = ""
    corpus = read(tmp_path, frame)
    assert corpus.targets == corpus.categories == ("awe", "fear", "joy")
    assert list(corpus.clips) == ["file", "split", "speaker", "category", "awe", "fear", "joy"]
    assert corpus.clips["category"].tolist() == frame["category"].tolist()
    expected = [[float(category == name) for name in corpus.targets] for category in frame["category"]]
    expected[35] = [np.nan] * 3  # an unlabelled test clip
    np.testing.assert_array_equal(corpus.clips[list(corpus.targets)], expected)
    assert (corpus.assigned, corpus.notes) == ("", ())


def test_a_category_may_be_a_number_and_parquet_gives_the_same(tmp_path: Path) -> None:
    frame = clips(category=[number % 3 for number in range(40)])
    (tmp_path / "other").mkdir()
    frame.to_parquet(tmp_path / "other" / "clips.parquet")
    one, two = read(tmp_path, frame), load("table", tmp_path / "other")
    assert one.categories == two.categories == ("0", "1", "2")
    pd.testing.assert_frame_equal(one.clips, two.clips)


def test_columns_beside_a_category_are_left_out_and_this_is_said(tmp_path: Path) -> None:
    corpus = read(tmp_path, clips(age=[30.5] * 40, arousal=[0.5] * 40, said=["ha ha"] * 40))
    assert corpus.targets == ("awe", "fear", "joy")
    assert "age" in corpus.clips
    assert "arousal" not in corpus.clips
    assert corpus.notes == ("category as what is recognised, and these columns left out: arousal, said",)


SPLIT = ["train"] * 20 + ["val"] * 10 + ["test"] * 10


@pytest.mark.parametrize(
    ("frame", "parts"),
    [
        (clips().rename(columns={"category": "emotion"}),
         ("has no column category: emotion looks like the category; give columns=category:emotion",)),
        (clips().rename(columns={"category": "Category"}), ("Category looks like the category",)),
        (clips().rename(columns={"speaker": "person"}), ("no column speaker", "give columns=speaker:person")),
        (clips().rename(columns={"category": "mood"}), ("mood holds text ('joy', 'fear', 'awe'); if these are excl",)),
        (clips().drop(columns="category"), ("no target", "add the column category, or at least one numeric column")),
        (clips(category=["joy"] * 40), ("the only category is 'joy'",)),
        (clips(category=[""] * 40, split=["test"] * 40), ("the only category is none",)),
        (clips(300, category=[f"c{number}" for number in range(1200)]), ("1,200 different values, more than 1,000",)),
        (clips(category=["joy", "Joy!", "fear", "awe"] * 10), ("'Joy!', 'joy'; rename them",)),
        (clips(category=["joy", "age"] * 20), ("with the name of something else in the tables: age; rename",)),
        (clips(category=["", "joy", "fear", "NA"] * 10, split=SPLIT), ("without a category: line 2, line 5",)),
        (clips(category=["joy", "fear"] * 10 + ["awe"] * 10 + ["joy", "rage"] * 5, split=SPLIT),
         ("the column split leaves train without", "awe (only in val), rage (only in test); give train some clips")),
        (clips(category=[f"c{number}" for number in range(40)]),
         ("the split by speaker leaves train without", "add a column split")),
        (clips(speaker=["a", "b", "c", ""] * 10), ("divided by speaker: line 5, line 9,",)),
        (clips(speaker=["a", "b"] * 20), ("no column split", "takes three speakers or more, but it has 2;")),
    ],
)  # fmt: skip
def test_tables_that_are_refused(tmp_path: Path, frame: pd.DataFrame, parts: tuple[str, ...]) -> None:
    refused(tmp_path, frame, *parts)


def test_a_thousand_categories(tmp_path: Path) -> None:
    frame = clips(30, 100, category=[f"kind {number // 3 % 1000}" for number in range(3000)])
    corpus = read(tmp_path, frame, folds=5)
    assert len(corpus.categories) == 1000
    assert (corpus.clips[list(corpus.categories)].sum(axis=1) == 1).all()


# Splits


def test_a_table_without_splits_is_split_by_speaker(tmp_path: Path) -> None:
    """The split of a speaker by hand: by the hash of the name, to the split that is emptiest for its quota."""
    frame = clips(20, 5)
    corpus = read(tmp_path, frame)
    assert corpus.assigned == "by speaker"
    quotas, filled, expected = {"train": 0.6, "val": 0.2, "test": 0.2}, {"train": 0, "val": 0, "test": 0}, {}
    for name in sorted(
        set(frame["speaker"]), key=lambda name: hashlib.sha256(b"exvo splits 1/" + name.encode()).hexdigest()
    ):
        split = min(quotas, key=lambda split: filled[split] / quotas[split])
        filled[split] += 5
        expected[name] = split
    assert filled == {"train": 60, "val": 20, "test": 20}
    assert corpus.clips["split"].tolist() == frame["speaker"].map(expected).tolist()
    again = read(tmp_path, frame.sample(frac=1, random_state=0))  # in another order the people are in the same splits
    assert people(again) == people(corpus)


@pytest.mark.parametrize("speakers", [3, 4, 7, 10, 50])
def test_quotas_hold_as_far_as_whole_speakers_allow(tmp_path: Path, speakers: int) -> None:
    draw = np.random.default_rng(speakers)
    names = [f"p{speaker}" for speaker in range(speakers) for _ in range(draw.integers(2, 9))]
    count = len(names)
    frame = pd.DataFrame({"file": [f"{n}.wav" for n in range(count)], "speaker": names, "calm": draw.random(count)})
    corpus = read(tmp_path, frame)
    parts = people(corpus)
    assert set(parts) == {"train", "val", "test"}
    assert sum(map(len, parts.values())) == speakers  # nobody is in two
    shares = corpus.clips["split"].value_counts() / count
    largest = frame["speaker"].value_counts().max() / count
    for split, quota in {"train": 0.6, "val": 0.2, "test": 0.2}.items():
        assert abs(shares[split] - quota) <= 2 * largest


# Folds


@pytest.mark.parametrize("split", [None, SPLIT])
@pytest.mark.parametrize("count", [3, 5, 10])
def test_each_clip_is_tested_once_by_folds_that_share_no_speaker(
    tmp_path: Path, split: list | None, count: int
) -> None:
    frame = clips() if split is None else clips(split=split)
    corpus = read(tmp_path, frame, folds=count)
    parts = people(corpus)
    assert set(parts) == {f"fold {number}" for number in range(1, count + 1)}
    assert sum(map(len, parts.values())) == 10
    sizes = corpus.clips["split"].value_counts()
    assert sizes.max() - sizes.min() <= 4  # a speaker's clips
    tested = []
    for number in range(1, count + 1):
        one = people(fold(corpus, number, count))
        assert one["test"] == parts[f"fold {number}"]
        assert one["val"] == parts[f"fold {number % count + 1}"]
        assert one["train"] == set(frame["speaker"]) - one["test"] - one["val"]
        folded = fold(corpus, number, count).clips
        tested += folded["file"][folded["split"] == "test"].tolist()
    assert sorted(tested) == sorted(frame["file"])


def test_folds_are_one_corpus_and_assigned_splits_are_not_part_of_it(tmp_path: Path) -> None:
    for frame in (clips(), clips(split=SPLIT)):
        plain, folded = read(tmp_path, frame), read(tmp_path, frame, folds=5)
        digests = {
            digest(one) for one in (plain, folded, fold(folded, 1, 5), fold(folded, 5, 5), read(tmp_path, frame, 3))
        }
        assert len(digests) == 1
    own = read(tmp_path, clips(split=SPLIT))
    other = read(tmp_path, clips(split=[*SPLIT[:20], *SPLIT[30:], *SPLIT[20:30]]))
    assert len({digest(own), digest(other), digest(read(tmp_path, clips()))}) == 3


def test_the_digest_of_a_table_with_its_own_splits_is_what_it_was(tmp_path: Path) -> None:
    """The number is that of the version before categories and folds."""
    frame = clips(split=SPLIT).drop(columns="category").assign(calm=[number / 40 for number in range(40)])
    assert digest(read(tmp_path, frame)) == "a37cbdad1cadb201c80a224ffcaa3f07ab0a1f8da69d4f23b426360574b7c8ae"


def test_clips_without_label_or_speaker_are_in_no_fold(tmp_path: Path) -> None:
    frame = clips(split=SPLIT)
    frame.loc[30:34, "category"] = ""
    frame.loc[35, "speaker"] = ""
    corpus = read(tmp_path, frame, folds=3)
    assert corpus.clips.index[corpus.clips["split"] == ""].tolist() == [30, 31, 32, 33, 34, 35]
    assert (fold(corpus, 2, 3).clips["split"] == "").sum() == 6
    audio = pd.DataFrame({"file": frame["file"], "content": frame["file"], "seconds": 1.0, "rate": 1.0, "problem": ""})
    text = audit(corpus, audio).text()
    said = "3 folds by speaker (its own splits are set aside; 6 clips without a speaker or a label in none)"
    assert f"splits     {said}\n" in text
    assert [line.split()[:3] for line in text.splitlines() if line.startswith("fold ")] == [
        ["fold", str(number), str((corpus.clips["split"] == f"fold {number}").sum())] for number in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("speakers", "folds", "parts"),
    [
        (10, 11, ("folds=11, but the corpus table has 10 speakers", "give folds=10 or fewer")),
        (10, 2, ("folds=2: of the folds one tests, one validates and the others train", "give 3 or more")),
        (10, 1, ("folds=1:",)),
    ],
)
def test_folds_that_are_refused(tmp_path: Path, speakers: int, folds: int, parts: tuple[str, ...]) -> None:
    refused(tmp_path, clips(speakers), *parts, folds=folds)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_table_with_one_split_alone_takes_folds(tmp_path: Path, split: str) -> None:
    frame = clips(split=split)
    assert len(people(read(tmp_path, frame, folds=5))) == 5
    missing = "val" if split == "train" else "train"
    refused(tmp_path, frame, f"{tmp_path}: split {missing} has 0 clips; give it at least 2, or train with folds=5")


def test_as_many_folds_as_speakers_leave_each_out_alone(tmp_path: Path) -> None:
    for frame in (clips(), clips(1100, 2, category=["joy", "fear"] * 1100)):
        count = frame["speaker"].nunique()
        corpus = read(tmp_path, frame, folds="speakers")
        assert corpus.assigned == f"{count} folds by speaker, one for each"
        parts = people(corpus)
        assert (len(parts), {len(names) for names in parts.values()}) == (count, {1})
        pd.testing.assert_frame_equal(corpus.clips, read(tmp_path, frame, folds=count).clips)
    frame = clips(speaker=["a", "b"] * 20, split=SPLIT)
    with pytest.raises(InputError, match=r"has 2 speakers with labelled clips; cross-validation takes 3 or more"):
        read(tmp_path, frame, folds="speakers")


def test_folds_over_two_speakers_are_refused(tmp_path: Path) -> None:
    frame = clips(speaker=["a", "b"] * 20, split=SPLIT)
    refused(tmp_path, frame, "has 2 speakers with labelled clips; cross-validation takes 3 or more", folds=5)


def test_categories_that_a_fold_can_not_learn_are_named(tmp_path: Path) -> None:
    frame = clips()
    assert untrained(read(tmp_path, frame, folds=5), 5) == []
    frame.loc[frame["speaker"] == "p3", "category"] = "rage"
    corpus = read(tmp_path, frame, folds=5)
    (place,) = set(corpus.clips["split"][corpus.clips["speaker"] == "p3"])
    assert untrained(corpus, 5) == [f"rage in {place}"]


def test_emogator_in_folds(emogator_mini: Path) -> None:
    corpus = load("emogator", emogator_mini, 5)
    assert sorted(len(names) for names in people(corpus).values()) == [4, 5, 5, 5, 5]
    assert len(corpus.categories) == 30
    assert digest(corpus) == digest(load("emogator", emogator_mini))
