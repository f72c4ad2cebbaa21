"""Recognises emotion in audio files.

The emotions are shown on the screen and logged as a table. Enrolment clips adapt a personalised model to the speaker.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from exvo.cluster import refuse_unseen, share_out
from exvo.config import MAX_SHOTS
from exvo.devices import resolve_device
from exvo.errors import InputError
from exvo.evaluation import results
from exvo.evaluation.scoring import headline
from exvo.evaluation.selective import find_level, level_text
from exvo.experiments.answers import BLOCK_FILES, KeptAnswers
from exvo.experiments.process import stopped
from exvo.files import NAME_BYTES, require_writable, write_atomically
from exvo.networks.checkpoint import Checkpoint
from exvo.networks.parts import TOLERANCE
from exvo.progress import counting
from exvo.reports.prediction import chart, for_spreadsheets, reached_line, warning_text, with_warnings
from exvo.serving.prediction import FileAnswer, FilePredictor, enrol_recordings, read_features
from exvo.serving.recordings import AudioFiles, find_audio
from exvo.settings import PredictSettings
from exvo.tasks import Level
from exvo.text import LONGEST_NAME, printable, writable
from exvo.tracking import experiments, models, names, runs

PART_FILES = 64
"""Files that are read and then predicted together, so that no more are in memory; `BLOCK_FILES` holds many of them."""


def run(settings: PredictSettings) -> None:
    """Predicts in a run of its own, and tells of files that can't be used once the others are predicted."""
    settings = replace(settings, device=resolve_device(settings.device))
    check_save(settings.save)
    files, notes = find_audio(settings.audio, "audio")
    enrolling, more = find_audio(settings.enrolment, "enrolment") if settings.enrolment else AudioFiles([], [])
    if len(enrolling) > MAX_SHOTS:
        given = printable(settings.enrolment, 200)
        raise InputError(f"enrolment={given} names {len(enrolling)} clips; give at most {MAX_SHOTS}.")
    checkpoint = models.load_model(settings.model_uri, device=settings.device)
    sure = find_level(checkpoint.levels, checkpoint.task, settings.sure) if settings.sure else None
    with runs.start_run("predict") as run_id:
        runs.log_settings(asdict(settings), {"model": dict(checkpoint.notes)})
        about = [model_text(checkpoint, len(enrolling)), *reached(checkpoint), *([level_text(sure)] if sure else [])]
        print("\n".join([*about, *dict.fromkeys(notes + more)]))
        predictor = predictor_of(checkpoint, enrolling, settings.device)
        kept = KeptAnswers(Path(settings.save), predictor) if settings.save and len(files) > BLOCK_FILES else None
        answers, warned, problems = predict(predictor, files, sure, settings.cluster, kept)
        unsaved = ""
        if answers is not None:
            runs.log_table(for_spreadsheets(answers), "predictions/audio.csv")
            try:
                if settings.save:
                    save(answers, Path(settings.save))
                    if kept:
                        kept.remove()
            except InputError as error:
                unsaved = f"{error} The table is the run's artifact predictions/audio.csv."
            print(f"\n{chart(answers, checkpoint.task.targets, settings.top, warned=warned)}\n")
        print(experiments.where_to_look(run_id, to_see=False))
        if problems:
            lines = "".join(f"\n  {problem}" for problem in problems)
            others = "" if answers is None else ", the others are predicted"
            unsaved += f"{' ' * bool(unsaved)}{len(problems)} of {len(files)} files can't be used{others}:{lines}"
        if unsaved:
            raise InputError(unsaved)


def model_text(checkpoint: Checkpoint, enrolling: int) -> str:
    """Which model it is, and what it knows of the speaker."""
    notes = checkpoint.notes
    line = f"{notes.get('model', 'a model')} of run {notes.get('run_id', 'unknown')}"
    if not checkpoint.network.personalised:
        return f"{line}{'; it takes no enrolment, so those clips are ignored' if enrolling else ''}"
    if enrolling:
        return f"{line}, adapted to the speaker of {enrolling} enrolment clips"
    return f"{line}; without enrolment=<files of the speaker> it takes the typical speaker's profile"


def reached(checkpoint: Checkpoint) -> list[str]:
    """How good the model is and what chance is, in a line: on test where its run was scored there, else on val."""
    task, notes = checkpoint.task, dict(checkpoint.notes)
    run = names.run_of_id(str(notes.get("run_id", "")))
    tested = {} if run is None else results.of_split(run.data.metrics, "test")
    split = "val"
    if headline(task) in tested:
        split, notes["score"], notes["accuracy"] = "test", tested[headline(task)], tested.get("category_accuracy")
    line = reached_line(task, notes, split)
    return [line] if line else []


def predictor_of(checkpoint: Checkpoint, enrolling: Sequence[Path], device: str) -> FilePredictor:
    """What reads files and predicts, for the one speaker whom the clips enrol.

    Raises:
        InputError: an enrolment clip can't be read.
    """
    network = checkpoint.network.to(device)
    if not enrolling or not network.personalised:
        return FilePredictor(checkpoint, None, device)
    shots = [read_features(file, checkpoint) for file in enrolling]
    for file, shot in zip(enrolling, shots, strict=True):
        warn(file, shot.note)
        warn(file, warning_text(shot.warnings))
    (profile,) = enrol_recordings(checkpoint, [shot.features for shot in shots], [np.arange(len(shots))], device)
    return FilePredictor(checkpoint, profile, device)


def predict(
    predictor: FilePredictor,
    files: Sequence[Path],
    sure: Level | None = None,
    cluster: str = "",
    kept: KeptAnswers | None = None,
) -> tuple[pd.DataFrame | None, list[str], list[str]]:
    """What the network says of each file that can be read.

    Args:
        predictor: reads and predicts.
        files: to predict.
        sure: how sure an answer must be; None: it is not said.
        cluster: address of the Dask scheduler whose workers read the files and predict; empty: this process does.
        kept: answers of the same command before, to which it adds; None: none are kept.

    Returns:
        One row a file, `file`, the columns of `Task.answers` and `warnings` (None where no file can be read), of each
        row the warnings in a line, and a line for each file that can't be read.

    Raises:
        InputError: the cluster can't be used, or answers can't be kept.
    """
    answers = answers_of(predictor, files, cluster, kept)
    for file, answer in zip(files, answers, strict=True):
        warn(file, answer.note)
    problems = [f"{name(file)}: {each.problem}" for file, each in zip(files, answers, strict=True) if each.problem]
    outputs = [answer.outputs for answer in answers if answer.outputs is not None]
    if not outputs:
        return None, [], problems
    read = [(file, each.warnings) for file, each in zip(files, answers, strict=True) if each.outputs is not None]
    task, temperature = predictor.checkpoint.task, predictor.checkpoint.temperature
    table = task.answers(np.stack(outputs), temperature, sure)
    table.insert(0, "file", [writable(str(file)) for file, _ in read])
    table = with_warnings(table, [", ".join(warnings) for _, warnings in read])
    return table, [warning_text(warnings) for _, warnings in read], problems


def answers_of(
    predictor: FilePredictor, files: Sequence[Path], cluster: str, kept: KeptAnswers | None
) -> list[FileAnswer]:
    """What the network says of each file, see `predict`."""
    size = BLOCK_FILES if kept else len(files)
    blocks = [files[at : at + size] for at in range(0, len(files), size)]
    earlier = [kept.read(block) if kept else None for block in blocks]
    known = sum(len(answers) for answers in earlier if answers is not None)
    if kept and known:
        print(f"goes on after {known:,} of {len(files):,} files, whose answers are kept in {kept.folder}")
    answers: list[FileAnswer] = []
    with counting("predicting", len(files) - known, "clip") as done:
        for block, before in zip(blocks, earlier, strict=True):
            try:
                new = answers_of_block(predictor, block, cluster, done) if before is None else before
            except KeyboardInterrupt as interrupt:
                if not (kept and answers):
                    raise
                sentence = f"Stopped; the same command goes on after {len(answers):,} files."
                raise stopped(interrupt, sentence) from None
            if kept and before is None:
                kept.write(block, new)
            answers += new
    return answers


def answers_of_block(
    predictor: FilePredictor, files: Sequence[Path], cluster: str, done: Callable[[int], object]
) -> list[FileAnswer]:
    """What the network says of each file, `PART_FILES` at a time; `done` is told how many more are.

    Raises:
        InputError: the cluster can't be used.
    """
    paths = [file.absolute() for file in files] if cluster else files
    parts = [paths[at : at + PART_FILES] for at in range(0, len(paths), PART_FILES)]
    names = [str(path) for path in paths]
    answered = share_out(
        cluster,
        predictor,
        parts,
        what="predictions",
        done=done,
        files=names,
        device=predictor.device,
        tolerance=TOLERANCE,
    )
    answers = [answer for part in answered for answer in part]
    problems = {path: answer.problem for path, answer in zip(names, answers, strict=True)}
    if cluster:
        refuse_unseen({path: problem for path, problem in problems.items() if problem.startswith("missing")})
    return answers


def warn(file: Path, problem: str) -> None:
    """Prints what is wrong with a file that can be used, if anything is."""
    if problem:
        print(f"warning: {name(file)}: {problem}")


def name(file: Path) -> str:
    """A file in a sentence."""
    return printable(writable(str(file)), LONGEST_NAME)


def check_save(name: str) -> None:
    """Refuses a name under which no table can be saved, before anything is computed.

    Raises:
        InputError: its ending is neither .csv nor .parquet, its folder is not there or can't be written to, or it is a
            folder itself.
    """
    path, given = Path(name), f"save={printable(name, 200)}"
    if not name:
        return
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"{given}: the name must end in .csv or .parquet.")
    if not os.path.isdir(path.absolute().parent):
        if os.path.exists(path.absolute().parent):
            raise InputError(f"{given}: {printable(str(path.parent), 200)} is not a folder; give a file in a folder.")
        raise InputError(f"{given}: the folder is not there; make it first.")
    if len(os.fsencode(path.name)) > NAME_BYTES - 30:  # it is written under a longer name and renamed
        raise InputError(f"{given}: the name is too long for a file; give another one.")
    if os.path.isdir(path):
        raise InputError(f"{given} is a folder; give the name of a file.")
    require_writable(path.absolute().parent)


def save(table: pd.DataFrame, path: Path) -> None:
    """Writes the table as CSV or Parquet, by its name's ending.

    Raises:
        InputError: it can't be written.
    """
    content = io.BytesIO()
    if path.suffix == ".csv":
        for_spreadsheets(table).to_csv(content, index=False)
    else:
        table.to_parquet(content, index=False)
    write_atomically(path, content.getvalue())
    print(f"table  {path}")
