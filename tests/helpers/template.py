"""A process that has imported what commands need, and forks a child for each one it is asked for.

Importing torch and MLflow takes longer than most commands of a test. A child is a process like any other: it may be
killed, stopped or lose its terminal. Only its imports are shared. Started by `helpers.processes`, which speaks to it:
a request is a line of JSON with the command's words, environment and folder, and the descriptors of its streams.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import random
import socket
import sys
import termios
import threading

STREAMS = 3  # standard input, output and error
PREPARED = ("exvo.experiments.evaluate", "exvo.experiments.sync", "exvo.experiments.train", "exvo.experiments.tune")
PREPARED += ("mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", "mlflow.models.display_utils", "IPython")
PREPARED += ("mlflow.system_metrics.system_metrics_monitor", "torch._dynamo", "git")  # what they import when they run


def receive(channel: socket.socket) -> tuple[dict[str, object], list[int]] | None:
    """The next request and its descriptors: a socket for what becomes of it, then its streams; None at the end."""
    content, descriptors, _, _ = socket.recv_fds(channel, 2**20, 1 + STREAMS)
    return (json.loads(content), descriptors) if content else None


def become(request: dict[str, object], streams: list[int]) -> None:
    """Makes this child look like a process that was started by the command line."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(STREAMS, 256)
    if request["terminal"]:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(str(request["folder"]))
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    sys.argv = ["exvo", *request["words"]]  # type: ignore[misc]
    sys.stdout.reconfigure(line_buffering=bool(request["terminal"]))  # type: ignore[union-attr]
    random.seed()  # from which MLflow draws names of runs


def report(pid: int, answers: socket.socket) -> None:
    """Tells a child's process id, and its status when it has ended."""
    with answers:
        answers.sendall(b"%d\n" % pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            answers.sendall(b"%d\n" % status)
        except BrokenPipeError:
            return  # the test has ended before its process


def fork_children(channel: socket.socket) -> None:
    """Forks a child for each request; returns in each child, and in this process when there are no more requests."""
    while (received := receive(channel)) is not None:
        request, (answers, *streams) = received
        pid = os.fork()
        if pid == 0:
            channel.detach()
            become(request, streams)
            return
        for stream in streams:
            os.close(stream)
        threading.Thread(target=report, args=(pid, socket.socket(fileno=answers)), daemon=True).start()
    sys.exit()


if __name__ == "__main__":
    for name in PREPARED:
        importlib.import_module(name)
    from exvo.__main__ import main

    fork_children(socket.socket(fileno=int(sys.argv[1])))
    main()
