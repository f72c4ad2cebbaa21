"""The page of a transfer: how well a model of each table does on each, and a model of all but one on that one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

from exvo.corpora.joined import ALL_BUT
from exvo.evaluation.groups import SPEAKER, UNITS
from exvo.evaluation.scoring import FEW_SPEAKERS, few_speakers
from exvo.reports.names import score_name
from exvo.reports.page import BLUE, INK, WIDE, Page, Picture, Section, axes, make_picture
from exvo.reports.sentences import few_speakers_sentence
from exvo.reports.tables import Column, columns_of

CELL_INCHES = 1.15

THE_OTHERS = "all but that one"
"""The last row of the square: the model of each column has learnt from all tables but the column's."""


def transfer_verdict(table: pd.DataFrame, metric: str, model: str) -> str:
    """How well models do on their own table, on another one, and on one that was left out, in a sentence or two.

    Scores over different categories have different chances, so it is said how far they are on the way from chance to
    perfect, as a mean.

    Args:
        table: as `transfer_page` takes it.
        metric: the headline score.
        model: the system.
    """
    rows = table.dropna(subset="value")
    rows = rows.assign(way=(rows["value"] - rows["chance"]) / (1 - rows["chance"]))
    own, left_out = rows["trained_on"] == rows["tested_on"], rows["trained_on"].str.startswith(ALL_BUT)
    kinds = {
        "on the table that it has learnt from": rows[own],
        "on another table": rows[~own & ~left_out],
        "on a table that was left out, after learning from all others": rows[left_out],
    }
    said = [f"{part['way'].mean():.0%} {words} (mean of {len(part)})" for words, part in kinds.items() if len(part)]
    if not said:
        return f"Nothing of {model} could be scored."
    first, *others = said
    share, _, where = first.partition(" ")
    whole = f"{share} of the way from chance to perfect {score_name(metric)} {where}"
    sentence = f"{model} goes {', '.join([whole, *others])}."
    strangers = rows[~own]
    if strangers.empty:
        return sentence
    better = sum(interval_of(row)[0] > row["chance"] for row in strangers.to_dict("records"))
    fewest = min((count for count in strangers["speakers"] if count), default=FEW_SPEAKERS)
    doubt = f" {few_speakers_sentence(fewest)}" if few_speakers(fewest) else ""
    return (
        f"{sentence} {better} of {len(strangers)} scores on tables that were not learnt from are better than chance by "
        f"their 95% interval.{doubt}"
    )


def transfer_text(table: pd.DataFrame, metric: str) -> str:
    """A transfer for a terminal: a row a model, a column a table that it was tested on."""
    texts = table.assign(text=[cell_text(row, " ") for row in table.to_dict("records")])
    grid = _grid(texts, "text")
    return f"{score_name(metric)} of the model of each row on the table of each column\n{grid.to_string()}"


def transfer_page(table: pd.DataFrame, metric: str, model: str) -> Page:
    """The page of a transfer.

    Args:
        table: a row for each model and each table that it was tested on: trained_on, tested_on, value, `groups.ENDS`,
            n, speakers, in_common, left_out, chance, why_not.
        metric: the headline score.
        model: the system.
    """
    title = score_name(metric)
    names = list(dict.fromkeys(table["tested_on"]))
    rows = [
        (
            row["trained_on"],
            row["tested_on"],
            cell_text(row, " "),
            _number(row["chance"]),
            f"{row['in_common']}",
            f"{row['n']:,}",
            f"{row['speakers'] or 'unknown'}",
            f"{row['left_out']:,}",
        )
        for row in table.to_dict("records")
    ]
    columns: list[Column] = columns_of(
        ["trained on", "tested on", f"{title}, 95%", "chance", "in common", "n", "speakers", "clips left out"], rows
    )
    text = [
        "Each model is tested on the test split of each table, over the categories or intensities that both have: "
        "shares are scaled to sum to 1 over these, and chance is over them, so cells with other numbers in common "
        f"don't compare. Brackets are 95% intervals by {SPEAKER.name}, by clip where speakers are not known."
    ]
    if table["trained_on"].str.startswith(ALL_BUT).any():
        text.append(f"In the row '{THE_OTHERS}' the model of each column has learnt from all tables but this one.")
    said = [f"{row['trained_on']} on {row['tested_on']}: {row['why_not']}" for row in table.to_dict("records")
            if row["why_not"]]  # fmt: skip
    section = Section("Trained on, tested on", text, said, [heat_map(table, title)], columns, numbers=table)
    about = [f"tables {', '.join(names)}"]
    lead = transfer_verdict(table, metric, model)
    return Page(f"{model}, trained and tested on {len(names)} tables", about, [], [section], lead)


def heat_map(table: pd.DataFrame, title: str) -> Picture:
    """The scores as squares, the darker the further above chance; each holds its interval."""
    above = (table["value"] - table["chance"]) / (1 - table["chance"])
    grid = _grid(table.assign(above=above.clip(0, 1).fillna(0.0)), "above")
    names, models, strength = grid.columns.tolist(), grid.index.tolist(), grid.to_numpy(float)
    colours = np.zeros((*strength.shape, 4))
    colours[..., :3], colours[..., 3] = to_rgb(BLUE), 0.75 * strength
    size = max(WIDE, 1.2 + CELL_INCHES * len(names))
    with axes(size, 0.6 + 0.6 * CELL_INCHES * len(models)) as ax:
        ax.imshow(colours, interpolation="nearest", aspect="auto")
        for row in table.to_dict("records"):
            place = names.index(row["tested_on"]), models.index(_row_name(row["trained_on"]))
            ax.text(*place, cell_text(row, "\n"), ha="center", va="center", fontsize=8, color=INK)
        ax.set_xticks(range(len(names)), names)
        ax.set_yticks(range(len(models)), models)
        ax.tick_params(length=0)
        ax.set(xlabel="tested on", ylabel="trained on")
        ax.spines[:].set_visible(False)
    return make_picture("transfer", f"{title} with 95% intervals; the darker, the further above chance", ax)


def cell_text(row: Mapping[Any, Any], between: str) -> str:
    """A score with its interval by speaker, by clip where that is undefined."""
    if math.isnan(row["value"]):
        return "undefined" if not row["why_not"] else "not scored"
    low, high = interval_of(row)
    return f"{row['value']:.3f}" if math.isnan(low) else f"{row['value']:.3f}{between}[{low:.3f}, {high:.3f}]"


def interval_of(row: Mapping[Any, Any]) -> tuple[float, float]:
    """The 95% interval of a score by speaker, by clip where that is undefined; NaN where both are."""
    bounds = [(float(row[f"lo{unit.suffix}"]), float(row[f"hi{unit.suffix}"])) for unit in reversed(UNITS)]
    return next((pair for pair in bounds if not math.isnan(pair[0])), bounds[-1])


def _grid(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of the table as (trained on, tested on), in the order of the table; models of all but one in a row."""
    table = table.assign(trained_on=table["trained_on"].map(_row_name))
    names, models = (list(dict.fromkeys(table[name])) for name in ("tested_on", "trained_on"))
    grid = table.pivot(index="trained_on", columns="tested_on", values=column)
    return grid.reindex(models)[names].rename_axis(index=None, columns=None)


def _row_name(trained_on: str) -> str:
    return THE_OTHERS if trained_on.startswith(ALL_BUT) else trained_on


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
