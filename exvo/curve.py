"""What enrolment is worth: a personalised network's scores with no, few and many enrolment clips, right and wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from exvo import evaluation
from exvo.batches import Clips
from exvo.bootstrap import bootstrap, interval
from exvo.config import InputError
from exvo.enrolment import encodings, members
from exvo.networks.enrolment import Network
from exvo.page import BLUE, ORANGE, WIDE, Page, Picture, Section, axes
from exvo.page import picture as make_picture
from exvo.results import Columns, intervals, numbers
from exvo.tasks import Task
from exvo.training import apply, predict

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
    own = members(speakers)
    names = generator.permutation(list(own))
    other = dict(zip(names.tolist(), np.roll(names, 1).tolist(), strict=True))
    drawn = []
    for clip, speaker in enumerate(speakers.tolist()):
        choice = own[other[speaker]] if wrong else own[speaker][own[speaker] != clip]
        drawn.append(generator.choice(choice, min(shots, len(choice)), replace=False))
    return drawn


def predictor(
    network: Network, clips: Clips, device: str, protocol: str | None
) -> Callable[[list[np.ndarray]], np.ndarray]:
    """The outputs (clips, outputs) as a function of who enrols whom; each clip goes through the main encoder only once.

    Through the encoder of enrolment clips it goes once for each length that it is filled to. Conditioning reaches into
    the main encoder: there each call is a pass over all clips.
    """
    network.eval().to(device)
    if network.fusion == "conditioning":
        return lambda drawn: predict(network, clips, device, drawn, protocol=protocol)
    embeddings = apply(lambda x, _: network.embed(x), clips, network.min_frames, device, progress="clips")
    main, frames = torch.from_numpy(embeddings).to(device), clips.frames()
    known: dict[tuple[int, int], np.ndarray] = {}  # of a clip and its filled length
    if network.enrolment_encoder is None:  # shared
        known = dict(zip(enumerate(frames.tolist()), embeddings, strict=True))
    typical = network.typical.float().cpu().numpy()

    @torch.inference_mode()
    def outputs(drawn: list[np.ndarray]) -> np.ndarray:
        wanted = encodings(drawn, frames, protocol)
        pairs = list(zip(wanted.clips.tolist(), wanted.frames.tolist(), strict=True))
        new = [number for number, pair in enumerate(pairs) if pair not in known]
        if new:
            own, filled = clips.take(wanted.clips[new]), wanted.frames[new]
            added = apply(lambda x, _: network.enrol(x), own, network.min_frames, device, None, "enrolment", filled)
            known.update(zip((pairs[number] for number in new), added, strict=True))
        every = np.stack([known[pair] for pair in pairs]) if pairs else np.zeros((0, len(typical)), np.float32)
        profiles = np.stack([every[own].mean(axis=0) if len(own) else typical for own in wanted.own])
        seen = network.fuse(main, torch.from_numpy(profiles).to(device))
        found: np.ndarray = network.output(seen).float().cpu().numpy()
        return found

    return outputs


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
        outputs: of these clips, given who enrols whom: `networks.inference.predictor` makes it.
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
        every = evaluation.statistics(task.table(rows, outputs(drawn)), task)
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


def conclusion(curve: pd.DataFrame, metric: str, shots: int = 2) -> str:
    """What the curve says, in a sentence: whether the right speaker's clips help more than another's."""
    row = curve[(curve["metric"] == metric) & (curve["shots"] == shots) & (curve["enrolment"] == "right")].iloc[0]
    ends = (row[f"right_over_wrong{end}"] for end in ("", "_lo", "_hi"))
    return sentence(f"{metric} with {shots} clips of the right speaker", *ends)


def sentence(score: str, difference: float, low: float, high: float) -> str:
    """Whether a score is better with the right speaker's clips than with another's, beyond its 95% interval."""
    if math.isnan(low):
        return f"{score} has no defined difference to another's: nothing is shown about speakers."
    told = f"{score} is {difference:+.3f} [{low:.3f}, {high:.3f}] over another's"
    if low > 0:
        return f"{told}: the model uses who is speaking."
    return f"{told}: nothing shows that the model has learnt anything about speakers."


def enrolment_section(
    right: pd.DataFrame, others: Mapping[str, pd.DataFrame], task: Task, speakers: np.ndarray | None
) -> Section:
    """What the clips that enrol are worth on one split, against no clips and against another speaker's.

    Args:
        right: the scored rows of a predictions table.
        others: the predictions tables of `typical` profiles and of `wrong` speakers, with all these rows.
        task: of all of them.
        speakers: (rows,), to resample; None: clips are resampled.
    """
    meaning = {
        "right": "the speaker's own clips",
        "typical": "none (the typical profile)",
        "wrong": "another speaker's",
    }
    tables = {"right": right} | {name: right[["file"]].merge(table, on="file") for name, table in others.items()}
    every = {name: evaluation.statistics(table, task) for name, table in tables.items()}
    metric, unit = evaluation.headline(task), "clip" if speakers is None else "speaker"
    samples = {name: bootstrap(one, groups=speakers)[[metric]] for name, one in every.items()}
    rows = []
    for name, one in every.items():
        row: dict[str, Any] = {"enrolment": name, "value": one.scores()[metric]}
        row["right_over_it"] = every["right"].scores()[metric] - row["value"]
        for ends, of in (("", samples[name]), ("_difference", samples["right"] - samples[name])):
            row[f"lo{ends}"], row[f"hi{ends}"] = interval(of)[["ci_low", "ci_high"]].to_numpy()[0]
        rows.append(row)
    table = pd.DataFrame(rows)
    other = table.iloc[1:]
    columns: Columns = [
        ("enrolment", table["enrolment"].map(meaning).tolist()),
        (metric, numbers(table["value"], 3)),
        (f"95% by {unit}", intervals(table["lo"], table["hi"], 3)),
        ("own clips better by", ["", *numbers(other["right_over_it"], 3)]),
        (f"95% by {unit}", ["", *intervals(other["lo_difference"], other["hi_difference"], 3)]),
    ]
    (wrong,) = table[table["enrolment"] == "wrong"].to_dict("records")
    told = sentence(
        f"{metric} with the right speaker's clips",
        *(wrong[name] for name in ("right_over_it", "lo_difference", "hi_difference")),
    )
    return Section("Enrolment", [told], table=columns, numbers=table)


def page(curve: pd.DataFrame, metrics: Sequence[str], title: str, about: str) -> Page:
    """The curve of each of some metrics: its sentence, picture and table.

    Args:
        curve: as `enrolment_curve` gives it.
        metrics: the first is the headline.
        title: of the page.
        about: the line under it.
    """
    sections = []
    for metric in metrics:
        table = curve[curve["metric"] == metric].drop(columns=["metric", "n"]).reset_index(drop=True)
        columns: Columns = [
            ("enrolment clips", [f"{shots} ({who})" for shots, who in table[["shots", "enrolment"]].to_numpy()])
        ]
        for name, told, low, high in (
            ("value", metric, "lo", "hi"),
            ("gain", "over none", "gain_lo", "gain_hi"),
            ("right_over_wrong", "right over wrong", "right_over_wrong_lo", "right_over_wrong_hi"),
        ):
            bounds = [*zip(numbers(table[name], 3), intervals(table[low], table[high], 3), strict=True)]
            columns.append((told, ["" if value == "undefined" else f"{value} {ends}" for value, ends in bounds]))
        sections.append(
            Section(
                metric, [conclusion(curve, metric)], pictures=[picture(curve, metric)], table=columns, numbers=table
            )
        )
    return Page(title, [about, "Brackets and shades are 95% intervals over resampled speakers."], [], sections)


def picture(curve: pd.DataFrame, metric: str) -> Picture:
    """The metric against the number of enrolment clips, right and wrong, with 95% intervals by speaker."""
    every = curve[curve["metric"] == metric]
    typical = every[every["enrolment"] == "typical"]
    with axes(WIDE, 3.2) as shown:
        for enrolment, colour in (("right", BLUE), ("wrong", ORANGE)):
            line = pd.concat([typical, every[every["enrolment"] == enrolment]])
            places = range(len(line))
            shown.fill_between(places, line["lo"], line["hi"], color=colour, alpha=0.15, linewidth=0)
            shown.plot(places, line["value"], "o-", color=colour, ms=4, label=f"{enrolment} speaker's clips")
        shown.set_xticks(range(len(SHOTS) + 1), ["0", *map(str, SHOTS)])
        shown.set(xlabel="enrolment clips (0: the typical profile)", ylabel=metric)
        shown.grid()
        shown.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0, borderaxespad=0.3)
    return make_picture(metric, f"{metric} by the number of enrolment clips", shown)
