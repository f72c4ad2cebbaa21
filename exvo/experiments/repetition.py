"""Whether a repeated training run gave the same as the first, and by how much the two differ if not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from torch import Tensor

Numbers = Mapping[Any, float]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a training run gave.

    Attributes:
        weights: of the best epoch, by name.
        epochs: one row an epoch, in the index, and a column a metric.
        metrics: of the best epoch: `<split>/<metric>`, and best_epoch.
        predictions: the predictions table of each split that the run has scored.
    """

    weights: Mapping[str, Tensor]
    epochs: pd.DataFrame
    metrics: Mapping[str, float]
    predictions: Mapping[str, pd.DataFrame]


class Row(NamedTuple):
    """One part of two outcomes side by side.

    Attributes:
        what: the part's name.
        run: the part of the run, as text.
        repetition: the part of its repetition, as text.
        difference: the largest magnitude of a difference between their numbers; 0 where all are equal, infinite where
            one of the two lacks a number that the other has.
    """

    what: str
    run: str
    repetition: str
    difference: float


def compare_outcomes(first: Outcome, repeated: Outcome, headline: str) -> pd.DataFrame:
    """Two outcomes side by side, bit for bit: nothing is rounded, an undefined number equals an undefined one.

    The seconds that an epoch took are not compared.

    Args:
        first: of the run.
        repeated: of its repetition.
        headline: the main score, which has a row of its own.

    Returns:
        The columns of `Row`.
    """
    rows = [_weights(first, repeated)]
    rows.append(_numbers("best epoch", _part(first, "best_epoch"), _part(repeated, "best_epoch")))
    for name in _union(first.epochs.columns, repeated.epochs.columns):
        if not name.endswith("seconds"):
            each = [run.epochs[name].to_dict() if name in run.epochs else {} for run in (first, repeated)]
            rows.append(_numbers(f"{name} of every epoch (last)", *each))
    for split in _union(first.predictions, repeated.predictions):
        main = f"{split}/{headline}"
        rows.append(_numbers(main, _part(first, main), _part(repeated, main)))
        mine, other = _part(first, f"{split}/"), _part(repeated, f"{split}/")
        rows.append(Row(f"all {split} scores", f"{len(mine)}", f"{len(other)}", gap(mine, other)))
        rows.append(_predictions(split, first, repeated))
    return pd.DataFrame(rows)


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of weights: names, types, shapes and bits."""
    total = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        values = tensor.detach().cpu().contiguous().numpy()
        total.update(f"{name} {values.dtype} {values.shape}".encode())
        total.update(values.tobytes())
    return total.hexdigest()


def gap(first: Numbers, repeated: Numbers) -> float:
    """The largest magnitude between numbers of the same name; infinite where only one of the two has or defines it.

    >>> gap({"a": 1.0, "b": math.nan}, {"a": 1.25, "b": math.nan}), gap({"a": 1.0}, {"a": math.nan})
    (0.25, inf)
    """
    if first.keys() != repeated.keys():
        return math.inf
    pairs = [(first[name], repeated[name]) for name in first]
    gaps = [abs(a - b) for a, b in pairs if a != b and not (math.isnan(a) and math.isnan(b))]
    return math.inf if any(map(math.isnan, gaps)) else max(gaps, default=0.0)


def changes(first: Mapping[str, Any], repeated: Mapping[str, Any]) -> pd.DataFrame:
    """What differs between two environments, as `artifacts.load_environment` gives them, the memory left out.

    Returns:
        what, run and repetition, as text; 'not logged' where one of the two lacks it.
    """
    old, new = _flat(first), _flat(repeated)
    rows = [(name, old.get(name, "not logged"), new.get(name, "not logged")) for name in _union(new, old)]
    return pd.DataFrame([row for row in rows if row[1] != row[2]], columns=["what", "run", "repetition"])


def outcome_text(compared: pd.DataFrame, changed: pd.DataFrame) -> str:
    """What a person reads in the terminal: the table of `compare`, whether all is equal, and that of `changes`."""
    results = [
        "equal" if gap == 0 else "differs" if math.isinf(gap) else f"differs by up to {gap:.2g}"
        for gap in compared["difference"]
    ]
    table = compared[["what", "run", "repetition"]].assign(result=results)
    differing = int((compared["difference"] != 0).sum())
    verdict = f"Not equal: {differing} of these {len(compared)} lines differ." if differing else "Equal, bit for bit."
    lines = [_aligned(table), "", verdict]
    if len(changed):
        lines += ["What differs between the machines, libraries and code of the two:", _aligned(changed)]
    elif differing:
        lines.append("Nothing that is logged of machine, libraries and code differs.")
    return "\n".join(lines)


def _aligned(table: pd.DataFrame) -> str:
    rows = [["", *table.columns[1:]], *(list(map(str, row)) for row in table.itertuples(index=False))]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    parts = {name: value for name, value in environment.items() if name not in ("memory_gib", "libraries")}
    parts |= environment.get("libraries", {})
    return {name: ", ".join(map(str, part)) if isinstance(part, list) else str(part) for name, part in parts.items()}


def _union(first: Iterable[str], repeated: Iterable[str]) -> list[str]:
    """The keys of both, each once, in order."""
    return list(dict.fromkeys([*first, *repeated]))


def _part(outcome: Outcome, name: str) -> dict[str, float]:
    """The metric of that name; where the name ends with a slash, all metrics whose names begin with it."""
    return {
        metric: value
        for metric, value in outcome.metrics.items()
        if (metric.startswith(name) if name.endswith("/") else metric == name)
    }


def _numbers(what: str, first: Numbers, repeated: Numbers) -> Row:
    """A row that shows the last of the numbers."""
    mine, other = (f"{list(numbers.values())[-1]:.6g}" if numbers else "none" for numbers in (first, repeated))
    return Row(what, mine, other, gap(first, repeated))


def _weights(first: Outcome, repeated: Outcome) -> Row:
    mine, other = digest(first.weights), digest(repeated.weights)
    difference = 0.0 if mine == other else math.inf
    shapes = [{name: tensor.shape for name, tensor in one.weights.items()} for one in (first, repeated)]
    if difference and shapes[0] == shapes[1]:
        gaps = [(first.weights[name].double() - repeated.weights[name].double()).abs().max() for name in shapes[0]]
        difference = float(max(gaps)) or math.inf
    return Row("weights, SHA-256", mine[:12], other[:12], difference)


def _predictions(split: str, first: Outcome, repeated: Outcome) -> Row:
    tables = [outcome.predictions.get(split, pd.DataFrame()) for outcome in (first, repeated)]
    counts = [f"{len(table)} clips" for table in tables]
    numbers = [table.select_dtypes("number") for table in tables]
    texts = [table.drop(columns=part.columns) for table, part in zip(tables, numbers, strict=True)]
    difference = math.inf
    if texts[0].equals(texts[1]):
        difference = max(
            (gap(numbers[0][name].to_dict(), numbers[1][name].to_dict()) for name in numbers[0] if name in numbers[1]),
            default=math.inf,
        )
        difference = difference if list(numbers[0]) == list(numbers[1]) else math.inf
    return Row(f"{split} predictions", counts[0], counts[1], difference)
