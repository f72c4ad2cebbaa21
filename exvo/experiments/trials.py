"""The trials of a study, one after the other in this process."""

from __future__ import annotations

import math
import os
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from exvo.config import TrainSettings, TuneSettings
from exvo.errors import InputError, TrainingError
from exvo.experiments.corpus import Ready
from exvo.experiments.train import resolve, start, train
from exvo.networks.checkpoint import WEIGHTS
from exvo.passwords import hide
from exvo.text import default_text, first_line
from exvo.tracking import runs, server
from exvo.tracking.tags import STUDY_TAG, TRIAL_STATE_TAG, TRIAL_TAG
from exvo.training.states import Epoch
from exvo.tuning.study import Pruned, Replaced, Study, Trial, best

WORKER = "EXVO_TUNE_WORKER"
"""The variable that makes the command a worker of another one: JSON of `Worker`. A password in it stays out of `ps`."""

POLL = 1.0
"""Seconds between two looks at the study."""

GIVE_UP = 3
"""Failed trials after which the study stops, if they are more than those that have not failed."""

SERVER_SECONDS = 600.0
"""What a trial waits for a tracking server that is away; then the study stops."""


@dataclass(frozen=True)
class Worker:
    """What a worker is told.

    Attributes:
        settings: the command's.
        parent: id of the study's run.
        first: number of the first trial since the command was typed.
        pid: of the process that started it.
    """

    settings: dict[str, Any]
    parent: str
    first: int
    pid: int


@dataclass(frozen=True)
class Work:
    """What a process needs to run trials.

    Attributes:
        given: the command's settings, among them the total number of trials.
        base: what all trials share.
        ready: the corpus.
        study: in its storage.
        worker: what this process was told, or would tell its workers.
    """

    given: TuneSettings
    base: TrainSettings
    ready: Ready
    study: Study
    worker: Worker


def do_trials(work: Work) -> None:
    """Runs trials until the study has its number of them, and none is left running elsewhere.

    Raises:
        TrainingError: most trials fail.
    """
    study, shown, waits = work.study, ended(work.study), False
    while os.getpid() == work.worker.pid or os.getppid() == work.worker.pid:
        await_server()
        end_dead_trials(study)
        give_up(work)
        trial = study.begin(work.given.trials)
        if trial is not None:
            run_trial(work, trial)
        elif study.count("running"):  # another worker's, in whose place this one may have to step
            if not waits:
                print(f"waits for {study.count('running')} trials of other workers", flush=True)
            waits = True
            time.sleep(POLL)
        else:
            return
        shown = tell(work, shown)


def await_server() -> None:
    """Waits until the tracking server answers, so that the next trial can begin its run.

    Raises:
        InputError: it does not answer for `SERVER_SECONDS`.
    """
    since, told = time.monotonic(), False
    while not server.answers():
        if not told:
            print(f"waits for the tracking server {server.shown_uri()}, which does not answer", flush=True)
        if time.monotonic() - since > SERVER_SECONDS:
            raise InputError(
                f"The tracking server {server.shown_uri()} has not answered for {SERVER_SECONDS / 60:.0f} minutes; "
                "start it, and the same command goes on."
            )
        told = True
        time.sleep(POLL)


def ended(study: Study) -> set[int]:
    """The numbers of the trials that have ended."""
    rows = study.table()
    return set(rows["number"][rows["state"] != "running"])


def tell(work: Work, shown: set[int]) -> set[int]:
    """Prints a line for each trial that has ended since; returns the numbers of all."""
    rows = work.study.table()
    top, over = best(rows), rows[rows["state"] != "running"]
    good = len(shown & set(over["number"][over["state"].isin(["finished", "pruned"])]))
    for row in over[~over["number"].isin(shown)].to_dict("records"):
        good += row["state"] in ("finished", "pruned")
        score = "" if math.isnan(row["score"]) else f"{row['score']:.4f}"
        tried = ", ".join(f"{name} {default_text(row[name])}" for name in work.study.search if row[name] is not None)
        leader = "" if top is None else f"best {top['score']:.4f} (trial {top['number']})"
        place = f"{good}/{work.given.trials}"
        print(
            f"trial {place:>7}  number {row['number']:3d}  {row['state']:8}  {score:>7}  {leader}  {tried}", flush=True
        )
        if row["problem"]:
            print(f"    {row['problem']}", flush=True)
    return set(over["number"])


def end_dead_trials(study: Study) -> None:
    """Ends the trials whose worker is gone, in the study and on the tracking server."""
    for trial in study.end_dead_trials():
        runs.bury_run(trial.run_id)


def give_up(work: Work) -> None:
    """Stops a study whose trials fail.

    Raises:
        TrainingError: since the command was typed more trials have failed than not; says why the last one did.
    """
    rows = work.study.table()
    rows = rows[rows["number"] >= work.worker.first]
    failed = rows[rows["state"] == "failed"]
    if len(failed) >= GIVE_UP and len(failed) > rows["state"].isin(["finished", "pruned"]).sum():
        raise TrainingError(
            f"The study stops, because {len(failed)} of its trials have failed; the last one: "
            f"{failed['problem'].iloc[-1]}"
        )


def run_trial(work: Work, trial: Trial) -> None:
    """Trains in a run beneath the study's; how it ends is told to the tracking server and to the study.

    Raises:
        InputError: the user's mistake, which would fail every trial.
        KeyboardInterrupt: as it came.
    """

    def watch(epoch: Epoch) -> None:
        trial.report(epoch.number, epoch.score)

    settings, system = resolve(replace(work.base, **trial.options))
    tags = {STUDY_TAG: work.study.name, TRIAL_TAG: str(trial.number), TRIAL_STATE_TAG: "running"}
    with trial.alive(), runs.start_run("train", parent=work.worker.parent, tags=tags, output=settings.output) as run_id:
        try:
            trial.note(run_id)
            start(settings, system, work.ready)
            best = train(settings, system, work.ready, run_id, watch)
            if math.isnan(best.score):
                raise TrainingError(
                    "The validation score was undefined in every epoch, so there is nothing to compare."
                )
            trial.finish(best.score)
            runs.set_tags({TRIAL_STATE_TAG: "finished"})
        except BaseException as error:
            end_trial(trial, error, Path(settings.output) / "runs" / run_id)
            if not isinstance(error, Exception) or isinstance(error, InputError):
                raise


def end_trial(trial: Trial, error: BaseException, checkpoints: Path) -> None:
    """Ends a trial that has not finished, and its run: pruned, failed or killed."""
    state: Literal["pruned", "failed", "killed"]
    if isinstance(error, Pruned):
        state, problem = "pruned", ""
    elif isinstance(error, Exception):
        state, problem = "killed" if isinstance(error, Replaced) else "failed", first_line(error)
    else:
        state, problem = "killed", "Stopped."
    if state == "failed" and not isinstance(error, TrainingError | InputError):
        print(hide(traceback.format_exc()), file=sys.stderr)
    trial.end(state, problem)
    if state != "failed":
        (checkpoints / WEIGHTS).unlink(missing_ok=True)
    runs.set_tags({TRIAL_STATE_TAG: state, **({"exvo.problem": problem} if problem else {})})
    runs.end_run("FAILED" if state == "failed" else "KILLED")
