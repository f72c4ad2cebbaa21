"""Starts worker processes that run the trials of a study, and replaces those that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from exvo.errors import InputError, TrainingError
from exvo.experiments.trials import POLL, WORKER, Work, do_trials, end_dead_trials, ended_trials, print_ended
from exvo.options import LAUNCHER, by_mlflow
from exvo.tracking import server

RESTARTS = 5
"""Workers that a command replaces after they were killed."""

WORKER_STOP_SECONDS = 8.0
"""What workers have to end their trials."""


def run_trials(work: Work) -> None:
    """Runs the trials that the study lacks, in this process where one worker is enough.

    Raises:
        InputError: as `trials.run_trial` does.
        TrainingError: as `trials.require_successes` does.
    """
    end_dead_trials(work.study)
    lacking = work.given.trials - work.study.count("finished", "pruned")
    if lacking > 0 and work.given.workers == 1:
        do_trials(work)
    elif lacking > 0:
        supervise(work, min(lacking, work.given.workers))


def supervise(work: Work, workers: int) -> None:
    """Has worker processes run the trials, prints how these end, and replaces workers that are killed.

    Raises:
        InputError: a worker has refused the input.
        TrainingError: a worker has failed, or too many were killed.
    """
    folder = Path(work.given.output) / "studies" / work.study.name
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"worker-{number}.log" for number in range(1, workers + 1)]
    printed, restarts = ended_trials(work.study), 0
    running: dict[Path, subprocess.Popen[bytes]] = {}
    try:
        running = {log: start_worker(work, log) for log in logs}
        print(f"worker processes: {len(logs)}; their output is in {folder}", flush=True)
        while running:
            time.sleep(POLL)
            ended = {log: process.returncode for log, process in running.items() if process.poll() is not None}
            end_dead_trials(work.study)
            printed = print_ended(work, printed)
            for log, status in ended.items():
                del running[log]
                if status in (1, 2):
                    raise (InputError if status == 2 else TrainingError)(final_sentence(log))
                if status != 0:
                    restarts += 1
                    if restarts > RESTARTS:
                        raise TrainingError(
                            f"Workers keep being killed ({status_text(status)}); the last one's log is {log}."
                        )
                    print(f"a worker was killed ({status_text(status)}); another takes its place", flush=True)
                    running[log] = start_worker(work, log)
    finally:
        stop_workers(list(running.values()))
        end_dead_trials(work.study)
        print_ended(work, printed)


def start_worker(work: Work, log: Path) -> subprocess.Popen[bytes]:
    """A process that runs trials, with its share of the cores; it writes to the log.

    It has a session of its own, so that Ctrl-C reaches it through this process alone.
    """
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    environment = os.environ | {
        WORKER: json.dumps(asdict(work.worker)),
        "MLFLOW_TRACKING_URI": server.tracking_uri(),
        LAUNCHER: "mlflow run" if by_mlflow() else "",
        "OMP_NUM_THREADS": str(max(1, threads // work.given.workers)),
    }
    environment.pop("MLFLOW_RUN_ID", None)
    with log.open("ab") as file:
        words = [sys.executable, "-m", "exvo", "tune"]
        return subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


def final_sentence(log: Path) -> str:
    """The sentence with which a worker ended; where it wrote none, its last line and where its log is."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    sentences = [line.removeprefix("exvo: ") for line in lines if line.startswith("exvo: ")]
    if sentences:
        return sentences[-1]
    return f"A worker has failed: {lines[-1] if lines else 'it has printed nothing'}; its log is {log}."


def status_text(status: int) -> str:
    """A process' exit status in words.

    >>> status_text(-9), status_text(3)
    ('SIGKILL', 'status 3')
    """
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def stop_workers(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks workers to end their trials, and ends those that take too long."""
    for process in workers:
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + WORKER_STOP_SECONDS
    for process in workers:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
