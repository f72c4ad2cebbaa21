"""Tables: corpora in CSV, Parquet and file names; predictions; submissions."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from exvo.config import EMOTIONS
from exvo.errors import InputError
from exvo.evaluation.pairwise import Scored, comparable
from exvo.evaluation.results import Condition
from exvo.evaluation.scoring import score_epoch
from fuzz.material import CELLS, NUMBERS, damage

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "cp500", "shift_jis")
HUME = ["File_ID", "Split", "Subject_ID", "Country", "Country_string", "Age", *EMOTIONS]
IDS = [f"[{number:05}]" for number in range(12)]
PARQUETS: list[bytes] = []


def draw_table(random: Random, folder: Path) -> None:
    """A folder of the `table` layout."""
    rows = [
        [f"{number}.wav", ("train", "train", "val", "test")[number % 4], f"s{number % 4}", "31.5", "Chile", "0.5"]
        for number in range(12)
    ]
    header = ["file", "split", "speaker", "age", "country", "calm"]
    for row in rows:
        (folder / row[0]).write_bytes(b"audio")
    (folder / "folder").mkdir()
    (folder / "out.wav").symlink_to(folder.parent / "outside.wav")
    (folder / "loop.wav").symlink_to("loop.wav")
    (folder / "link").symlink_to("/", target_is_directory=True)
    (folder / "inside.wav").symlink_to("0.wav")
    if random.random() < 0.3:
        write_parquet(random, folder / "clips.parquet", odd_rows(random, header, rows))
    else:
        write_csv(random, folder / "clips.csv", odd_rows(random, header, rows))


def draw_hume(random: Random, folder: Path) -> None:
    """A folder of HUME-VB."""
    rows = [
        [f"[{number:05}]", ("Train", "Val", "Test")[number % 3], f"S{number % 3}", "2", "China", "40"] + ["0.5"] * 10
        for number in range(12)
    ]
    write_csv(random, folder / "data_info.csv", odd_rows(random, HUME, rows))


def draw_emogator(random: Random, folder: Path) -> None:
    """A folder of EmoGator, with odd names."""
    place = folder / "data" / "mp3"
    if random.random() < 0.05:
        place.parent.mkdir()
        odd_file(random, place)
        return
    place.mkdir(parents=True)
    for number in range(random.choice([0, 1, 12])):
        (place / f"{number % 5:06}-{1 + number:02}-1.mp3").write_bytes(b"audio")
    for _ in range(random.choice([0, 0, 1, 2])):
        some = [
            "000004-31-1.mp3",
            "000004-01-4.mp3",
            "a.mp3",
            ".hidden",
            "\n.mp3",
            "a\x1b[2J.mp3",
            "=cmd.mp3",
            "\udcff",
        ]
        path = place / random.choice(some)
        if not os.path.lexists(path):
            odd_file(random, path)
    if random.random() < 0.2 and not os.path.lexists(place / "000009-01-1.mp3"):
        (place / "000009-01-1.mp3").symlink_to(folder.parent / "outside.wav")


def odd_rows(random: Random, header: list[str], rows: list[list[str]]) -> list[list[str]]:
    """Header and rows, a few cells, rows or columns of which are changed."""
    lines = [list(header), *(list(row) for row in rows)]
    for _ in range(random.choice([0, 1, 1, 1, 2, 4])):
        way, row = random.randrange(12), random.randrange(len(lines))
        if way < 6 and lines[row]:
            lines[row][random.randrange(len(lines[row]))] = random.choice(CELLS)
        elif way == 6:
            lines.insert(row, list(random.choice(lines)))
        elif way == 7:
            del lines[row][random.randrange(len(lines[row]) + 1) :]
        elif way == 8:
            lines[row].append(random.choice(CELLS))
        elif way == 9:
            del lines[row]
            lines = lines or [[]]
        elif way == 10:
            cells = [random.choice(CELLS), *["0.5"] * (len(lines) - 1)]
            lines = [[*cells_of_line, cell] for cells_of_line, cell in zip(lines, cells, strict=True)]
        else:
            wide = random.choice([30, 1_200, 40_000])
            lines = [
                [*cells_of_line, *([f"t{number}" for number in range(wide)] if not at else [])]
                for at, cells_of_line in enumerate(lines)
            ]
    return lines


def write_csv(random: Random, path: Path, rows: list[list[str]]) -> None:
    """The rows as CSV of some dialect and encoding, its bytes changed now and then, or something else of that name."""
    if random.random() < 0.02:
        odd_file(random, path)
        return
    plain = random.random() < 0.6
    if not plain and random.random() < 0.5:
        path.write_bytes(spreadsheet(random, rows))
        return
    stream = io.StringIO()
    writer = csv.writer(
        stream,
        delimiter="," if plain else random.choice(",;\t|"),
        lineterminator=random.choice(["\n", "\r\n", "\r"] if plain else ["\n", "\n\n", "\r\n\r\n", "\x0b", "\u2028"]),
        quoting=csv.QUOTE_MINIMAL if plain else random.choice([csv.QUOTE_ALL, csv.QUOTE_NONE]),
        escapechar="\\",
    )
    writer.writerows(rows)
    content = stream.getvalue().encode("utf-8" if plain else random.choice(ENCODINGS), "replace")
    path.write_bytes(damage(random, content) if random.random() < 0.15 else content)


def spreadsheet(random: Random, rows: list[list[str]]) -> bytes:
    """The rows as spreadsheets write them: decimal commas, empty rows and columns, a line that names the separator."""
    separator = random.choice([";", ";", "\t", ","])
    if random.random() < 0.6:
        rows = [rows[0], *[[re.sub(r"^(\d+)\.(\d+)$", r"\1,\2", cell) for cell in row] for row in rows[1:]]]
    if random.random() < 0.3:
        rows = [[*row, *[""] * random.randint(0, 3)] for row in rows]
    for _ in range(random.choice([0, 0, 1, 3])):
        rows = [*rows]
        rows.insert(random.randint(0, len(rows)), [""] * random.randint(0, len(rows[0]) + 1))
    stream = io.StringIO()
    if random.random() < 0.3:
        stream.write(f"sep={random.choice([separator, separator, ';', '|'])}\r\n")
    ends = random.choice(["\r\n", "\r"])
    quoting: Literal[0, 1] = csv.QUOTE_MINIMAL if random.random() < 0.5 else csv.QUOTE_ALL
    csv.writer(stream, delimiter=separator, lineterminator=ends, quoting=quoting).writerows(rows)
    encoding = random.choice(["utf-8-sig", "utf-16", "utf-16", "utf-8", "cp1252", "cp1250", "cp1251"])
    content = stream.getvalue().encode(encoding, "replace")
    return damage(random, content) if random.random() < 0.1 else content


def draw_list(random: Random, folder: Path) -> str:
    """A list of files of any kind, or a folder with odd names; what an option would say."""
    for name in ("0.wav", "1.mp3", "a,b.wav", "._0.wav", "x.m4a", "Jose\u0301.wav"):
        (folder / name).touch()
    (folder / "link").symlink_to("/", target_is_directory=True)
    names = [
        random.choice(["0.wav", "1.mp3", "a,b.wav", "Jos\u00e9.wav", *CELLS]) for _ in range(random.choice([1, 2, 9]))
    ]
    names = ["0.wav"] * len(names) if random.random() < 0.3 else names
    kind = random.choice(["list.txt", "list.csv", "list.parquet", "", "given"])
    path = folder / kind
    if kind == "list.txt":
        content = "\n".join(names).encode(random.choice(["utf-8", "utf-16", "latin-1", "utf-8-sig"]), "replace")
        path.write_bytes(damage(random, content) if random.random() < 0.2 else content)
    elif kind == "list.csv":
        write_csv(random, path, odd_rows(random, ["file", "x"], [[name, "1"] for name in names]))
    elif kind == "list.parquet":
        write_parquet(random, path, [["file"], *([name] for name in names)])
    elif kind == "given":
        return ",".join(str(folder / name) for name in names)
    return f"@{path}" if kind else str(folder)


def odd_file(random: Random, path: Path) -> None:
    """Not a file with content: a folder, a pipe, a link to nowhere, to itself, to a device; or an empty file."""
    way = random.randrange(6)
    if way == 0:
        path.mkdir()
    elif way == 1:
        os.mkfifo(path)
    elif way == 5:
        path.write_bytes(b"")
    else:
        path.symlink_to({2: "nowhere", 3: path.name, 4: "/dev/zero"}[way])


def write_parquet(random: Random, path: Path, rows: list[list[str]]) -> None:
    """The rows as Parquet, now and then with columns of another kind, or its bytes changed."""
    header, body = rows[0], rows[1:]
    columns: dict[str, Any] = {}
    for place, name in enumerate(header[:1_500]):
        cells = [row[place] if place < len(row) else None for row in body]
        columns[name.encode("utf-8", "replace").decode()] = odd_column(random, cells)
    content = parquet(pa.table(columns) if columns else pa.table({"x": pa.array([], pa.int8())}), random)
    path.write_bytes(damage_ends(random, content) if random.random() < 0.5 else content)


def odd_column(random: Random, cells: list[Any]) -> pa.Array:
    """Cells as a column, mostly as they are."""
    way = random.randrange(40)
    if way == 0:
        return pa.array([[cell] for cell in cells])
    if way == 1:
        return pa.array([str(cell).encode("utf-8", "replace") for cell in cells], pa.binary())
    if way == 2:
        return pa.array([None] * len(cells), random.choice([pa.null(), pa.string(), pa.float64(), pa.timestamp("s")]))
    if way == 3:
        return pa.array([{"a": cell} for cell in cells])
    if way == 4:
        return pa.array([random.choice([0.0, 1.0, math.nan, math.inf, 1e300]) for _ in cells])
    if way == 5:
        return pa.array([str(cell) for cell in cells]).dictionary_encode()
    if way == 6:
        return pa.array(range(len(cells)))
    return pa.array(cells, pa.string())


def parquet(table: pa.Table, random: Random) -> bytes:
    """A table as the bytes of a Parquet file; sometimes with what pandas writes beside it, damaged."""
    if random.random() < 0.2:
        about = random.choice([b"{}", b"[" * 9_999, b'{"index_columns": [1]}', b'{"columns": [{"numpy_type": "x"}]}'])
        table = table.replace_schema_metadata({b"pandas": about})
    file = pa.BufferOutputStream()
    pq.write_table(table, file, compression=random.choice(["none", "snappy", "zstd"]), version="2.6")
    return bytes(file.getvalue())


def damage_ends(random: Random, content: bytes) -> bytes:
    """Damage at the beginning or, where Parquet and Arrow have what they say of themselves, at the end."""
    if random.random() < 0.3:
        return damage(random, content)
    cut = max(0, len(content) - random.choice([8, 60, 400, 2_000]))
    return content[:cut] + damage(random, content[cut:])


def draw_predictions(random: Random) -> bytes:
    """A predictions table as Parquet."""
    rows = 12
    table: dict[str, Any] = {
        "file": [f"{number}.wav" for number in range(rows)],
        "split": ["test"] * rows,
        "speaker": [f"s{number % 3}" for number in range(rows)],
        "country": ["Chile", "Kenya"] * (rows // 2),
        "scored": [number % 4 > 0 for number in range(rows)],
        "truth.calm": np.linspace(0, 1, rows),
        "truth.category": ["a", "b"] * (rows // 2),
        "prediction.calm": np.linspace(0.2, 0.7, rows),
        "prediction.category": ["a"] * rows,
    }
    if random.random() < 0.5:
        del table["truth.category"], table["prediction.category"]
    for _ in range(random.choice([0, 1, 1, 2])):
        name = random.choice(list(table))
        way = random.randrange(6)
        if way == 0:
            del table[name]
        elif way == 1:
            table[random.choice([*CELLS[:40], f"truth.{name}", f"prediction.{name}"])] = table[name]
        elif way == 2:
            table[name] = [
                random.choice([number for number in NUMBERS if number is None or abs(number) < 2**63])
            ] * rows
        elif way == 3:
            table[name] = [random.choice(CELLS) for _ in range(rows)]
        elif way == 4:
            table[name] = [*table[name][:-1], table[name][0]]
        else:
            table[name] = odd_column(random, list(map(str, table[name])))
    columns = {name.encode("utf-8", "replace").decode(): array(column) for name, column in table.items()}
    content = parquet(pa.table(columns), random)
    return damage_ends(random, content) if random.random() < 0.6 else content


def array(column: Any) -> pa.Array:
    """A column of one type: that of its values, or text."""
    try:
        return pa.array(column)
    except pa.ArrowException:
        return pa.array([None if cell is None else str(cell) for cell in column])


def compare(table: pd.DataFrame, name: str) -> None:
    """Scores a table, and compares it with itself, as `compare`, `register` and `evaluate` do."""
    condition = Condition(corpus="table", digest="", task="fewshot", protocol="strict", split="test")
    scored = Scored(name, condition, 2, table)
    try:
        rows, _, task = comparable(scored, scored)
    except InputError as error:
        if "clips of the test split are scored" in str(error):
            return
        raise
    score_epoch(rows, scored.task)
    assert task.targets


def draw_submission(random: Random, path: Path) -> None:
    """A submission file."""
    rows = [[name, *[f"{random.random():.4f}" for _ in EMOTIONS]] for name in IDS]
    path.unlink(missing_ok=True) if not path.is_dir() else path.rmdir()
    write_csv(random, path, odd_rows(random, ["File_ID", *EMOTIONS], rows))


def plainly_right(path: Path) -> bool:
    """Whether a submission file is right, by a plain reading of it."""
    lines = re.split(r"\r\n|\r|\n", path.read_text(encoding="utf-8-sig"))
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if row]
    head, *body = rows
    if head == ["File_ID", *EMOTIONS]:
        ahead = 1
    elif head == ["File_ID", "Country", "Age", *EMOTIONS]:
        ahead = 3
    else:
        return False
    numbers = [[float(cell) for cell in row[1:]] for row in body]
    return [row[0] for row in body] == IDS and all(
        len(row) == len(EMOTIONS) + ahead - 1 and all(map(math.isfinite, row)) for row in numbers
    )
