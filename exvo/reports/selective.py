"""The section of a report on answering only where the model is sure: coverage against accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from exvo.evaluation.bootstrap import bootstrap, interval, mae_statistics
from exvo.evaluation.calibration import has_shares, shares_of
from exvo.evaluation.groups import CLIP, SPEAKER
from exvo.evaluation.scoring import UAR, headline
from exvo.evaluation.selective import AURC, accuracy_coverage, lowest_aurc
from exvo.reports.page import BLUE, INK, WIDE, Picture, Section, axes, make_picture
from exvo.reports.tables import columns_of, interval_texts, number_texts
from exvo.tasks import Level, Task

TITLE = "Only where it is sure"

WISHED = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Accuracies that the table shows, where they lie between that of all answers and the highest reached."""

MOST_POINTS = 400
"""Of the curve."""


def selective_section(
    rows: pd.DataFrame,
    task: Task,
    scores: pd.DataFrame,
    levels: Sequence[Level],
    speakers: npt.NDArray[np.str_] | None,
    chosen_here: bool,
) -> Section | None:
    """How often the model is right if it answers only where its first category has a large share.

    None: there are no categories, or the predictions are no shares that sum to 1.

    Args:
        rows: the scored rows of a predictions table.
        task: which columns it has.
        scores: of these, from `scoring.score`.
        levels: that were chosen on validation; empty: none.
        speakers: (clips,), to resample; None resamples clips.
        chosen_here: whether these are the very clips on which the levels were chosen.
    """
    if headline(task) != UAR or not has_shares(rows, task.targets):
        return None
    clips, unit = shares_of(rows, task.targets), CLIP if speakers is None else SPEAKER
    curve = accuracy_coverage(clips["confidence"], clips["correct"])
    row = scores[scores["metric"] == AURC]
    bounds = interval_texts(row[f"lo{unit.suffix}"], row[f"hi{unit.suffix}"], 3)[0]
    correct = clips["correct"].to_numpy(np.float64)
    values = number_texts([*row["value"], 1 - correct.mean(), lowest_aurc(correct)], 3)
    text = [
        "If it answers only the clips whose first category has the largest shares, it is right more often. The area "
        f"under the risk-coverage curve (AURC) sums that up: {values[0]}, 95% interval by {unit.name} {bounds}; less "
        f"is better. Shares that say nothing of what is right would give {values[1]}, perfect ones {values[2]}."
    ]
    columns = []
    if levels:
        text.append(
            "A threshold was chosen on the validation split for each accuracy wished; the table says what it gives "
            f"here{', on the very clips on which it was chosen' if chosen_here else ''}. `exvo predict --sure 0.8` and "
            "the service mark their answers by it."
        )
        columns = columns_of(
            ["wished", "least share", "answered on val", "answered here", "right here", f"95% by {unit.name}", "n"],
            [level_cells(clips, level, speakers) for level in wished_levels(levels)],
        )
    return Section(TITLE, text, [], [picture(curve)], columns, numbers=curve)


def wished_levels(levels: Sequence[Level]) -> list[Level]:
    """The levels of the table: that of all answers, the highest, and between them those of `WISHED`."""
    return [level for level in levels if level in (levels[0], levels[-1]) or round(level.accuracy, 2) in WISHED]


def level_cells(
    clips: pd.DataFrame, level: Level, speakers: npt.NDArray[np.str_] | None
) -> tuple[str, str, str, str, str, str, str]:
    """A row of the table: what a level gives on these clips.

    Args:
        clips: as `calibration.shares_of` gives them.
        level: that was chosen on validation.
        speakers: (clips,), to resample; None resamples clips.
    """
    answered = (clips["confidence"] >= level.share).to_numpy()
    count = int(answered.sum())
    right, bounds = "", ""
    if count:
        statistics = mae_statistics(np.zeros(count), clips["correct"].to_numpy(np.float64)[answered], "accuracy")
        ends = interval(bootstrap(statistics, groups=None if speakers is None else speakers[answered]))
        right = f"{statistics.scores().iloc[0]:.0%}"
        bounds = interval_texts(ends["ci_low"], ends["ci_high"], 3)[0]
    shares = (f"{level.accuracy:.0%}", f"{level.share:.3f}", f"{level.coverage:.0%}")
    return (*shares, f"{count / len(clips):.0%}", right, bounds, f"{count:,}")


def picture(curve: pd.DataFrame) -> Picture:
    """Accuracy of the answers against the share of the clips that are answered; a point a threshold."""
    places = np.unique(np.linspace(0, len(curve) - 1, MOST_POINTS).round().astype(int))
    shown = curve.iloc[places]
    with axes(WIDE, 3.0) as ax:
        ax.axhline(curve["accuracy"].iloc[-1], ls="--", color=INK, lw=0.8)
        ax.plot(shown["coverage"], shown["accuracy"], "o-", color=BLUE, ms=2, lw=1.2)
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of the clips that are answered", ylabel="how many are right")
        ax.grid()
    caption = "How often the first category is right, against how many clips are answered, the surest first"
    return make_picture("coverage", caption, ax)
