"""The options by which a table is read: right ones, and right ones that are changed."""

from __future__ import annotations

from pathlib import Path
from random import Random

from exvo.corpora.selection import Selection
from fuzz.material import CELLS

HEADER = ("FileName", "SpkrID", "EmoClass", "Split_Set", "Age", "Note")
WORDS = (*HEADER, "file", "speaker", "category", "split", "age", "country", "seconds", "Awe", "Joy", "Fear", "train")
MARKS = (",", ":", "=", "+", "!=", "<", ">", "<=", ">=", "'", '"', "\\", ";", " ", "*", "(", ")", "|", "~")

RIGHT = {
    "columns": ("file:FileName,speaker:SpkrID,category:EmoClass,split:Split_Set",),
    "root": ("",) * 20 + (".", "/", "..", "nowhere"),
    "splits": ("", "train=Train,val=Development,test=Test1+Test2", "train=Train+Development,val=Test1,test=Test2"),
    "labels": ("", "", "happy=Joy+Awe", "Fear=", "Awe=Joy,Joy=Awe"),
    "where": ("", "", "Age>=30", "SpkrID!=s1", "EmoClass=Awe,Age<50", "seconds<9", "Note=x"),
}


def write_table(folder: Path) -> None:
    """A table with another toolkit's columns, 60 clips by five people."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join(HEADER)]
    for number in range(60):
        split = ("Train", "Development", "Test1", "Test2")[number % 4]
        lines.append(f"{number}.wav,s{number % 5},{('Awe', 'Joy', 'Fear')[number % 3]},{split},{20 + number},x")
        (folder / f"{number}.wav").write_bytes(b"audio")
    (folder / "clips.csv").write_text("\n".join(lines), encoding="utf-8")


def draw_selection(random: Random) -> Selection:
    """Options, of which a few are changed in some places."""
    texts = {name: random.choice(values) for name, values in RIGHT.items()}
    for name in random.sample(sorted(texts), random.choice([0, 1, 1, 2])):
        texts[name] = change(random, texts[name])
    return Selection(**texts, clips_per_speaker=random.choice([0, 0, 0, 1, 2, 10**9]))


def change(random: Random, text: str) -> str:
    """A text with some pieces put in, left out or repeated."""
    for _ in range(random.choice([1, 1, 2, 5])):
        at = random.randint(0, len(text))
        end = min(len(text), at + random.choice([0, 0, 1, 4, 20]))
        piece = random.choice([random.choice(WORDS), random.choice(MARKS), random.choice(CELLS), text[at:end] * 3])
        text = text[:at] + piece + text[end:]
    return text if random.random() < 0.98 else text * 200
