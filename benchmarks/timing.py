"""Two ways of doing the same, timed in turn; a line of the table of results."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from tqdm import tqdm

REPEATS = 5

Row = dict[str, object]


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def row(
    what: str, against: str, ratios: Sequence[float], target: str = "", also: Mapping[str, float] | None = None
) -> Row:
    """A line of the table: median and range of the ratios; `target` is `>= 3` or, where less is better, `<= 1.3`."""
    median = statistics.median(ratios)
    met = not target or (median >= float(target[3:]) if target.startswith(">=") else median <= float(target[3:]))
    ends = {"lowest": min(ratios), "highest": max(ratios)}
    about = {"target": target, "met": met, "also": dict(also or {})}
    return {"what": what, "against": against, "ratio": median, **ends, **about}


def compare(
    what: str,
    ours: Callable[[], object],
    reference: Callable[[], object],
    against: str,
    target: str = "",
    before: Callable[[], object] = int,
    also: Mapping[str, float] | None = None,
) -> Row:
    """Times both, in turn, five times; the ratio is reference over ours, so more is better.

    What is called `before` each of them is not timed.
    """
    pairs = []
    for _ in tqdm(range(REPEATS), what, leave=False, disable=None):
        pairs.append([(before(), seconds(work))[1] for work in (ours, reference)])
    ratios = [their_time / our_time for our_time, their_time in pairs]
    our_median = statistics.median(our_time for our_time, _ in pairs)
    return row(what, against, ratios, target, {"seconds": our_median, **(also or {})})
