"""Emotions of audio files, on the screen and as a table; enrolment clips adapt a personalised model to the speaker."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from exvo.config import MAX_SHOTS, InputError, PredictSettings
from pipelines.common import command

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from exvo.networks import Checkpoint


def run(settings: PredictSettings) -> None:
    """Predicts in a run of its own, and tells of files that can't be used once the others are predicted."""
    from exvo import lookup, tracking
    from exvo.prediction import chart, find_audio, for_spreadsheets
    from exvo.training import resolve_device

    settings = replace(settings, device=resolve_device(settings.device))
    files = find_audio(settings.audio, "audio")
    enrolling = find_audio(settings.enrolment, "enrolment") if settings.enrolment else []
    if len(enrolling) > MAX_SHOTS:
        raise InputError(f"enrolment={settings.enrolment} names {len(enrolling)} clips; give at most {MAX_SHOTS}.")
    check_save(settings.save)
    checkpoint = lookup.load_model(settings.model_uri)
    with tracking.run("predict") as run_id:
        tracking.log_settings(asdict(settings), {"model": dict(checkpoint.notes)})
        print(describe(checkpoint, len(enrolling)))
        found, problems = predict(checkpoint, files, enrolling, settings.device)
        if found is not None:
            tracking.log_table(for_spreadsheets(found), "predictions/audio.csv")
            if settings.save:
                save(found, Path(settings.save))
            print(f"\n{chart(found, checkpoint.task.targets, settings.top, bar())}\n")
        print(tracking.where_to_look(run_id))
        if problems:
            lines = "".join(f"\n  {problem}" for problem in problems)
            others = "" if found is None else ", the others are predicted"
            raise InputError(f"{len(problems)} of {len(files)} files can't be used{others}:{lines}")


def describe(checkpoint: Checkpoint, enrolling: int) -> str:
    """Which model it is, and what it knows of the speaker."""
    notes = checkpoint.notes
    line = f"{notes.get('model', 'a model')} of run {notes.get('run_id', 'unknown')}"
    if not checkpoint.network.personalised:
        return f"{line}{'; it takes no enrolment, so those clips are ignored' if enrolling else ''}"
    if enrolling:
        return f"{line}, adapted to the speaker of {enrolling} enrolment clips"
    return f"{line}; without enrolment=<files of the speaker> it takes the typical speaker's profile"


def predict(
    checkpoint: Checkpoint, files: Sequence[Path], enrolling: Sequence[Path], device: str
) -> tuple[pd.DataFrame | None, list[str]]:
    """What the network says of each file that can be read.

    Returns:
        One row a file, `file` and the columns of `Task.answers` (None where no file can be read), and a line for each
        file that can't.

    Raises:
        InputError: an enrolment clip can't be read.
    """
    from tqdm import tqdm

    from exvo.containers import AudioError
    from exvo.prediction import enrol, outputs, read_log_mel
    from exvo.text import LONGEST_NAME, shown

    def read(file: Path) -> np.ndarray:
        log_mel, note = read_log_mel(file, checkpoint)
        if note:
            print(f"warning: {shown(str(file), LONGEST_NAME)}: {note}")
        return log_mel

    network = checkpoint.network.to(device)
    profile = None
    if enrolling and network.personalised:
        profile = enrol(checkpoint, [read(file) for file in enrolling], device).mean(axis=0)
    log_mels: dict[Path, np.ndarray] = {}
    problems = []
    for file in tqdm(files, desc="reading", unit="clip", leave=False, disable=None):
        try:
            log_mels[file] = read(file)
        except AudioError as error:
            problems.append(f"{shown(str(file), LONGEST_NAME)}: {error.problem}")
    if not log_mels:
        return None, problems
    profiles = None if profile is None else profile[None].repeat(len(log_mels), axis=0)
    numbers = outputs(checkpoint, list(log_mels.values()), profiles, device, progress="predicting")
    answers = checkpoint.task.answers(numbers)
    answers.insert(0, "file", [str(file) for file in log_mels])
    return answers, problems


def check_save(name: str) -> None:
    """Refuses a name that no table can be saved under.

    Raises:
        InputError: its ending is neither .csv nor .parquet, or its folder is not there.
    """
    if name and Path(name).suffix not in (".csv", ".parquet"):
        raise InputError(f"save={name}: the name must end in .csv or .parquet.")
    if name and not Path(name).absolute().parent.is_dir():
        raise InputError(f"save={name}: the folder is not there; make it first.")


def save(table: pd.DataFrame, path: Path) -> None:
    """Writes the table as CSV or Parquet, by its name's ending.

    Raises:
        InputError: it can't be written.
    """
    from exvo.networks import write_atomically
    from exvo.prediction import for_spreadsheets

    content = io.BytesIO()
    if path.suffix == ".csv":
        for_spreadsheets(table).to_csv(content, index=False)
    else:
        table.to_parquet(content, index=False)
    write_atomically(path, content.getvalue())
    print(f"table  {path}")


def bar() -> str:
    """What bars are made of: a block, or # where the terminal can't show it."""
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#"
    return "█"


if __name__ == "__main__":
    command("predict", run)
