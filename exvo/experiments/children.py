"""What the runs beneath a command's run have given, kept until all are done: folds, or seeds."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from exvo.files import write_atomically
from exvo.tracking import lookup


@dataclass(frozen=True, eq=False)
class Child:
    """A run beneath the command's, whose model is trained and whose clips are predicted.

    Attributes:
        run_id: of the run.
        run: its name.
        best_epoch: of its training.
        predictions: tables by name: of a fold those that `prediction.predictions_of` gives, of a seed one a split.
    """

    run_id: str
    run: str
    best_epoch: int
    predictions: Mapping[str, pd.DataFrame]


def write_child(folder: Path, number: int, child: Child) -> None:
    """Keeps what a child gave until all are done.

    Args:
        folder: of the children, in that of the command's run.
        number: of the fold, or the seed.
        child: what it gave.
    """
    table, file = pd.concat(child.predictions, names=["table"]).reset_index(level=0), io.BytesIO()
    table.to_parquet(file, index=False)
    write_atomically(folder / f"{number}.parquet", file.getvalue())
    about = {"run_id": child.run_id, "run": child.run, "best_epoch": child.best_epoch}
    write_atomically(folder / f"{number}.json", json.dumps(about).encode())


def read_child(folder: Path, number: int) -> Child | None:
    """What `write_child` has kept; None where the child is not done, or its run is gone."""
    try:
        about: dict[str, Any] = json.loads((folder / f"{number}.json").read_text(encoding="utf-8"))
        table = pd.read_parquet(folder / f"{number}.parquet")
    except (OSError, ValueError):
        return None
    if not lookup.run_exists(about["run_id"]):
        return None
    tables = {str(name): rows.drop(columns="table") for name, rows in table.groupby("table", sort=False)}
    return Child(**about, predictions={name: rows.reset_index(drop=True) for name, rows in tables.items()})
