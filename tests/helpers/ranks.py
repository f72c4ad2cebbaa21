"""Functions that run in several ranks, each in a process of its own, connected by gloo."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exvo import ranks


def on_ranks(count: int, work: Callable[..., Any], *arguments: object, folder: Path) -> list[Any]:
    """What a function gives in each of `count` connected ranks; JSON must be able to hold it.

    Args:
        count: of ranks.
        work: a function of a module.
        arguments: of it.
        folder: where the ranks leave what it gives.
    """
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_rank, args=(number, count, port, work, arguments, folder)) for number in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * count
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(count)]


def _rank(
    number: int, count: int, port: int, work: Callable[..., Any], arguments: tuple[object, ...], folder: Path
) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(count), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with ranks.joined("cpu"):
        result = work(*arguments)
    (folder / f"{number}.json").write_text(json.dumps(result))
