"""How far long work has come: a bar on a terminal; where there is none, a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

SECONDS = 60.0
"""Between two lines, at least."""

Item = TypeVar("Item")

_hidden = False


def hide() -> None:
    """Has this process show nothing of how far it is: another one shows it."""
    global _hidden
    _hidden = True


@contextlib.contextmanager
def counting(what: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """Counts what is done of long work, and shows it on the standard error stream.

    Args:
        what: is done; empty: nothing is shown.
        total: how many there are to do.
        unit: the name of one of them.

    Yields:
        A function that is told how many more are done.
    """
    if not what or _hidden:
        yield lambda more: None
    elif sys.stderr is not None and sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit=unit, leave=False) as bar:
            yield bar.update
    else:
        yield _Lines(what, total, unit).add


def followed(items: Sequence[Item], what: str, unit: str) -> Iterator[Item]:
    """The items one after the other, counted, see `counting`."""
    with counting(what, len(items), unit) as done:
        for item in items:
            yield item
            done(1)


def duration(seconds: float) -> str:
    """A length of time, as people say it.

    >>> duration(42.3), duration(200), duration(7500)
    ('42 s', '3 min', '2 h 5 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class _Lines:
    """A line each `SECONDS` seconds while work goes on; none about work that takes less."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self.begun = self.said = time.monotonic()

    def add(self, more: int) -> None:
        self.done += more
        now = time.monotonic()
        if now - self.said < SECONDS or not 0 < self.done < self.total:
            return
        self.said = now
        left = duration((now - self.begun) * (self.total - self.done) / self.done)
        line = f"{self.what}: {self.done:,} of {self.total:,} {self.unit}s, about {left} left"
        print(line, file=sys.stderr, flush=True)
