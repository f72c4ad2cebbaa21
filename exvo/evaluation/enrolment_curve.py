"""What enrolment is worth: the scores with no, few and many enrolment clips, right and wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from exvo.enrolment import clips_by_speaker
from exvo.errors import InputError
from exvo.evaluation import scoring
from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.tasks import Task

SHOTS = (1, 2, 4, 8)

Predictor = Callable[[list[np.ndarray]], np.ndarray]
"""The outputs (clips, outputs) as a function of who enrols whom: for each clip the indices of its enrolment clips."""


def draw_others(speakers: np.ndarray, shots: int, wrong: bool, generator: np.random.Generator) -> list[np.ndarray]:
    """For each clip the indices of enrolment clips drawn at random, never the clip itself: all there are if too few.

    Args:
        speakers: (clips,), all known.
        shots: enrolment clips.
        wrong: whether the clips are another speaker's, one for all clips of a speaker.
        generator: of the draw.
    """
    own = clips_by_speaker(speakers)
    names = generator.permutation(list(own))
    other = dict(zip(names.tolist(), np.roll(names, 1).tolist(), strict=True))
    drawn = []
    for clip, speaker in enumerate(speakers.tolist()):
        choice = own[other[speaker]] if wrong else own[speaker][own[speaker] != clip]
        drawn.append(generator.choice(choice, min(shots, len(choice)), replace=False))
    return drawn


def curve_clips(speakers: np.ndarray, rows: pd.DataFrame, task: Task) -> np.ndarray:
    """The indices of the clips that a curve scores: labelled ones of known speakers with two of them or more.

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
    outputs: Predictor, speakers: np.ndarray, rows: pd.DataFrame, task: Task, draws: int, seed: int = 0
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

    Returns:
        One row a metric, number of clips (`shots`) and `enrolment` (typical, right, wrong): value, std_draws, lo, hi;
        gain, gain_lo, gain_hi over the typical profile; for right also right_over_wrong with _lo and _hi; n, the clips.
    """

    def resamples(drawn: list[np.ndarray]) -> tuple[pd.Series[float], pd.DataFrame]:
        every = scoring.statistics(task.table(rows, outputs(drawn)), task)
        return every.scores(), bootstrap(every, groups=speakers)

    none = np.zeros(0, np.int64)
    value, samples = resamples([none] * len(rows))
    typical = Sampled(pd.DataFrame([value]), samples)
    found = [_rows("typical", 0, typical, {})]
    with tqdm(total=2 * len(SHOTS) * draws, desc="draws", unit="draw", leave=False, disable=None) as bar:
        for shots in SHOTS:
            sampled = {}
            for enrolment in ("right", "wrong"):
                values, total = [], 0.0 * samples
                for draw in range(draws):
                    generator = np.random.default_rng([seed, shots, draw, enrolment == "wrong"])
                    one, drawn = resamples(draw_others(speakers, shots, enrolment == "wrong", generator))
                    values.append(one)
                    total = total + drawn
                    bar.update()
                sampled[enrolment] = Sampled(pd.DataFrame(values), total / draws)
            against = {"gain": typical, "right_over_wrong": sampled["wrong"]}
            found.append(_rows("right", shots, sampled["right"], against))
            found.append(_rows("wrong", shots, sampled["wrong"], {"gain": typical}))
    return pd.concat(found, ignore_index=True).assign(n=len(rows))


class Sampled(NamedTuple):
    """Every score in each draw, (draws, scores), and in each resample as the mean over draws, (resamples, scores)."""

    draws: pd.DataFrame
    resamples: pd.DataFrame


def _rows(enrolment: str, shots: int, of: Sampled, against: Mapping[str, Sampled]) -> pd.DataFrame:
    """The rows of one number of clips, with the differences to the others."""
    table = pd.DataFrame({"enrolment": enrolment, "shots": shots, "value": of.draws.mean()})
    table["std_draws"] = of.draws.std(ddof=0)
    table[["lo", "hi"]] = interval(of.resamples)[["ci_low", "ci_high"]]
    for name, other in against.items():
        table[name] = of.draws.mean() - other.draws.mean()
        table[[f"{name}_lo", f"{name}_hi"]] = interval(of.resamples - other.resamples)[["ci_low", "ci_high"]]
    return table.rename_axis("metric").reset_index()
