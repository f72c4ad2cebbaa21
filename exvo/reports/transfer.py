"""The page of a transfer: how well a model of each table does on each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

from exvo.evaluation.groups import SPEAKER, UNITS
from exvo.reports.names import score_name
from exvo.reports.page import BLUE, INK, WIDE, Page, Picture, Section, axes, make_picture
from exvo.reports.tables import Column, columns_of

CELL_INCHES = 1.15


def transfer_text(table: pd.DataFrame, metric: str) -> str:
    """A transfer for a terminal: a row a model, a column a table that it was tested on."""
    texts = table.assign(text=[cell_text(row, " ") for row in table.to_dict("records")])
    grid = _grid(texts, "text")
    return f"{score_name(metric)} of the model of each row on the table of each column\n{grid.to_string()}"


def transfer_page(table: pd.DataFrame, metric: str, model: str) -> Page:
    """The page of a transfer.

    Args:
        table: a row for each model and each table that it was tested on: trained_on, tested_on, value, `groups.ENDS`,
            n, in_common, left_out, chance, why_not.
        metric: the headline score.
        model: the system.
    """
    title = score_name(metric)
    names = list(dict.fromkeys(table["trained_on"]))
    rows = [
        (
            row["trained_on"],
            row["tested_on"],
            cell_text(row, " "),
            _number(row["chance"]),
            f"{row['in_common']}",
            f"{row['n']:,}",
            f"{row['left_out']:,}",
        )
        for row in table.to_dict("records")
    ]
    columns: list[Column] = columns_of(
        ["trained on", "tested on", f"{title}, 95%", "chance", "in common", "n", "clips left out"], rows
    )
    text = [
        "Each model is tested on the test split of each table, over the categories or intensities that both have: "
        "shares are scaled to sum to 1 over these, and chance is over them, so cells with other numbers in common "
        f"don't compare. Brackets are 95% intervals by {SPEAKER.name}, by clip where speakers are not known."
    ]
    said = [f"{row['trained_on']} on {row['tested_on']}: {row['why_not']}" for row in table.to_dict("records")
            if row["why_not"]]  # fmt: skip
    section = Section("Trained on, tested on", text, said, [heat_map(table, title)], columns, numbers=table)
    return Page(f"{model}, trained and tested on {len(names)} tables", [f"tables {', '.join(names)}"], [], [section])


def heat_map(table: pd.DataFrame, title: str) -> Picture:
    """The scores as squares, the darker the further above chance; each holds its interval."""
    names = list(dict.fromkeys(table["trained_on"]))
    above = (table["value"] - table["chance"]) / (1 - table["chance"])
    strength = _grid(table.assign(above=above.clip(0, 1).fillna(0.0)), "above").to_numpy(float)
    colours = np.zeros((*strength.shape, 4))
    colours[..., :3], colours[..., 3] = to_rgb(BLUE), 0.75 * strength
    size = max(WIDE, 1.2 + CELL_INCHES * len(names))
    with axes(size, 0.6 + 0.6 * CELL_INCHES * len(names)) as ax:
        ax.imshow(colours, interpolation="nearest", aspect="auto")
        for row in table.to_dict("records"):
            place = names.index(row["tested_on"]), names.index(row["trained_on"])
            ax.text(*place, cell_text(row, "\n"), ha="center", va="center", fontsize=8, color=INK)
        ax.set_xticks(range(len(names)), names)
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(length=0)
        ax.set(xlabel="tested on", ylabel="trained on")
        ax.spines[:].set_visible(False)
    return make_picture("transfer", f"{title} with 95% intervals; the darker, the further above chance", ax)


def cell_text(row: Mapping[Any, Any], between: str) -> str:
    """A score with its interval by speaker, by clip where that is undefined."""
    if math.isnan(row["value"]):
        return "undefined" if not row["why_not"] else "not scored"
    for unit in reversed(UNITS):
        low, high = row[f"lo{unit.suffix}"], row[f"hi{unit.suffix}"]
        if not math.isnan(low):
            return f"{row['value']:.3f}{between}[{low:.3f}, {high:.3f}]"
    return f"{row['value']:.3f}"


def _grid(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of the table as a square, (trained on, tested on), in the order of the table."""
    names = list(dict.fromkeys(table["trained_on"]))
    grid = table.pivot(index="trained_on", columns="tested_on", values=column)
    return grid.reindex(names)[names].rename_axis(index=None, columns=None)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
