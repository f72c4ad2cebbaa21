"""Writes the file for the ExVo 2022 challenge, or checks one.

The run's task is few-shot or multitask. The file holds its predictions of the test split: those that the run or its
newest evaluation has logged, else made now. It is written only if it passes the check that `check=<file>` does alone:
the test split's clips, each once and in the order of the corpus, the task's columns, and a finite number in every cell.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from exvo.corpora import hume_vb
from exvo.corpora.base import Corpus
from exvo.corpora.options import corpus_settings, load_corpus
from exvo.errors import InputError
from exvo.evaluation import submission
from exvo.files import require_writable
from exvo.settings import SubmitSettings, TrainSettings
from exvo.text import listing
from exvo.tracking import artifacts, experiments, lookup, runs, scored
from exvo.tracking.lookup import Run


def run(settings: SubmitSettings) -> None:
    """Checks a file, or writes one in a run of its own."""
    source = lookup.find_run(settings.run_id)
    training = artifacts.require_training(source)
    task = training.task
    if task not in submission.TITLES:
        raise InputError(f"The run {source.info.run_name} was trained for task={task}; the challenge has no such task.")
    if training.labels or training.where or training.clips_per_speaker:
        raise InputError(
            f"The run {source.info.run_name} was trained on a part of the corpus (labels, where or clips_per_speaker); "
            "the challenge wants every clip and every emotion."
        )
    if settings.check:
        check_file(Path(settings.check), test_files(load_corpus(corpus_settings(settings, training))))
        return
    from exvo.devices import resolve_device  # and with it PyTorch, which checking a file does without

    name = submission.file_name(task, settings.team, settings.number)
    settings = replace(settings, device=resolve_device(settings.device))
    corpus = load_corpus(corpus_settings(settings, training))
    submission.require_emotions(corpus.targets)
    folder = Path(settings.output) / "submissions"
    require_writable(folder if folder.exists() else folder.parent)
    with runs.start_run("submit", output=settings.output) as run_id:
        runs.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        runs.log_evaluated(source, training.protocol)
        write(folder / name, corpus, test_predictions(source, settings, training), task)
        print(experiments.where_to_look(run_id, to_see=False))


def test_files(corpus: Corpus) -> list[str]:
    """The clips of the test split, in the order of the corpus."""
    files: list[str] = corpus.clips["file"][corpus.clips["split"] == "test"].tolist()
    return files


def check_file(path: Path, files: list[str]) -> None:
    """Checks somebody's file, and prints that it passes.

    Raises:
        InputError: it does not pass; names all its problems.
    """
    checked = submission.check_file(path, submission.file_ids(files))
    for note in checked.notes:
        print(f"note: {note}")
    if checked.problems:
        raise InputError(submission.problems_text(path.name, checked.problems))
    print(f"{path.name} passes the check: {len(files):,} clips, {submission.TITLES[checked.task]}")


def test_predictions(source: Run, settings: SubmitSettings, training: TrainSettings) -> pd.DataFrame:
    """The predictions of the test split under the run's own protocol, logged ones where there are some."""
    for run in scored.evaluations(source, "test"):
        table = artifacts.load_table(run.info.run_id, "predictions/test.parquet")
        if table is not None:
            print(f"predictions of the run {run.info.run_name} ({run.info.run_id})")
            return table
    from exvo.experiments.corpus import reopen
    from exvo.networks.inference import predict_clips
    from exvo.tracking import models

    ready = reopen(settings, source, training)
    checkpoint = models.checkpoint_of(source)
    clips = ready.clips("test", checkpoint.task, training.fill)
    enrolment = ready.enrolment("test", training.protocol, training.shots)
    outputs = predict_clips(
        checkpoint.network, clips, settings.device, enrolment.clips, progress="test", protocol=checkpoint.protocol
    )
    print(f"predictions made now, {training.protocol} protocol")
    return checkpoint.task.table(ready.rows("test"), outputs, enrolment.scored, checkpoint.temperature)


def write(path: Path, corpus: Corpus, table: pd.DataFrame, task: str) -> None:
    """Writes, checks and logs the file.

    Raises:
        InputError: test clips have no prediction, or the file would not pass the check.
    """
    files = test_files(corpus)
    ids = submission.file_ids(files)
    missing = sorted(set(files) - set(table["file"]))
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(files)} test clips have no prediction, as unreadable ones that "
            f"skip_unreadable=true left out: {listing(missing)}. The challenge wants every clip."
        )
    ordered = table.set_index("file").loc[files].reset_index()
    countries = country_numbers(corpus) if task == "multitask" else {}
    checked = submission.write(submission.submission(ordered, task, countries), path, ids)
    runs.log_text(f"submission/{path.name}", path.read_text(encoding="utf-8"))
    for note in checked.notes:
        print(f"note: {note}")
    print(f"wrote {path}, which passes the check: {len(files):,} clips, {submission.TITLES[task]}")


def country_numbers(corpus: Corpus) -> dict[str, int]:
    """The number of each country: that of HUME-VB's own table, of another corpus its place in the alphabet."""
    if corpus.name == "hume-vb":
        return hume_vb.country_codes(corpus.folder)
    names = sorted(set(corpus.clips["country"]) - {""})
    return {name: number for number, name in enumerate(names)}
