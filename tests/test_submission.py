"""Submission files: made from predictions written by hand, and checked against every kind of damage."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from exvo.config import EMOTIONS
from exvo.errors import InputError
from exvo.evaluation import submission

IDS = ["[7]", "[12]", "[3]"]
FEW = "File_ID,Awe,Excitement,Amusement,Awkwardness,Fear,Horror,Distress,Triumph,Sadness,Surprise"
MULTI = FEW.replace("File_ID", "File_ID,Country,Age")
NAME = "ExVo-Few_team_1.csv"
LINES = [FEW, *(f"{name},0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1" for name in IDS)]
MULTI_LINES = [MULTI, *(f"{name},2,31.5,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1" for name in IDS)]


def predictions() -> pd.DataFrame:
    """Three clips; the columns of the emotions are not in the order of the challenge."""
    table = pd.DataFrame(
        {"file": [f"wav/{name[1:-1]}.wav" for name in IDS], "split": "test", "scored": [False, True, True]}
    )
    for place, emotion in reversed(list(enumerate(EMOTIONS, 1))):
        table[f"truth.{emotion}"] = np.nan
        table[f"prediction.{emotion}"] = np.array([place, place, place], np.float32) / 10
    table["prediction.age"] = 31.5
    table["prediction.country"] = ["Kenya", "Chile", "Kenya"]
    return table


def put(folder: Path, lines: list[str], name: str = NAME) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def problems(folder: Path, lines: list[str]) -> list[str]:
    return submission.check_file(put(folder, lines), IDS).problems


def test_the_few_shot_file_is_the_one_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "new" / NAME
    table = submission.submission(predictions(), "fewshot", {})
    assert submission.write(table, path, IDS) == submission.Checked("fewshot", [], [])
    rows = [
        f"{name},0.100000,0.200000,0.300000,0.400000,0.500000,0.600000,0.700000,0.800000,0.900000,1.000000"
        for name in IDS
    ]
    assert path.read_bytes().decode() == "\n".join([FEW, *rows, ""])
    assert os.listdir(path.parent) == [NAME]


def test_the_multitask_file_holds_the_number_of_the_country(tmp_path: Path) -> None:
    path = tmp_path / "ExVo-Multi_team_1.csv"
    table = submission.submission(predictions(), "multitask", {"Chile": 3, "Kenya": 0})
    assert submission.write(table, path, IDS) == submission.Checked("multitask", [], [])
    written = pd.read_csv(path, dtype=str)
    assert ",".join(written.columns) == MULTI
    assert written[["File_ID", "Country", "Age", "Awe"]].to_numpy().tolist() == [
        ["[7]", "0", "31.500000", "0.100000"],
        ["[12]", "3", "31.500000", "0.100000"],
        ["[3]", "0", "31.500000", "0.100000"],
    ]
    with pytest.raises(InputError, match="gives no number to the countries Chile"):
        submission.submission(predictions(), "multitask", {"Kenya": 0})


def test_a_refused_file_leaves_nothing_and_a_different_one_is_kept(tmp_path: Path) -> None:
    table = submission.submission(predictions(), "fewshot", {})
    path = tmp_path / NAME
    for damaged in (table.assign(Fear=np.nan), table[::-1], table[:2], table.assign(Awe=np.inf)):
        with pytest.raises(InputError, match=f"{NAME} is not written, because it would be wrong: "):
            submission.write(damaged, path, IDS)
        assert os.listdir(tmp_path) == []
    submission.write(table, path, IDS)
    submission.write(table, path, IDS)
    before = path.read_bytes()
    with pytest.raises(InputError, match="is there already and differs; give another number"):
        submission.write(table.assign(Awe=0.5), path, IDS)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [NAME]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("lines", [LINES, MULTI_LINES], ids=["few", "multi"])
def test_right_files_pass_with_any_line_ends(tmp_path: Path, lines: list[str], start: str, end: str) -> None:
    task = "multitask" if lines is MULTI_LINES else "fewshot"
    path = tmp_path / submission.file_name(task, "a_team-2", 0)
    path.write_bytes((start + end.join(lines) + end).encode())
    assert submission.check_file(path, IDS) == submission.Checked(task, [], [])


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "Missing: File_ID, Awe, Excitement"),
        ([*LINES[:2], *LINES[3:]], "It has 2 rows, the test split 3 clips.|1 clip missing: [12]."),
        ([FEW], "It has 0 rows, the test split 3 clips.|3 clips missing: [7], [12], [3]."),
        (
            [LINES[0], LINES[1].replace("[7]", "[8]"), *LINES[2:]],
            "1 File_ID of no clip of the test split: line 2 ([8]).|1 clip missing: [7].",
        ),
        (
            [LINES[0], LINES[1].replace("[7]", "7"), *LINES[2:]],
            "1 File_ID of no clip of the test split: line 2 (7).|1 clip",
        ),
        (
            [*LINES, LINES[1]],
            "It has 4 rows, the test split 3 clips.|1 row of a clip that was there before: line 5 ([7]).",
        ),
        (
            [*LINES[:2], LINES[3], LINES[2]],
            "The order is not the corpus': 2 clips are out of place; line 3 has [3], where [12] belongs.",
        ),
        ([*LINES[:3], LINES[3].replace("0.5", "")], "1 cell without a number: line 4 Fear."),
        ([*LINES[:3], LINES[3].replace("0.5", "NaN")], "1 cell with NaN: line 4 Fear (NaN)."),
        ([*LINES[:3], LINES[3].replace("0.5", "-inf")], "1 cell with an infinite number: line 4 Fear (-inf)."),
        ([*LINES[:3], LINES[3].replace("0.5", "1e999")], "1 cell with an infinite number: line 4 Fear (1e999)."),
        ([*LINES[:3], LINES[3].replace("0.5", "=1+1")], "1 cell with something that is no number: line 4 Fear (=1+1)."),
        ([*LINES[:3], LINES[3].replace("0.5", "1_0")], "1 cell with something that is no number: line 4 Fear (1_0)."),
        ([*LINES[:3], LINES[3] + ",1"], "rows without the header's 11 fields: line 4 (12)"),
        ([LINES[0] + ",Awe", *LINES[1:]], "columns given more than once: Awe"),
        ([FEW.replace("Awe", "Joy"), *LINES[1:]], "Missing: Awe. Not among them: Joy."),
        ([FEW.replace("Awe,Excitement", "Excitement,Awe"), *LINES[1:]], "Column 2 is Excitement, where Awe belongs."),
        ([MULTI.replace("Country,", ""), *LINES[1:]], "rows without the header's 12 fields"),
        (
            [MULTI, *(line.replace(",2,", ",China,") for line in MULTI_LINES[1:])],
            "3 cells with something that is no number: line 2 Country (China)",
        ),
        (
            [MULTI, *(line.replace(",2,", ",4,") for line in MULTI_LINES[1:])],
            "3 cells of Country that are none of 0 to 3",
        ),
        (
            [MULTI, *(line.replace(",2,", ",1.5,") for line in MULTI_LINES[1:])],
            "3 cells of Country that are none of 0 to",
        ),
    ],
)
def test_each_damage_is_named_with_its_first_line(tmp_path: Path, lines: list[str], told: str) -> None:
    found = problems(tmp_path, lines)
    assert len(found) == len(told.split("|"))
    for sentence, part in zip(found, told.split("|"), strict=True):
        assert part in sentence


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    lines = [LINES[0], LINES[3].replace("0.5", "x"), LINES[1].replace("0.1", ""), LINES[1], "[9],1,1,1,1,1,1,1,1,1,nan"]
    assert [sentence.split(":")[0] for sentence in problems(tmp_path, lines)] == [
        "It has 4 rows, the test split 3 clips.",
        "1 File_ID of no clip of the test split",
        "1 clip missing",
        "1 row of a clip that was there before",
        "The order is not the corpus'",
        "1 cell without a number",
        "1 cell with NaN",
        "1 cell with something that is no number",
    ]


DAMAGE: dict[str, Callable[[list[list[str]], np.random.Generator], None]] = {
    "gone": lambda rows, rng: rows.pop(rng.integers(len(rows))) and None,
    "twice": lambda rows, rng: rows.insert(rng.integers(len(rows) + 1), list(rows[rng.integers(len(rows))])),
    "moved": lambda rows, rng: rows.insert(len(rows) - 1, rows.pop(rng.integers(len(rows) - 1))) or rows.reverse(),
    "strange": lambda rows, rng: rows[rng.integers(len(rows))].__setitem__(0, f"[{rng.integers(1000, 2000)}]"),
    "swapped": lambda rows, rng: swap(rows, rng),
    "hole": lambda rows, rng: rows[rng.integers(len(rows))].__setitem__(rng.integers(1, 11), ""),
    "nan": lambda rows, rng: rows[rng.integers(len(rows))].__setitem__(rng.integers(1, 11), "nan"),
    "text": lambda rows, rng: rows[rng.integers(len(rows))].__setitem__(rng.integers(1, 11), "0,5"),
    "short": lambda rows, rng: rows[rng.integers(len(rows))].pop() and None,
}


def swap(rows: list[list[str]], rng: np.random.Generator) -> None:
    one, other = rng.choice(len(rows), 2, replace=False)
    rows[one][0], rows[other][0] = rows[other][0], rows[one][0]


@pytest.mark.parametrize("kind", DAMAGE)
def test_random_damage_never_passes(tmp_path: Path, kind: str) -> None:
    ids = [f"[{number}]" for number in range(40)]
    for seed in range(25):
        rng = np.random.default_rng(seed)
        rows = [[name, *(f"{value:.4f}" for value in rng.random(10))] for name in ids]
        path = tmp_path / NAME
        pd.DataFrame(rows, columns=FEW.split(",")).to_csv(path, index=False)
        assert submission.check_file(path, ids).problems == []
        DAMAGE[kind](rows, rng)
        lines = [",".join(f'"{cell}"' for cell in row) for row in rows]
        assert submission.check_file(put(tmp_path, [FEW, *lines]), ids).problems


def test_what_is_strange_but_not_wrong_is_a_note(tmp_path: Path) -> None:
    path = put(tmp_path, [LINES[0], LINES[1].replace("0.5", "-0.2"), *LINES[2:]], "mine.csv")
    checked = submission.check_file(path, IDS)
    assert checked.problems == []
    assert checked.notes == [
        "The challenge wants the name ExVo-Few_<team>_<number>.csv, not mine.csv.",
        "1 number outside 0 to 1 (intensity): line 2 Fear (-0.2).",
    ]
    path = put(tmp_path, [line.replace("31.5", "200") for line in MULTI_LINES], "ExVo-Few_team_1.csv")
    assert [note.split(":")[0] for note in submission.check_file(path, IDS).notes] == [
        "The challenge wants the name ExVo-Multi_<team>_<number>.csv, not ExVo-Few_team_1.csv.",
        "3 numbers outside 0 to 130 (age in years)",
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"\xff\xfeF\x00i\x00",
        b'File_ID,"Awe\n',
        b"\x1b[2J,\x1b[2J\n1,2\n",
        b"a" * 200_000,
        (FEW + "\n" + "x" * 5000 + "\x1b]0;owned\x07" + ",1" * 10).encode(),
        (",".join(f"c{number}" for number in range(20_000)) + "\n").encode(),
        ("\n".join([FEW, *(f"{name},{'9' * 100_000}" + ",1" * 9 for name in IDS)])).encode(),
    ],
    ids=["empty", "nul", "utf16", "quote", "escapes", "field", "long id", "columns", "digits"],
)
def test_hostile_files_are_refused_in_printable_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / NAME
    path.write_bytes(content)
    found = submission.check_file(path, IDS).problems
    assert found
    assert all(sentence.isprintable() and len(sentence) < 1500 for sentence in found)


def test_a_file_far_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with path.open("wb") as stream:
        stream.truncate(10**10)
    assert submission.check_file(path, IDS).problems == [
        "It has 10,000,000,000 bytes, but 3 clips take fewer than 1,003,000."
    ]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("", "a folder, not a file"), ("nowhere.csv", "not there"), ("pipe", "no file")):
        (sentence,) = submission.check_file(tmp_path / name, IDS).problems
        assert f"{tmp_path / name} is {what}: check=" in sentence


@pytest.mark.parametrize("team", ["", "../up", "a b", "a/b", "é", "x" * 51, "a\n"])
def test_team_names_that_are_no_part_of_a_file_name_are_refused(team: str) -> None:
    with pytest.raises(InputError, match="is no team's name; give 1 to 50 letters"):
        submission.file_name("fewshot", team, 1)


def test_two_clips_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match=r"Several test clips have the same File_ID: \[1\]; give the files"):
        submission.file_ids(["a/1.wav", "b/1.wav"])
    with pytest.raises(InputError, match="has no test split"):
        submission.file_ids([])
