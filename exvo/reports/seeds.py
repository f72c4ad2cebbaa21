"""Several seeds in words: the mean of their scores, the range and each, and what they add to a difference."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from exvo.evaluation.groups import UNITS
from exvo.evaluation.scoring import headline
from exvo.evaluation.seeds import Spread
from exvo.reports.lead import lead_sentence
from exvo.reports.names import explained_name, score_name
from exvo.reports.page import Page, Section, Tile
from exvo.reports.tables import Column, columns_of, interval_texts, number_texts, range_text, split_text
from exvo.tasks import Task
from exvo.text import listing

MEANING = (
    "The mean over the seeds is what one training is expected to reach. Its intervals resample the clips, or whole "
    "speakers, of these trainings; how far other seeds would move it the range shows."
)


def seeds_text(scores: pd.DataFrame, each: Mapping[int, float], metric: str, split: str) -> str:
    """The mean of a score over the seeds, its intervals, the range and each value, for the terminal.

    Args:
        scores: as `seeds.mean_scores` gives them.
        each: the score of each seed.
        metric: the score.
        split: its name.
    """
    row = scores[scores["metric"] == metric].iloc[0].to_dict()
    (value,) = number_texts([row["value"]], 3)
    ends = [
        f"by {unit.name} {interval_texts([row[f'lo{unit.suffix}']], [row[f'hi{unit.suffix}']], 3)[0]}" for unit in UNITS
    ]
    return (
        f"{score_name(metric)}, mean of {len(each)} seeds, {split}: {value}   95% interval {', '.join(ends)}\n"
        f"seeds: {range_text(list(each.values()), 3)}"
    )


def seeds_page(
    model: str,
    corpus: str,
    table: pd.DataFrame,
    means: Mapping[str, pd.DataFrame],
    rows: pd.DataFrame,
    task: Task,
    synthetic: bool = False,
) -> Page:
    """The report of several seeds.

    Args:
        model: the system.
        corpus: its name.
        table: a row a seed, as it is logged.
        means: by split, as `seeds.mean_scores` gives them.
        rows: the scored rows of the last split, of any seed.
        task: what was learnt.
        synthetic: whether a program made the voices.
    """
    metric = headline(task)
    tiles, sections = [], []
    splits = [split for split in means if f"{split}/{metric}" in table]
    for split in splits:
        row = means[split][means[split]["metric"] == metric].iloc[0].to_dict()
        (value,) = number_texts([row["value"]], 3)
        each = range_text([float(score) for score in table[f"{split}/{metric}"]], 3)
        tiles.append(Tile(f"{score_name(metric)}, {split}", value, f"seeds {each}"))
    cells = [
        (
            str(row["seed"]),
            *(number_texts([row[f"{split}/{metric}"]], 4)[0] for split in splits),
            str(row["best_epoch"]),
            str(row["run"]),
        )
        for row in table.to_dict("records")
    ]
    titles = ["seed", *(f"{score_name(metric)}, {split}" for split in splits), "best epoch", "run"]
    sections.append(Section("Seeds", [MEANING], table=columns_of(titles, cells), numbers=table))
    for split in splits:
        shown = means[split][~means[split]["metric"].str.endswith("_ccc") | (means[split]["metric"] == "emotion_ccc")]
        sections.append(Section(f"Means, {split_text(split)}", table=mean_columns(shown), numbers=means[split]))
    seeds = listing(map(str, table["seed"]))
    lead = ""
    if splits and task.name != "speaker":
        subject = f"{model}, on average over {len(table)} seeds,"
        lead = lead_sentence(rows, means[splits[-1]], task, subject, synthetic=synthetic)
    return Page(f"{model} on {corpus}, {len(table)} seeds", [f"seeds {seeds}"], tiles, sections, lead)


def mean_columns(scores: pd.DataFrame) -> list[Column]:
    """The mean of each score over the seeds with its intervals and its range, as text."""
    columns = [
        Column("score", scores["metric"].map(explained_name).tolist()),
        Column("mean", number_texts(scores["value"], 3)),
        Column("range over seeds", interval_texts(scores["lowest"], scores["highest"], 3)),
    ]
    for unit in UNITS:
        cells = interval_texts(scores[f"lo{unit.suffix}"], scores[f"hi{unit.suffix}"], 3)
        columns.append(Column(f"95% by {unit.name}", cells))
    return columns


def spread_text(spread: Spread) -> str:
    """What the seeds add to the difference of two runs, in a few sentences.

    >>> table = pd.DataFrame({"seed": [0, 1, 2], "a": 0.5, "b": [0.51, 0.53, 0.52], "value": [0.01, 0.03, 0.02]})
    >>> for sentence in spread_text(Spread(table, "category_uar", "speaker", 0.012)).split(". "):
    ...     print(sentence)
    The same seeds are paired
    Over 3 seeds b - a is 0.0100 to 0.0300 (0.0100, 0.0300, 0.0200) UAR, standard deviation 0.0100
    The standard error of its mean is 0.0120 by speaker, 0.0058 by seed, and 0.0133 by both together
    The interval by speaker knows these seeds alone.
    """
    values = [float(value) for value in spread.table["value"]]
    by_unit, by_seed, both = number_texts([spread.error, spread.seeds_error, spread.whole_error])
    return (
        f"The same seeds are paired. Over {len(values)} seeds b - a is {range_text(values)} "
        f"{score_name(spread.metric)}, standard deviation {number_texts([spread.deviation])[0]}. The standard error of "
        f"its mean is {by_unit} by {spread.by}, {by_seed} by seed, and {both} by both together. The interval by "
        f"{spread.by} knows these seeds alone."
    )


def spread_columns(spread: Spread) -> list[Column]:
    """The difference for each seed, as text."""
    table = spread.table
    columns = [Column("seed", table["seed"].astype(str).tolist())]
    names = {"value": "b - a", "a": "a", "b": "b"}
    return columns + [Column(title, number_texts(table[name])) for name, title in names.items()]
