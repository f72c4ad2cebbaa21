"""What worse signals cost, in words and in a picture."""

from __future__ import annotations

import pandas as pd

from exvo.evaluation.robustness import CLEAN
from exvo.reports.names import score_name
from exvo.reports.page import BLUE, ORANGE, WIDE, Page, Picture, Section, axes, make_picture
from exvo.reports.tables import Column, interval_texts, number_texts


def robustness_verdict(table: pd.DataFrame) -> str:
    """What the clean clips reach, and which signals cost most and least, in a sentence.

    Args:
        table: as `robustness_table` gives it.
    """
    clean, worse = table.iloc[0], table[table["signal"] != CLEAN].dropna(subset="value")
    ranked = worse.sort_values("value", kind="stable")
    name = score_name(str(clean["metric"]))
    shown = [f"{row['value']:.3f} with {row['signal']}" for row in ranked.to_dict("records")]
    return f"{name} is {clean['value']:.3f} on clean clips; on worse ones at worst {shown[0]}, at best {shown[-1]}."


def robustness_columns(table: pd.DataFrame) -> list[Column]:
    """The table as text: scores and differences to clean, each with its interval, and the calibration error."""
    clean = table["signal"] == CLEAN
    bounds = interval_texts(table["difference_lo"], table["difference_hi"], 3)
    texts = [f"{value:+.3f} {interval}" for value, interval in zip(table["difference"], bounds, strict=True)]
    columns = [
        Column("signal", table["signal"].tolist()),
        Column(score_name(str(table["metric"].iloc[0])), number_texts(table["value"], 3)),
        Column("95%", interval_texts(table["lo"], table["hi"], 3)),
        Column("over clean", ["" if itself else text for itself, text in zip(clean, texts, strict=True)]),
    ]
    if table["ece"].notna().any():
        columns.append(Column("calibration error", number_texts(table["ece"], 3)))
    return columns


def robustness_picture(table: pd.DataFrame) -> Picture:
    """A point a signal, with its interval; the dashed line is the clean clips'."""
    metric = score_name(str(table["metric"].iloc[0]))
    rows = table.iloc[::-1]
    with axes(WIDE, 0.28 * len(rows) + 0.7) as ax:
        places = range(len(rows))
        colours = [ORANGE if name == CLEAN else BLUE for name in rows["signal"]]
        ax.hlines(places, rows["lo"], rows["hi"], colors=colours, lw=2)
        ax.scatter(rows["value"], places, color=colours, zorder=3)
        ax.axvline(float(table["value"].iloc[0]), color=ORANGE, lw=1, ls="--")
        ax.set_yticks(places, rows["signal"].tolist())
        ax.set(xlabel=metric)
        ax.grid(axis="x")
    return make_picture("robustness", f"{metric} of the same clips, clean and made worse; lines are 95% intervals", ax)


def robustness_page(table: pd.DataFrame, title: str, about: str) -> Page:
    """The page: the verdict, the picture, the table.

    Args:
        table: as `robustness_table` gives it.
        title: of the page.
        about: the line under it.
    """
    text = [
        "Every clip was made worse, those that enrol too, before its features were computed. Noise and babble (five "
        "training clips at once) are so many dB below the clip; the telephone band is 300 to 3,400 Hz; clipping cuts "
        "off the loudest 12 dB; the room takes half a second to fall silent, its echoes as strong as the direct sound."
    ]
    section = Section(
        "Worse signals",
        text,
        pictures=[robustness_picture(table)],
        table=robustness_columns(table),
        numbers=table,
    )
    return Page(title, [about], [], [section], robustness_verdict(table))
