"""What enrolment is worth: the scores with 0 to 8 enrolment clips, of the right speaker and of another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from exvo.enrolment import category_shares, clips_by_speaker, draw_by_category
from exvo.errors import InputError
from exvo.evaluation import scoring
from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.progress import counting
from exvo.tasks import Task

SHOTS = (1, 2, 4, 8)
"""Enrolment clips of a point of the curve."""

Predictor = Callable[[list[np.ndarray]], np.ndarray]
"""The outputs (clips, outputs) as a function of who enrols whom: for each clip the indices of its enrolment clips."""


def draw_others(
    speakers: np.ndarray,
    shots: int,
    wrong: bool,
    generator: np.random.Generator,
    categories: Sequence[str] | np.ndarray | None = None,
) -> list[np.ndarray]:
    """For each clip the indices of enrolment clips drawn at random, never the clip itself.

    Args:
        speakers: (clips,), all known.
        shots: enrolment clips; fewer are drawn where the speaker has fewer.
        wrong: whether the clips are another speaker's, the same one for all clips of a speaker.
        generator: of the draw.
        categories: (clips,), by whose shares clips are drawn, see `draw_by_category`; None: each with the same chance.
    """
    numbers, shares = category_shares(categories) if categories is not None else (None, None)
    clips_of = clips_by_speaker(speakers)
    names = generator.permutation(list(clips_of))
    other = dict(zip(names.tolist(), np.roll(names, 1).tolist(), strict=True))
    drawn = []
    for clip, speaker in enumerate(speakers.tolist()):
        choice = clips_of[other[speaker]] if wrong else clips_of[speaker][clips_of[speaker] != clip]
        if numbers is None or shares is None:
            drawn.append(generator.choice(choice, min(shots, len(choice)), replace=False))
        else:
            drawn.append(draw_by_category(generator.permutation(choice), numbers, shares, shots, generator))
    return drawn


def curve_clips(speakers: np.ndarray, rows: pd.DataFrame, task: Task) -> np.ndarray:
    """The indices of the clips that a curve scores: the labelled clips of known speakers who have two or more.

    Args:
        speakers: (clips,).
        rows: (clips,) of the corpus' table.
        task: which labels there must be.

    Raises:
        InputError: fewer than two speakers can be scored.
    """
    usable = (speakers != "") & rows[list(task.targets)].notna().all(axis=1).to_numpy()
    counts = pd.Series(speakers[usable]).value_counts()
    kept = np.flatnonzero(usable & np.isin(speakers, counts.index[counts > 1]))
    if len(set(speakers[kept])) < 2:
        raise InputError("An enrolment curve needs two labelled speakers with two clips or more each.")
    return kept


def enrolment_curve(
    outputs: Predictor,
    speakers: np.ndarray,
    rows: pd.DataFrame,
    task: Task,
    draws: int,
    seed: int = 0,
    categories: Sequence[str] | np.ndarray | None = None,
    temperature: float | None = None,
) -> pd.DataFrame:
    """The scores with 0, 1, 2, 4 and 8 enrolment clips of the right and of another speaker, over random draws.

    All clips are scored in every row, so that rows compare; a clip never enrols itself. A score is the mean over draws.
    Its interval resamples speakers, the same in every row, so that `gain` (over the typical profile, 0 clips) and
    `right_over_wrong` are paired.

    Args:
        outputs: of these clips, given who enrols whom: `networks.inference.make_predictor` makes it.
        speakers: (clips,), as `curve_clips` chooses them.
        rows: (clips,) of the corpus' table.
        task: what the outputs are.
        draws: of which clips enrol, for each number of clips.
        seed: of the draws.
        categories: (clips,), see `draw_others`.
        temperature: of the shares, see `Task.shares`.

    Returns:
        One row a metric, number of clips (`shots`) and `enrolment` (typical, right, wrong): value, std_draws, lo, hi;
        gain, gain_lo, gain_hi over the typical profile; for right also right_over_wrong with _lo and _hi; n, the clips,
        and speakers, how many.
    """

    def resamples(drawn: list[np.ndarray]) -> tuple[pd.Series[float], pd.DataFrame]:
        statistics = scoring.statistics(task.table(rows, outputs(drawn), temperature=temperature), task)
        return statistics.scores(), bootstrap(statistics, groups=speakers)

    none = np.zeros(0, np.int64)
    scores, samples = resamples([none] * len(rows))
    typical = Sampled(pd.DataFrame([scores]), samples)
    tables = [_rows("typical", 0, typical, {})]
    with counting("enrolment curve", 2 * len(SHOTS) * draws, "draw") as done:
        for shots in SHOTS:
            sampled = {}
            for enrolment in ("right", "wrong"):
                values, total = [], 0.0 * typical.resamples
                for draw in range(draws):
                    generator = np.random.default_rng([seed, shots, draw, enrolment == "wrong"])
                    drawn = draw_others(speakers, shots, enrolment == "wrong", generator, categories)
                    scores, samples = resamples(drawn)
                    values.append(scores)
                    total = total + samples
                    done(1)
                sampled[enrolment] = Sampled(pd.DataFrame(values), total / draws)
            others = {"gain": typical, "right_over_wrong": sampled["wrong"]}
            tables.append(_rows("right", shots, sampled["right"], others))
            tables.append(_rows("wrong", shots, sampled["wrong"], {"gain": typical}))
    return pd.concat(tables, ignore_index=True).assign(n=len(rows), speakers=len(set(speakers)))


class Sampled(NamedTuple):
    """Every score in each draw, (draws, scores), and in each resample as the mean over draws, (resamples, scores)."""

    draws: pd.DataFrame
    resamples: pd.DataFrame


def _rows(enrolment: str, shots: int, sampled: Sampled, others: Mapping[str, Sampled]) -> pd.DataFrame:
    """The rows of one number of clips, with the differences to the others, which are named as their columns."""
    table = pd.DataFrame({"enrolment": enrolment, "shots": shots, "value": sampled.draws.mean()})
    table["std_draws"] = sampled.draws.std(ddof=0)
    table[["lo", "hi"]] = interval(sampled.resamples)[["ci_low", "ci_high"]]
    for name, other in others.items():
        table[name] = sampled.draws.mean() - other.draws.mean()
        table[[f"{name}_lo", f"{name}_hi"]] = interval(sampled.resamples - other.resamples)[["ci_low", "ci_high"]]
    return table.rename_axis("metric").reset_index()
