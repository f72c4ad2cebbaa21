"""The section of a report on calibration: whether shares of categories mean what they say."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from exvo.evaluation.bootstrap import bootstrap, interval, mae_statistics
from exvo.evaluation.calibration import BINS, ECE, LOG_LOSS, bins_of, has_shares, reliability, shares_of
from exvo.evaluation.groups import CLIP, SPEAKER
from exvo.evaluation.scoring import UAR, headline
from exvo.reports.page import BLUE, INK, WIDE, Picture, Section, axes, make_picture
from exvo.reports.tables import columns_of, interval_texts, number_texts
from exvo.tasks import Task

TITLE = "Calibration"


def calibration_section(
    rows: pd.DataFrame,
    task: Task,
    values: pd.Series[float],
    priors: pd.Series[float],
    temperature: float | None,
    uncalibrated: float,
    speakers: npt.NDArray[np.str_] | None,
) -> Section | None:
    """The reliability diagram of exclusive categories, with expected calibration error and log loss.

    None: there are no categories, or the predictions are no shares that sum to 1.

    Args:
        rows: the scored rows of a predictions table.
        task: which columns it has.
        values: the scores, by name.
        priors: those of the prior; empty where it is not known.
        temperature: of the shares; None: not fitted.
        uncalibrated: log loss at temperature 1; NaN where it is not known.
        speakers: (clips,), to resample; None resamples clips.
    """
    if headline(task) != UAR or not has_shares(rows, task.targets):
        return None
    curve = reliability(rows, task.targets).reset_index()
    table, unit = shares_of(rows, task.targets), CLIP if speakers is None else SPEAKER
    bins = bins_of(table["confidence"].to_numpy(np.float64), BINS)
    correct = mae_statistics(np.zeros(len(table)), table["correct"].to_numpy(np.float64), "correct")
    for place, number in enumerate(curve["bin"]):
        inside = bins == number
        samples = bootstrap(correct.take(inside), groups=None if speakers is None else speakers[inside])
        curve.loc[place, ["lo", "hi"]] = interval(samples)[["ci_low", "ci_high"]].to_numpy()[0]
    cells = zip(
        number_texts(curve["x"], 3),
        number_texts(curve["y"], 3),
        interval_texts(curve["lo"], curve["hi"], 3),
        [f"{n:,}" for n in curve["n"]],
        strict=True,
    )
    columns = columns_of(["mean share said", "share correct", f"95% by {unit.name}", "n"], cells)
    return Section(
        TITLE, calibration_text(values, priors, temperature, uncalibrated), [], [picture(curve)], columns, numbers=curve
    )


def calibration_text(
    values: pd.Series[float], priors: pd.Series[float], temperature: float | None, uncalibrated: float
) -> list[str]:
    """What the numbers say; the arguments are those of `calibration_section`."""
    losses = [f"Log loss {values[LOG_LOSS]:.3f}"]
    if temperature is not None and not math.isnan(uncalibrated):
        losses.append(f"without the temperature {uncalibrated:.3f}")
    if LOG_LOSS in priors:
        losses.append(f"of the prior {priors[LOG_LOSS]:.3f}")
    fitted = "No temperature was fitted."
    if temperature is not None:
        fitted = f"The temperature, {temperature:.2f}, was fitted on the validation split."
    return [
        f"Expected calibration error {values[ECE]:.3f}: how far the share of the first category lies from how often it "
        f"is the right one, on average over {BINS} bins of equal numbers of clips. {', '.join(losses)}. {fitted}",
        "On the dashed line a model is right as often as it says; below it is too sure of itself.",
    ]


def picture(curve: pd.DataFrame) -> Picture:
    """The reliability diagram: share correct against mean share said, with intervals; a point a bin."""
    with axes(WIDE, 3.4) as ax:
        ax.plot([0, 1], [0, 1], "--", color=INK, lw=0.8)
        ax.vlines(curve["x"], curve["lo"], curve["hi"], color=BLUE, alpha=0.35, lw=3)
        ax.plot(curve["x"], curve["y"], "o-", color=BLUE, ms=4, lw=1.2)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean share of the first category", ylabel="how often it is right")
        ax.grid()
    return make_picture("reliability", "How often the first category is right, against the share that it is given", ax)
