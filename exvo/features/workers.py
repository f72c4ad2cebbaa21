"""The processes of an extraction: each does tasks, and reports to the main process."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import NamedTuple, Protocol, cast

from threadpoolctl import threadpool_limits

from exvo.errors import InputError
from exvo.features.audio import Audio

STOP_SECONDS = 5.0  # that a worker has to end its task when the run is stopped


class FileResult(NamedTuple):
    """The outcome of one file, as the table of `extract` has it."""

    content: str  # SHA-256 of its bytes; '' if they can't be read
    problem: str  # '' if its features are in the store, in a shard that is not written yet, or to be computed


class Report(NamedTuple):
    """What a process reports after each attempt to write a shard, or each task where it only decodes."""

    results: dict[int, list[FileResult]]  # by task number: the tasks that it did since its last report
    failure: str | None  # why the shard could not be written; None if it was
    decoded: dict[str, Audio]  # content -> a clip whose features the main process computes
    last: bool  # whether the process has no more tasks


class Tasks(Protocol):
    """Tasks, each of which is taken once, by any of the processes."""

    def __len__(self) -> int:
        """How many there are."""

    def stop(self) -> None:
        """Marks all tasks as taken."""

    def work(self) -> Iterator[Report]:
        """Does one task after the other until all are taken."""


class Workers:
    """The processes that do the tasks; where there are no more tasks than processes, this process does them all.

    They are processes, not threads: most of the time of a short WAV file goes into calls so small that threads would
    wait for the interpreter's lock (`make bench` has the figures).

    Args:
        tasks: to be done.
        count: of processes.
        computes: whether this process computes meanwhile, with all its threads.
    """

    def __init__(self, tasks: Tasks, count: int, computes: bool = False) -> None:
        self._tasks = tasks
        self._count = count if 1 < count < len(tasks) else 0
        self._computes = computes
        self._processes: dict[Connection, multiprocessing.Process] = {}

    def __enter__(self) -> Workers:
        self._limits = threadpool_limits(1)  # the threads of BLAS, forked, wait for each other
        return self

    def __exit__(self, *_: object) -> None:
        self._tasks.stop()
        for receiver, worker in self._processes.items():
            receiver.close()
            worker.join(STOP_SECONDS)
            worker.terminate()
            worker.join()
        self._limits.restore_original_limits()

    def reports(self) -> Iterator[Report]:
        """The reports of all processes, as they come.

        Raises:
            InputError: a worker died.
        """
        for _ in range(self._count):
            receiver, sender = multiprocessing.Pipe(duplex=False)
            worker = multiprocessing.Process(target=_work, args=(self._tasks, sender, os.getpid()), daemon=True)
            worker.start()
            sender.close()  # so that the worker's end is the only one
            self._processes[receiver] = worker
        if self._computes:
            self._limits.restore_original_limits()
        if not self._count:
            yield from self._tasks.work()
        working = list(self._processes)
        while working:
            for receiver in cast(list[Connection], multiprocessing.connection.wait(working)):
                report = _receive(self._processes[receiver], receiver)
                if report.last:
                    working.remove(receiver)
                yield report


def _work(tasks: Tasks, sender: Connection, parent: int) -> None:
    """Does tasks in a worker process and sends its reports, until all are done or its parent process is gone."""
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        try:
            for report in tasks.work():
                sender.send(report)
                if os.getppid() != parent:
                    return
        except Exception as error:
            sender.send(error)


def _receive(worker: multiprocessing.Process, receiver: Connection) -> Report:
    """The next report of a worker.

    Raises:
        InputError: the worker died.
        Exception: whatever the worker raised.
    """
    try:
        message: Report | Exception = receiver.recv()
    except (EOFError, OSError):
        worker.join()
        raise InputError(
            f"A process that decodes audio has died ({_ending(worker.exitcode)}). What was extracted before is kept: "
            "run again to go on from there, with less memory in use or with workers=1."
        ) from None
    if isinstance(message, Exception):
        raise message
    return message


def _ending(code: int | None) -> str:
    """The exit code of a process in words."""
    return f"killed by signal {-code}" if code is not None and code < 0 else f"status {code}"
