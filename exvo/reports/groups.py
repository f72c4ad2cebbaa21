"""The sections of a report on countries and speakers: whom the system serves worst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from exvo.evaluation.bootstrap import Statistics
from exvo.evaluation.groups import (
    FEWEST_LOWEST,
    MIN_CLIPS,
    Chance,
    group_scores,
    lowest_decile_by_chance,
    with_intervals,
)
from exvo.evaluation.scoring import lowest_speakers
from exvo.reports import pictures
from exvo.reports.names import score_name
from exvo.reports.page import Section
from exvo.reports.tables import Column, score_columns
from exvo.text import listing

WORST = 10
"""Speakers with the lowest score that are named."""


def groups_section(
    rows: pd.DataFrame, clips: Statistics, metric: str, speakers: npt.NDArray[np.str_] | None, group: str, title: str
) -> Section | None:
    """The CCC, or the UAR of categories (`scoring.group_metric`), within each country, or each of several tables.

    Args:
        rows: the scored rows of a predictions table.
        clips: their statistics.
        metric: the score.
        speakers: (clips,); None: they are not known.
        group: the column of the rows, country or corpus; where it is not there or empty, there is no section.
        title: of the section.
    """
    score = score_name(metric)
    if group not in rows or (rows[group] == "").all():
        return None
    groups = rows[group].astype(str).replace("", "unknown")
    table = with_intervals(group_scores(clips, groups, metric), clips, groups, metric, speakers)
    table = table.rename_axis(group).reset_index()
    small = table["n"] < MIN_CLIPS
    scored = table[~small].reset_index(drop=True)
    columns = score_columns(scored, group, group)
    if speakers is not None:
        columns.append(Column("speakers", [f"{count:,}" for count in scored["speakers"]]))
    caption = f"{score} within each {group}, with 95% intervals"
    bars = [pictures.bars(title.lower(), caption, scored[group], scored, score)]
    return Section(
        title,
        too_small(table[small], group),
        pictures=bars if len(scored) else [],
        table=columns,
        numbers=table,
    )


def too_small(table: pd.DataFrame, group: str) -> list[str]:
    """A sentence that names the groups with too few clips to be scored."""
    if table.empty:
        return []
    names = listing(f"{name} ({n})" for name, n in zip(table[group], table["n"], strict=True))
    return [f"Not scored, because there are fewer than {MIN_CLIPS} scored clips (their number in brackets): {names}."]


def speakers_section(
    clips: Statistics, scores: pd.DataFrame, metric: str, speakers: npt.NDArray[np.str_] | None
) -> Section | None:
    """The distribution of the CCC, or the UAR (`scoring.group_metric`), over speakers, and the worst of them.

    Where the lowest tenth would be one or two people (`FEWEST_LOWEST`) there is no distribution; None: fewer than two
    speakers can be scored, or some are not known.
    """
    title = score_name(metric)
    if speakers is None:
        return None
    table = group_scores(clips, speakers, metric).rename_axis("speaker")
    small = table["n"] < MIN_CLIPS
    scored = table[~small & table["value"].notna()]
    text = too_small(table[small].reset_index(), "speaker")
    undefined = table.index[~small & table["value"].isna()]
    if len(undefined):
        text.append(f"With enough clips, but an undefined {title}: {listing(undefined)}.")
    if len(scored) < 2:
        return None
    histograms = []
    decile = scores[scores["metric"] == lowest_speakers(metric)].iloc[0]
    if decile["n"] >= FEWEST_LOWEST:
        chance = lowest_decile_by_chance(clips, speakers, metric)
        text.insert(0, decile_sentence(decile, title, len(scored), chance))
        caption = f"{title} of {len(scored):,} speakers; the line is the mean of the lowest tenth"
        histograms = [pictures.histogram("speakers", caption, scored["value"], decile["value"], title)]
    worst = with_intervals(scored.head(WORST), clips, speakers, metric).reset_index()
    which = f"The {len(worst)} with the lowest {title}" if len(worst) < len(scored) else f"All {len(scored)} speakers"
    return Section(
        "Speakers",
        [*text, f"{which}, each with an interval over the speaker's own clips:"],
        pictures=histograms,
        table=score_columns(worst, "speaker", "speaker"),
        numbers=table.reset_index(),
    )


def decile_sentence(decile: Mapping[str, Any] | pd.Series[Any], title: str, speakers: int, chance: Chance) -> str:
    """What the lowest tenth of the speakers gets, and whether chance explains it.

    Args:
        decile: the row of a score table.
        title: of the score, CCC or UAR.
        speakers: that are scored.
        chance: what the decile would be by chance.
    """
    value, low, high = (decile[name] for name in ("value", "lo_by_speaker", "hi_by_speaker"))
    begin = (
        f"The lowest tenth of the speakers ({decile['n']} of {speakers:,}) has a mean {title} of {value:.3f} "
        f"[{low:.3f}, {high:.3f}]. Were the clips dealt to the speakers at random, it would be {chance.mean:.3f} "
        f"[{chance.low:.3f}, {chance.high:.3f}]: "
    )
    if value < chance.low:
        return begin + "some people are served worse than chance explains."
    return begin + "no more than chance explains."
