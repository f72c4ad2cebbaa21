"""Whether a repeated training run gave what the first one gave, and by how much they differ if not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
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
    """A thing of two outcomes: as text, and the largest magnitude between two numbers of it.

    `difference` is 0 where all is equal and infinite where one of the two lacks a number that the other has.
    """

    what: str
    run: str
    repetition: str
    difference: float


def compare(first: Outcome, again: Outcome, headline: str) -> pd.DataFrame:
    """Two outcomes side by side, bit for bit: nothing is rounded, an undefined number equals an undefined one.

    The seconds that an epoch took are not compared.

    Args:
        first: of the run.
        again: of its repetition.
        headline: the main score, which has a row of its own.

    Returns:
        The columns of `Row`.
    """
    rows = [_weights(first, again)]
    rows.append(_numbers("best epoch", _part(first, "best_epoch"), _part(again, "best_epoch")))
    for name in _union(first.epochs, again.epochs):
        if name != "seconds":
            each = [outcome.epochs[name].to_dict() if name in outcome.epochs else {} for outcome in (first, again)]
            rows.append(_numbers(f"{name} of every epoch (last)", each[0], each[1]))
    for split in _union(first.predictions, again.predictions):
        main = f"{split}/{headline}"
        rows.append(_numbers(main, _part(first, main), _part(again, main)))
        mine, other = _part(first, f"{split}/"), _part(again, f"{split}/")
        rows.append(Row(f"all {split} scores", f"{len(mine)}", f"{len(other)}", gap(mine, other)))
        rows.append(_predictions(split, first, again))
    return pd.DataFrame(rows)


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of weights: names, types, shapes and bits."""
    total = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        values = tensor.detach().cpu().contiguous().numpy()
        total.update(f"{name} {values.dtype} {values.shape}".encode())
        total.update(values.tobytes())
    return total.hexdigest()


def gap(first: Numbers, again: Numbers) -> float:
    """The largest magnitude between numbers of the same name; infinite where only one of the two has or defines it.

    >>> gap({"a": 1.0, "b": math.nan}, {"a": 1.25, "b": math.nan}), gap({"a": 1.0}, {"a": math.nan})
    (0.25, inf)
    """
    if first.keys() != again.keys():
        return math.inf
    pairs = [(first[name], again[name]) for name in first]
    gaps = [abs(a - b) for a, b in pairs if a != b and not (math.isnan(a) and math.isnan(b))]
    return math.inf if any(map(math.isnan, gaps)) else max(gaps, default=0.0)


def changes(first: Mapping[str, Any], now: Mapping[str, Any]) -> pd.DataFrame:
    """What differs between two environments, as `artifacts.load_environment` gives them, the memory left out.

    Returns:
        what, run and repetition, as text; 'not logged' where one of the two lacks it.
    """
    old, new = _flat(first), _flat(now)
    rows = [(name, old.get(name, "not logged"), new.get(name, "not logged")) for name in _union(new, old)]
    return pd.DataFrame([row for row in rows if row[1] != row[2]], columns=["what", "run", "repetition"])


def text(found: pd.DataFrame, changed: pd.DataFrame) -> str:
    """What a person reads in the terminal: the table of `compare`, whether all is equal, and what `changes` found."""
    results = [
        "equal" if gap == 0 else "differs" if math.isinf(gap) else f"differs by up to {gap:.2g}"
        for gap in found["difference"]
    ]
    shown = found[["what", "run", "repetition"]].assign(result=results)
    differing = int((found["difference"] != 0).sum())
    verdict = f"Not equal: {differing} of these {len(found)} lines differ." if differing else "Equal, bit for bit."
    lines = [_aligned(shown), "", verdict]
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
    return {name: ", ".join(map(str, one)) if isinstance(one, list) else str(one) for name, one in parts.items()}


def _union(first: Any, again: Any) -> list[str]:
    """The keys of both, each once, in order."""
    return list(dict.fromkeys([*first, *again]))


def _part(outcome: Outcome, beginning: str) -> dict[str, float]:
    """The metrics whose name is, or begins with, that."""
    whole = beginning.endswith("/")
    return {
        name: value
        for name, value in outcome.metrics.items()
        if (name.startswith(beginning) if whole else name == beginning)
    }


def _numbers(what: str, first: Numbers, again: Numbers) -> Row:
    """A row that shows the last of the numbers."""
    shown = [f"{list(one.values())[-1]:.6g}" if one else "none" for one in (first, again)]
    return Row(what, shown[0], shown[1], gap(first, again))


def _weights(first: Outcome, again: Outcome) -> Row:
    mine, other = digest(first.weights), digest(again.weights)
    difference = 0.0 if mine == other else math.inf
    shapes = [{name: tensor.shape for name, tensor in one.weights.items()} for one in (first, again)]
    if difference and shapes[0] == shapes[1]:
        gaps = [(first.weights[name].double() - again.weights[name].double()).abs().max() for name in shapes[0]]
        difference = float(max(gaps)) or math.inf
    return Row("weights, SHA-256", mine[:12], other[:12], difference)


def _predictions(split: str, first: Outcome, again: Outcome) -> Row:
    tables = [outcome.predictions.get(split, pd.DataFrame()) for outcome in (first, again)]
    shown = [f"{len(table)} clips" for table in tables]
    numbers = [table.select_dtypes("number") for table in tables]
    texts = [table.drop(columns=part.columns) for table, part in zip(tables, numbers, strict=True)]
    difference = math.inf
    if texts[0].equals(texts[1]):
        difference = max(
            (gap(numbers[0][name].to_dict(), numbers[1][name].to_dict()) for name in numbers[0] if name in numbers[1]),
            default=math.inf,
        )
        difference = difference if list(numbers[0]) == list(numbers[1]) else math.inf
    return Row(f"{split} predictions", shown[0], shown[1], difference)
