"""Runs the trials of a study, one after the other in this process."""

from __future__ import annotations

import math
import os
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from exvo.errors import InputError, TrainingError
from exvo.experiments.corpus import Ready
from exvo.experiments.train import resolve, start, train
from exvo.networks.checkpoint import WEIGHTS
from exvo.passwords import hide
from exvo.settings import TrainSettings, TuneSettings
from exvo.text import default_text, first_line
from exvo.tracking import ends, runs, server
from exvo.tracking.tags import STUDY_TAG, TRIAL_STATE_TAG, TRIAL_TAG
from exvo.training.states import Epoch
from exvo.tuning.study import Pruned, Replaced, Study, Trial, best

WORKER = "EXVO_TUNE_WORKER"
"""The variable that makes the command a worker of another one: JSON of `Worker`. A password in it stays out of `ps`."""

POLL = 1.0
"""Seconds between two looks at the study."""

ENOUGH_FAILED = 3
"""Failed trials after which the study stops, if they are more than those that have not failed."""

SERVER_WAIT_SECONDS = 600.0
"""What a trial waits for a tracking server that is away; then the study stops."""


@dataclass(frozen=True)
class Worker:
    """What a command passes to its worker processes.

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
        worker: what this process has got from its command, or passes to its workers.
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
    study, printed, is_waiting = work.study, ended_trials(work.study), False
    while os.getpid() == work.worker.pid or os.getppid() == work.worker.pid:
        await_server()
        end_dead_trials(study)
        require_successes(work)
        trial = study.begin(work.given.trials)
        if trial is not None:
            run_trial(work, trial)
        elif study.count("running"):  # another worker's trial, which this one runs again if that worker is killed
            if not is_waiting:
                print(f"waits for {study.count('running')} trials of other workers", flush=True)
            is_waiting = True
            time.sleep(POLL)
        else:
            return
        printed = print_ended(work, printed)


def await_server() -> None:
    """Waits until the tracking server answers, so that the next trial can begin its run.

    Raises:
        InputError: it does not answer for `SERVER_WAIT_SECONDS`.
    """
    since, is_waiting = time.monotonic(), False
    while not server.answers():
        if not is_waiting:
            print(f"waits for the tracking server {server.shown_uri()}, which does not answer", flush=True)
        if time.monotonic() - since > SERVER_WAIT_SECONDS:
            minutes = f"{SERVER_WAIT_SECONDS / 60:.0f} minutes"
            raise InputError(
                f"The tracking server {server.shown_uri()} has not answered for {minutes}; start it, and the same "
                "command goes on."
            )
        is_waiting = True
        time.sleep(POLL)


def ended_trials(study: Study) -> set[int]:
    """The numbers of the trials that have ended."""
    rows = study.table()
    return set(rows["number"][rows["state"] != "running"])


def print_ended(work: Work, printed: set[int]) -> set[int]:
    """Prints a line for each trial that has ended and is not among those printed before.

    Returns:
        The numbers of all that have ended.
    """
    rows = work.study.table()
    top, ended = best(rows), rows[rows["state"] != "running"]
    count = len(printed & set(ended["number"][ended["state"].isin(["finished", "pruned"])]))
    for row in ended[~ended["number"].isin(printed)].to_dict("records"):
        count += row["state"] in ("finished", "pruned")
        score = "" if math.isnan(row["score"]) else f"{row['score']:.4f}"
        options = ", ".join(f"{name} {default_text(row[name])}" for name in work.study.search if row[name] is not None)
        leader = "" if top is None else f"best {top['score']:.4f} (trial {top['number']})"
        line = f"number {row['number']:3d}  {row['state']:8}  {score:>7}  {leader}  {options}"
        print(f"trial {f'{count}/{work.given.trials}':>7}  {line}", flush=True)
        if row["problem"]:
            print(f"    {row['problem']}", flush=True)
    return set(ended["number"])


def end_dead_trials(study: Study) -> None:
    """Ends the trials whose worker is gone, in the study and on the tracking server."""
    for trial in study.end_dead_trials():
        ends.end_run_of_dead_trial(trial.run_id)


def require_successes(work: Work) -> None:
    """Stops a study whose trials fail.

    Raises:
        TrainingError: since the command was typed more trials have failed than not; says why the last one did.
    """
    rows = work.study.table()
    rows = rows[rows["number"] >= work.worker.first]
    failed = rows[rows["state"] == "failed"]
    if len(failed) >= ENOUGH_FAILED and len(failed) > rows["state"].isin(["finished", "pruned"]).sum():
        raise TrainingError(
            f"The study stops, because {len(failed)} of its trials have failed; the last one: "
            f"{failed['problem'].iloc[-1]}"
        )


def run_trial(work: Work, trial: Trial) -> None:
    """Trains in a run beneath the study's, and notes in both how the trial has ended.

    Raises:
        InputError: the user's mistake, which would fail every trial.
        KeyboardInterrupt: the user stops the command.
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
    runs.end_run_as("FAILED" if state == "failed" else "KILLED")
