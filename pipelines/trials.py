"""The trials of a study: run in this process, or in worker processes that this one looks after."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exvo.config import InputError, TrainSettings, TuneSettings, default_text
from exvo.options import LAUNCHER, by_mlflow
from pipelines.common import Ready
from pipelines.train import resolve, start, train

if TYPE_CHECKING:
    from exvo.tuning.study import Study, Trial

WORKER = "EXVO_TUNE_WORKER"
"""The variable that makes the command a worker of another one: JSON of `Worker`. A password in it stays out of `ps`."""

POLL = 1.0
"""Seconds between two looks at the study."""

GIVE_UP = 3
"""Failed trials after which the study stops, if they are more than those that have not failed."""

RESTARTS = 5
"""Workers that a command replaces after they were killed."""

SERVER_SECONDS = 600.0
"""What a trial waits for a tracking server that is away; then the study stops."""

STOP_SECONDS = 8.0
"""What workers are given to end their trials."""


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


def run_trials(work: Work) -> None:
    """Runs the trials that the study lacks, in this process where one worker is enough.

    Raises:
        InputError, TrainingError: as `run_trial` and `give_up` do.
    """
    bury(work.study)
    lacking = work.given.trials - work.study.count("finished", "pruned")
    if lacking > 0 and work.given.workers == 1:
        do_trials(work)
    elif lacking > 0:
        supervise(work, min(lacking, work.given.workers))


def do_trials(work: Work) -> None:
    """Runs trials until the study has its number of them, and none is left running elsewhere.

    Raises:
        TrainingError: most trials fail.
    """
    study, shown, waits = work.study, ended(work.study), False
    while os.getpid() == work.worker.pid or os.getppid() == work.worker.pid:
        await_server()
        bury(study)
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
    from exvo import server

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
    from exvo.study_page import best

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


def bury(study: Study) -> None:
    """Ends the trials whose worker is gone, in the study and on the tracking server."""
    from exvo import tracking

    for trial in study.bury():
        tracking.bury_run(trial.run_id)


def give_up(work: Work) -> None:
    """Stops a study whose trials fail.

    Raises:
        TrainingError: since the command was typed more trials have failed than not; says why the last one did.
    """
    from exvo.training import TrainingError

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
    from exvo import lookup, tracking
    from exvo.training import Epoch, TrainingError

    def watch(epoch: Epoch) -> None:
        trial.report(epoch.number, epoch.score)

    settings, system = resolve(replace(work.base, **trial.options))
    tags = {lookup.STUDY_TAG: work.study.name, lookup.TRIAL_TAG: str(trial.number), lookup.TRIAL_STATE_TAG: "running"}
    with trial.alive(), tracking.run("train", parent=work.worker.parent, tags=tags, output=settings.output) as run_id:
        try:
            trial.note(run_id)
            start(settings, system, work.ready)
            best = train(settings, system, work.ready, run_id, watch)
            if math.isnan(best.score):
                raise TrainingError(
                    "The validation score was undefined in every epoch, so there is nothing to compare."
                )
            trial.finish(best.score)
            tracking.set_tags({lookup.TRIAL_STATE_TAG: "finished"})
        except BaseException as error:
            end_trial(trial, error, Path(settings.output) / "runs" / run_id)
            if not isinstance(error, Exception) or isinstance(error, InputError):
                raise


def end_trial(trial: Trial, error: BaseException, checkpoints: Path) -> None:
    """Ends a trial that has not finished, and its run: pruned, failed or killed."""
    from exvo import lookup, serving, tracking
    from exvo.passwords import hide
    from exvo.text import first_line
    from exvo.training import TrainingError
    from exvo.tuning.study import Lost, Pruned

    state: Literal["pruned", "failed", "killed"]
    if isinstance(error, Pruned):
        state, problem = "pruned", ""
    elif isinstance(error, Exception):
        state, problem = "killed" if isinstance(error, Lost) else "failed", first_line(error)
    else:
        state, problem = "killed", "Stopped."
    if state == "failed" and not isinstance(error, TrainingError | InputError):
        print(hide(traceback.format_exc()), file=sys.stderr)
    trial.end(state, problem)
    if state != "failed":
        (checkpoints / serving.WEIGHTS).unlink(missing_ok=True)
    tracking.set_tags({lookup.TRIAL_STATE_TAG: state, **({"exvo.problem": problem} if problem else {})})
    tracking.end_run("FAILED" if state == "failed" else "KILLED")


def supervise(work: Work, workers: int) -> None:
    """Has worker processes run the trials, shows how they go, and replaces workers that are killed.

    Raises:
        InputError, TrainingError: what stopped a worker.
    """
    from exvo.training import TrainingError

    folder = Path(work.given.output) / "studies" / work.study.name
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"worker-{number}.log" for number in range(1, workers + 1)]
    shown, restarts = ended(work.study), 0
    running: dict[Path, subprocess.Popen[bytes]] = {}
    try:
        running = {log: start_worker(work, log) for log in logs}
        print(f"worker processes: {len(logs)}; what they say is in {folder}", flush=True)
        while running:
            time.sleep(POLL)
            over = {log: process.returncode for log, process in running.items() if process.poll() is not None}
            bury(work.study)
            shown = tell(work, shown)
            for log, status in over.items():
                del running[log]
                if status in (1, 2):
                    raise (InputError if status == 2 else TrainingError)(last_words(log))
                if status != 0:
                    restarts += 1
                    if restarts > RESTARTS:
                        raise TrainingError(
                            f"Workers keep being killed ({ending(status)}); the last one's log is {log}."
                        )
                    print(f"a worker was killed ({ending(status)}); another takes its place", flush=True)
                    running[log] = start_worker(work, log)
    finally:
        stop(list(running.values()))
        bury(work.study)
        tell(work, shown)


def start_worker(work: Work, log: Path) -> subprocess.Popen[bytes]:
    """A process that runs trials, with its share of the cores; it writes to the log.

    It has a session of its own, so that Ctrl-C reaches it through this process alone.
    """
    from exvo import server

    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    environment = os.environ | {
        WORKER: json.dumps(asdict(work.worker)),
        "MLFLOW_TRACKING_URI": server.tracking_uri(),
        LAUNCHER: "mlflow run" if by_mlflow() else "",
        "OMP_NUM_THREADS": str(max(1, threads // work.given.workers)),
    }
    environment.pop("MLFLOW_RUN_ID", None)
    with log.open("ab") as file:
        words = [sys.executable, "-m", "pipelines.tune"]
        return subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


def last_words(log: Path) -> str:
    """The sentence with which a worker ended, or where to look for more."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.removeprefix("exvo: ") for line in lines if line.startswith("exvo: ")]
    return said[-1] if said else f"A worker has failed: {lines[-1] if lines else 'without a word'}; its log is {log}."


def ending(status: int) -> str:
    """A process' exit status in words.

    >>> ending(-9), ending(3)
    ('SIGKILL', 'status 3')
    """
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def stop(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks workers to end their trials, and ends those that take too long."""
    for process in workers:
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + STOP_SECONDS
    for process in workers:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
