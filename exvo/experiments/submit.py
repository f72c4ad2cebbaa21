"""Writes the file for the ExVo 2022 challenge, or checks one.

The run's task is few-shot or multitask. The file holds its predictions of the test split: those that the run or its
newest evaluation has logged, else made now. It is written only if it passes the check that `check=<file>` does alone:
the test split's clips, each once and in the order of the corpus, the task's columns, and a finite number in every cell.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from exvo.config import SubmitSettings
from exvo.corpora import hume_vb
from exvo.corpora.base import Corpus
from exvo.devices import resolve_device
from exvo.errors import InputError
from exvo.evaluation import submission
from exvo.experiments.corpus import corpus_settings, load_corpus, reopen
from exvo.files import require_writable
from exvo.networks.inference import predict
from exvo.text import listing
from exvo.tracking import artifacts, lookup, models, runs, scored
from exvo.tracking.lookup import Run


def run(settings: SubmitSettings) -> None:
    """Checks a file, or writes one in a run of its own."""
    source = lookup.find_run(settings.run_id)
    options = artifacts.training_options(source)
    task = options["task"]
    if task not in submission.TITLES:
        raise InputError(f"The run {source.info.run_name} was trained for task={task}; the challenge has no such task.")
    if settings.check:
        check(Path(settings.check), test_files(load_corpus(corpus_settings(settings, options))))
        return
    name = submission.file_name(task, settings.team, settings.number)
    settings = replace(settings, device=resolve_device(settings.device))
    corpus = load_corpus(corpus_settings(settings, options))
    submission.require_emotions(corpus.targets)
    place = Path(settings.output) / "submissions"
    require_writable(place if place.exists() else place.parent)
    with runs.start_run("submit", output=settings.output) as run_id:
        runs.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        runs.log_evaluated(source, options["protocol"])
        write(place / name, corpus, predictions(source, settings, options), task)
        print(runs.where_to_look(run_id))


def test_files(corpus: Corpus) -> list[str]:
    """The clips of the test split, in the order of the corpus."""
    files: list[str] = corpus.clips["file"][corpus.clips["split"] == "test"].tolist()
    return files


def check(path: Path, files: list[str]) -> None:
    """Says that a file is right.

    Raises:
        InputError: it is not; all its problems are said.
    """
    checked = submission.check(path, submission.file_ids(files))
    for note in checked.notes:
        print(f"note: {note}")
    if checked.problems:
        raise InputError(submission.problems_text(path.name, checked.problems))
    print(f"{path.name} is right: {len(files):,} clips, {submission.TITLES[checked.task]}")


def predictions(source: Run, settings: SubmitSettings, options: dict[str, Any]) -> pd.DataFrame:
    """The predictions of the test split under the run's own protocol, logged ones where there are some."""
    for one in scored.evaluations(source, "test"):
        table = artifacts.load_table(one.info.run_id, "predictions/test.parquet")
        if table is not None:
            print(f"predictions of the run {one.info.run_name} ({one.info.run_id})")
            return table
    ready = reopen(settings, source, options)
    checkpoint = models.checkpoint_of(source)
    clips = ready.clips("test", checkpoint.task, options["fill"])
    enrolment = ready.enrolment("test", options["protocol"], options["shots"])
    outputs = predict(
        checkpoint.network, clips, settings.device, enrolment.clips, progress="test", protocol=checkpoint.protocol
    )
    print(f"predictions made now, {options['protocol']} protocol")
    return checkpoint.task.table(ready.rows("test"), outputs, enrolment.scored)


def write(path: Path, corpus: Corpus, table: pd.DataFrame, task: str) -> None:
    """Writes, checks and logs the file.

    Raises:
        InputError: test clips have no prediction, or the file would be wrong.
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
    print(f"{path} is written and right: {len(files):,} clips, {submission.TITLES[task]}")


def country_numbers(corpus: Corpus) -> dict[str, int]:
    """The number of each country: that of HUME-VB's own table, of another corpus its place in the alphabet."""
    if corpus.name == "hume-vb":
        return hume_vb.country_codes(corpus.folder)
    names = sorted(set(corpus.clips["country"]) - {""})
    return {name: number for number, name in enumerate(names)}
