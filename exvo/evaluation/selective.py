"""How sure a model must be of its first category to be right as often as wished: selective classification.

A clip is answered if the share of its first category is a threshold or more, else the answer is 'not sure' (softmax
response, arXiv 1705.08500). Coverage is the share of the clips that are answered, risk the share of these in which the
first category is wrong, accuracy 1 less the risk. The threshold is chosen on validation, so elsewhere the accuracy is
another one: the report measures it. It is no guarantee such as that of the paper, whose clips are independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from exvo.errors import InputError
from exvo.evaluation.bootstrap import draws, interval
from exvo.evaluation.calibration import shares_of
from exvo.evaluation.metrics import FloatArray
from exvo.tasks import Level, Task

AURC = "category_aurc"
"""The area under the risk-coverage curve."""

FEWEST = 20
"""Answered clips on validation with which a threshold may be chosen: the accuracy of fewer says next to nothing."""

RESAMPLES = 1000

IntegerArray = npt.NDArray[np.int64]


def accuracy_coverage(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> pd.DataFrame:
    """How many clips are answered from each threshold on, and how many of them rightly.

    Args:
        confidence: (clips,), the share of each clip's first category.
        correct: (clips,), whether that category is the true one.

    Returns:
        A row for each distinct share, the highest first: `share`, the threshold; `n`, the clips answered; `right`, how
        many of these are right; `coverage`, `n` of all clips; `accuracy`, `right` of `n`.

    >>> accuracy_coverage([0.9, 0.5, 0.5, 0.4], [True, True, False, False])[["share", "coverage", "accuracy"]].values
    array([[0.9       , 0.25      , 1.        ],
           [0.5       , 0.75      , 0.66666667],
           [0.4       , 1.        , 0.5       ]])
    """
    clips = pd.DataFrame({"share": np.asarray(confidence, np.float64), "right": np.asarray(correct, np.int64)})
    counts = clips.groupby("share")["right"].agg(["size", "sum"]).iloc[::-1].cumsum()
    counts = counts.set_axis(["n", "right"], axis=1).reset_index()
    return counts.assign(coverage=counts["n"] / max(1, len(clips)), accuracy=counts["right"] / counts["n"])


def choose_levels(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[Level, ...]:
    """For each whole percent of accuracy the lowest threshold, and so the largest coverage, that reaches it.

    At least `FEWEST` clips must be answered. The first level is the accuracy of all answers, rounded down, with the
    threshold 0; the last is the highest that is reached.

    Args:
        confidence, correct: as in `accuracy_coverage`, of the validation clips.

    Returns:
        The levels, accuracies ascending; none where there are fewer than `FEWEST` clips.
    """
    curve = accuracy_coverage(confidence, correct)
    curve = curve[curve["n"] >= FEWEST]
    if curve.empty:
        return ()
    percent = (100 * curve["right"] // curve["n"]).to_numpy()
    levels = []
    for wished in range(int(percent[-1]), int(percent.max()) + 1):
        row = curve.iloc[np.flatnonzero(percent >= wished)[-1]]
        share = 0.0 if row["coverage"] == 1 else float(row["share"])
        levels.append(Level(wished / 100, share, float(row["coverage"])))
    return tuple(levels)


def find_level(levels: Sequence[Level] | None, task: Task, wished: float) -> Level:
    """The level that answers must reach so that they are right as often as wished; between percents the next one.

    Args:
        levels: of `choose_levels`, from a model file; None: it holds none.
        task: of the model.
        wished: the accuracy, over 0 and up to 1.

    Raises:
        InputError: the model gives no shares, its file holds no levels, or none is so high.

    >>> task = Task("fewshot", ("Awe", "Joy"), categories=True, objective="cross-entropy")
    >>> find_level([Level(0.5, 0.0, 1.0), Level(0.51, 0.3, 0.9)], task, 0.505)
    Level(accuracy=0.51, share=0.3, coverage=0.9)
    """
    given = f"sure={wished:g}"
    if not (task.categories and task.objective == "cross-entropy"):
        raise InputError(
            f"{given}: this model gives no shares of exclusive categories, by which an answer is sure or not; leave "
            "sure out, or train one with objective=cross-entropy."
        )
    if "sure" in task.targets:
        raise InputError(f"{given}: a category of this model is called sure, as the column would be; leave sure out.")
    if not levels:
        raise InputError(
            f"{given}: the file of this model holds no thresholds, because a version of exvo before them has trained "
            f"it, or on fewer than {FEWEST} validation clips; train it again, or leave sure out."
        )
    percent = math.ceil(round(100 * wished, 6))
    for level in levels:
        if round(100 * level.accuracy) >= percent:
            return level
    highest = levels[-1].accuracy
    raise InputError(
        f"{given} is not reached: on validation the surest answers ({FEWEST} or more) are right in {highest:.0%} of "
        f"clips at best; {f'give sure={highest:g} or less' if highest else 'leave sure out'}."
    )


def level_text(level: Level) -> str:
    """What a level is, for people.

    >>> print(level_text(Level(0.8, 0.463, 0.61)))
    sure: the first category has a share of 0.463 or more, as in 61% of validation clips, 80% of which it got right
    """
    return (
        f"sure: the first category has a share of {level.share:.3f} or more, as in {level.coverage:.0%} of validation "
        f"clips, {level.accuracy:.0%} of which it got right"
    )


def aurc(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """The area under the risk-coverage curve: the mean over k of the risk among the k surest clips (arXiv 1805.08206).

    From 0 (all right) to 1 (all wrong), less is better; shares that say nothing of what is right give the share of
    wrong answers. Clips of equal confidence count as in the mean over their orders. NaN without clips.

    Args:
        confidence, correct: as in `accuracy_coverage`.

    >>> round(aurc([0.9, 0.8, 0.7], [1, 0, 1]), 4)  # (0 + 1/2 + 1/3) / 3
    0.2778
    """
    errors, blocks = _sorted(np.asarray(confidence, np.float64), np.asarray(correct, np.float64))
    return _aurc(errors, blocks) if len(errors) else math.nan


def lowest_aurc(correct: npt.ArrayLike) -> float:
    """The AURC of answers that are surer wherever they are right, see `aurc`.

    >>> round(lowest_aurc([1, 0, 1]), 4)  # (0 + 0 + 1/3) / 3
    0.1111
    """
    return aurc(correct, correct)


def aurc_row(rows: pd.DataFrame, task: Task, by_speaker: bool) -> dict[str, float]:
    """The AURC of predictions with its 95% intervals, as a row of a score table.

    Args:
        rows: of a predictions table with shares, all labelled (`calibration.has_shares`).
        task: which columns it has.
        by_speaker: whether speakers can be resampled.

    Returns:
        value, lo, hi, lo_by_speaker, hi_by_speaker and n, the clips.
    """
    table = shares_of(rows, task.targets)
    confidence, correct = (table[name].to_numpy(np.float64) for name in ("confidence", "correct"))
    order = np.argsort(-confidence, kind="stable")
    errors, blocks = _sorted(confidence, correct)
    row: dict[str, float] = {"value": _aurc(errors, blocks)}
    units = {"": np.arange(len(order))}
    if by_speaker:
        units["_by_speaker"] = np.unique(rows["speaker"].to_numpy(str), return_inverse=True)[1]
    for suffix in ("", "_by_speaker"):
        ends = (math.nan, math.nan)
        if suffix in units and units[suffix].max() > 0:
            samples = pd.DataFrame({AURC: list(_resampled(errors, blocks, units[suffix][order]))})
            ends = tuple(interval(samples).loc[AURC, ["ci_low", "ci_high"]])
        row |= dict(zip((f"lo{suffix}", f"hi{suffix}"), ends, strict=True))
    return row | {"n": len(order)}


def _sorted(confidence: FloatArray, correct: FloatArray) -> tuple[FloatArray, IntegerArray]:
    """The errors (0 or 1) of clips, the surest first, and a number for each, which clips of equal confidence share."""
    order = np.argsort(-confidence, kind="stable")
    return 1 - correct[order], np.unique(-confidence[order], return_inverse=True)[1].astype(np.int64)


def _aurc(errors: FloatArray, blocks: IntegerArray) -> float:
    with np.errstate(invalid="ignore"):  # a block that no clip of a resample is of
        means = np.bincount(blocks, errors) / np.bincount(blocks)
    return float((np.cumsum(means[blocks]) / np.arange(1, len(blocks) + 1)).mean())


def _resampled(errors: FloatArray, blocks: IntegerArray, units: IntegerArray) -> Iterator[float]:
    """The AURC in each of `RESAMPLES`; `units` (clips,) are the clips themselves, or whose they are."""
    count = int(units.max()) + 1
    for chunk in draws(count, RESAMPLES, 0):
        for drawn in chunk:
            times = np.bincount(drawn, minlength=count)[units]
            yield _aurc(errors.repeat(times), blocks.repeat(times))
