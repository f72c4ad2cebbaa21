"""Small corpora."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import soundfile


def write_table_corpus(folder: Path, speakers: int = 6, clips: int = 4, seconds: float = 0.4) -> pd.DataFrame:
    """A corpus in the `table` layout: tones whose pitch and loudness are the two targets; ages and countries too."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for speaker in range(speakers):
        split = ("train", "train", "val", "test")[speaker % 4] if speaker < 4 else ("train", "val", "test")[speaker % 3]
        for clip in range(clips):
            pitch, loudness = rng.random(2)
            time = np.arange(int(16_000 * (seconds + 0.05 * clip))) / 16_000
            tone = (0.05 + 0.4 * loudness) * np.sin(2 * np.pi * (150 + 400 * pitch) * time)
            name = f"s{speaker}-{clip}.wav"
            soundfile.write(folder / name, tone + rng.normal(0, 0.005, len(time)), 16_000)
            country = ("Chile", "Kenya")[speaker % 2]
            rows.append((name, split, f"speaker{speaker}", 20.0 + 3 * speaker, country, pitch, loudness))
    table = pd.DataFrame(rows, columns=["file", "split", "speaker", "age", "country", "High", "Loud"])
    table.to_csv(folder / "clips.csv", index=False)
    return table


def write_emogator(folder: Path, speakers: int = 8, categories: int = 4) -> None:
    """EmoGator's layout: three tones of each of its first categories by each speaker, the higher the later it is."""
    rng = np.random.default_rng(3)
    (folder / "data" / "mp3").mkdir(parents=True, exist_ok=True)
    time = np.arange(8_000) / 16_000
    for speaker in range(speakers):
        for category in range(categories):
            for clip in range(3):
                pitch = (200 + 400 * category) * rng.uniform(0.9, 1.1)
                tone = 0.3 * np.sin(2 * np.pi * pitch * time) + rng.normal(0, 0.02, len(time))
                name = f"{speaker + 1:06d}-{category + 1:02d}-{clip + 1}.mp3"
                soundfile.write(folder / "data" / "mp3" / name, tone, 16_000, format="MP3")


def write_category_corpus(folder: Path, speakers: int = 8, clips: int = 4) -> pd.DataFrame:
    """A corpus in the `table` layout with a category and no splits."""
    table = write_table_corpus(folder, speakers, clips, seconds=0.3).drop(columns=["split", "High", "Loud"])
    table["category"] = [("joy", "fear", "awe")[number % 3] for number in range(len(table))]
    table.to_csv(folder / "clips.csv", index=False)
    return table


def write_public_table(folder: Path, speakers: int = 6, clips: int = 6) -> pd.DataFrame:
    """A corpus as others publish theirs: `labels/consensus.csv` with their names of columns, the clips in `Audios`.

    The splits are Train, Development and Test1, by speaker; the classes are H, S and U in turn.
    """
    made = write_table_corpus(folder / "Audios", speakers, clips, seconds=0.3)
    (folder / "Audios" / "clips.csv").unlink()
    table = pd.DataFrame(
        {
            "FileName": made["file"],
            "EmoClass": [("H", "S", "U")[number % 3] for number in range(len(made))],
            "SpkrID": made["speaker"],
            "Gender": [("Female", "Male")[number % 2] for number in range(len(made))],
            "Split_Set": made["split"].map({"train": "Train", "val": "Development", "test": "Test1"}),
        }
    )
    (folder / "labels").mkdir(exist_ok=True)
    table.to_csv(folder / "labels" / "consensus.csv", index=False)
    return table
