"""`exvo.scores` and `exvo.compare`, on tables written by hand."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import exvo
from exvo.evaluation.pairwise import paired
from exvo.tasks import Task, task_of

from helpers.tables import predictions

pytestmark = pytest.mark.filterwarnings("ignore:The intervals by speaker resample")


def test_the_task_is_read_off_the_columns() -> None:
    assert {"s_mtl", "age_mae", "country_uar"} <= set(exvo.scores(predictions(0.5, 2, multitask=True))["metric"])
    table = predictions(0.5, 2)
    emotions = pd.DataFrame({"truth.category": "High", "prediction.category": "Loud"}, index=table.index)
    assert "category_uar" in set(exvo.scores(table.join(emotions))["metric"])
    named = table.rename(columns=lambda name: name.replace("High", "age").replace("Loud", "country"))
    assert task_of(named) == Task("fewshot", ("age", "country"))  # numbers: emotions that are called so
    speakers = table[["file", "split", "speaker", "scored"]].assign(
        **{"truth.speaker": table["speaker"], "prediction.speaker": table["speaker"]}
    )
    assert exvo.scores(speakers).set_index("metric")["value"]["speaker_uar"] == 1.0


def test_compare_is_the_paired_difference_whatever_the_order_of_the_rows(tmp_path: Path) -> None:
    a, b = predictions(0.5, 2), predictions(0.3, 3)
    expected = paired(a, b, Task("fewshot", ("High", "Loud")))
    shuffled = b.sample(frac=1, random_state=1)
    shuffled.to_parquet(tmp_path / "b.parquet", index=False)
    for second in (b, shuffled, tmp_path / "b.parquet"):
        pd.testing.assert_frame_equal(exvo.compare(a, second), expected)
    assert expected["metric"][0] == "emotion_ccc"


def test_what_a_reader_must_know_is_a_warning() -> None:
    table = predictions(0.5, 2)
    constant = table.assign(**{"prediction.High": 0.5})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exvo.scores(constant)
        exvo.compare(table, constant)
    assert {Path(warning.filename).name for warning in caught} == {"test_api_tables.py"}
    sentences = [str(warning.message) for warning in caught]
    assert sum("resample 10 speakers; over fewer than 30 they are too narrow" in text for text in sentences) == 2
    assert [text.partition(" predicts the same")[0] for text in sentences if "predicts" in text] == [
        "The table",
        "b",
    ]


TABLE = predictions(0.5, 2)
BAD_TABLES: list[tuple[pd.DataFrame | str, str]] = [
    ("gone.parquet", r"^gone\.parquet can't be read as Parquet \("),
    (TABLE.drop(columns="scored"), r"^The table has no column scored: give a predictions table as runs log it"),
    (TABLE.drop(columns="prediction.Loud"), r"has no column prediction\.Loud"),
    (TABLE.assign(speaker=1), "the column speaker has gaps or is of int64"),
    (TABLE.assign(speaker=[1, "a"] * 30), r"is no predictions table \("),
    (TABLE.assign(**{"prediction.High": np.nan}), r"the column prediction\.High holds numbers that are not finite"),
    (TABLE.assign(file="a.wav"), "row 2 has the same file as an earlier row"),
    (TABLE.assign(split=["val", "test"] * 30), "has clips of several splits, val, test; give one split at a time"),
    (TABLE.assign(scored=False), r"^0 of the 60 clips are scored and have all their labels; a score needs two\.$"),
    (TABLE.iloc[:0], r"^0 of the 0 clips"),
    (pd.concat([TABLE, TABLE["file"]], axis=1), r"is no predictions table \("),
]


@pytest.mark.parametrize(("table", "sentence"), BAD_TABLES, ids=[sentence for _, sentence in BAD_TABLES])
def test_a_bad_table_is_one_sentence(table: pd.DataFrame | str, sentence: str) -> None:
    with pytest.raises(exvo.InputError, match=sentence):
        exvo.scores(table)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (TABLE[1:], "they score 60 and 59 clips, of which these are scored by one alone: 0.wav; evaluate both on"),
        (
            TABLE.assign(scored=TABLE["file"] != "3.wav"),
            "they score 60 and 59 clips, of which these are scored by one alone: 3",
        ),
        (TABLE.assign(**{"truth.High": 0.5}), "their speakers or labels differ for the clips 0.wav, 1.wav, "),
        (TABLE.assign(speaker="ann"), "their speakers or labels differ for the clips"),
        (TABLE.assign(split="test"), "their splits differ, val and test"),
        (TABLE.drop(columns=["truth.Loud", "prediction.Loud"]), "their targets differ, High, Loud and High"),
        (predictions(0.5, 2, multitask=True), "their tasks differ, fewshot and multitask"),
    ],
)
def test_tables_of_other_clips_are_not_compared(other: pd.DataFrame, sentence: str) -> None:
    with pytest.raises(exvo.InputError, match=f"^a and b can't be compared: {re.escape(sentence)}"):
        exvo.compare(TABLE, other)
