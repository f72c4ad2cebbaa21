"""Sends hostile input to everything that reads: `make fuzz`.

`python -m fuzz --targets audio --seed 3 --first 1234 --inputs 1` repeats a single input. Inputs that break a promise
are kept in output/fuzz with what was wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from tqdm import tqdm

from fuzz.child import SECONDS, WARM, work

TARGETS = {
    "audio": "Audio",
    "corpora": "Corpora",
    "selections": "Selections",
    "checkpoints": "Checkpoints",
    "panns": "Panns",
    "predictions": "Predictions",
    "submissions": "Submissions",
    "lists": "Lists",
    "store": "Stores",
    "served": "Served",
}
KEPT = Path("output") / "fuzz"
ENOUGH = 20  # failures of a target, after which it is left
GRACE = 20.0  # seconds that a process has beyond what an input may take


def main() -> int:
    """Runs the targets; returns 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default=",".join(TARGETS), help="names with commas between (default: %(default)s)")
    parser.add_argument("--inputs", type=int, default=10_000, help="of each target (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all inputs (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(f"seed {options.seed}, inputs {options.first} to {options.first + options.inputs - 1} of each target")
    print(f"an input may take {SECONDS} s and 1 GiB, a Parquet file 3 GiB")
    failed = 0
    for name in options.targets.split(","):
        place = f"fuzz.targets:{TARGETS[name]}"
        started = time.monotonic()
        numbers = range(options.first, options.first + options.inputs)
        counts, grown = attack(place, name, options.seed, numbers, options.workers)
        failed += counts["failed"]
        seconds = time.monotonic() - started
        tally = ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in ("accepted", "refused", "failed"))
        print(f"{name:<12} {sum(counts.values()):,} inputs: {tally}; {seconds:.0f} s, {grown / 2**20:.0f} MiB more")
    print(f"{failed} inputs break a promise, kept in {KEPT}" if failed else "every promise held")
    return 1 if failed else 0


def attack(place: str, name: str, seed: int, numbers: range, workers: int) -> tuple[Counter[str], int]:
    """Sends inputs to a target.

    Args:
        place: module:class of the target.
        name: of the target, for people.
        seed: of all inputs.
        numbers: of the inputs.
        workers: processes.

    Returns:
        How many inputs had each outcome, and by how many bytes the memory of a process has grown at most.
    """
    counts: Counter[str] = Counter()
    bar = tqdm(total=len(numbers), desc=name, unit="input", disable=None)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool, bar:

        def share(worker: int) -> int:
            grown = 0
            target_folder = Path(folder) / str(worker) / name
            for number, outcome, why in outcomes(place, target_folder, seed, numbers[worker::workers]):
                if outcome == "grown":
                    grown = max(grown, int(why))
                    continue
                counts[outcome] += 1
                bar.update()
                if outcome == "failed":
                    kept = keep(target_folder, f"{name}-{seed}-{number}", why)
                    tqdm.write(f"{name} input {number}, kept in {kept}: {why.strip().splitlines()[-1][:300]}")
                    if counts["failed"] >= ENOUGH:
                        break
            return grown

        return counts, max(pool.map(share, range(workers)))


def outcomes(place: str, folder: Path, seed: int, numbers: range) -> Iterator[tuple[int, str, str]]:
    """Each input's number, outcome and what is wrong, from a process that is started again when it ends too early."""
    context = multiprocessing.get_context("spawn")
    left = numbers
    while left:
        folder.mkdir(parents=True, exist_ok=True)
        mine, its = context.Pipe()
        process = context.Process(target=work, args=(place, folder, seed, left, its), daemon=True)
        process.start()
        its.close()
        begun = False
        try:
            for number, outcome, why in messages(mine, begun):
                if outcome == "grown":
                    yield number, outcome, why
                    left = range(0)
                    process.join(GRACE)
                    break
                begun = True
                at = number
                if outcome != "begun":
                    yield number, outcome, why
                    left = left[1:]
                    if outcome == "failed":
                        mine.send("go on")
            else:
                process.join(1)
                hangs = process.is_alive()
                process.kill()
                process.join()
                if not begun:
                    raise RuntimeError(f"{place} does not start: {errors(folder)}")
                ended = "hangs" if hangs else f"the process ended with status {process.exitcode}"
                yield at, "failed", f"{errors(folder)}\n{ended}"
                left = left[1:]
        finally:
            process.kill()
            process.join()
            mine.close()


def messages(pipe: Connection, begun: bool) -> Iterator[tuple[int, str, str]]:
    """What the process sends, until it is silent for too long or gone."""
    while True:
        try:
            if not pipe.poll(SECONDS + GRACE if begun else SECONDS * WARM):
                return
            message = pipe.recv()
        except (EOFError, OSError):
            return
        begun = True
        yield message


def errors(folder: Path) -> str:
    """The last of what the process wrote to its error stream."""
    path = folder.parent / f"{folder.name}.errors"
    return path.read_text(errors="replace")[-2_000:] if path.exists() else ""


def keep(folder: Path, name: str, why: str) -> Path:
    """A copy of an input, and what was wrong."""
    kept = KEPT / name
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    (kept / "why.txt").write_text(why, errors="backslashreplace")
    for path in sorted(folder.rglob("*")):
        place = kept / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            place.symlink_to(os.readlink(path))
        elif path.is_file():
            shutil.copyfile(path, place)
    return kept


if __name__ == "__main__":
    sys.exit(main())
