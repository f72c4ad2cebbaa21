"""Tables of results as numbers: the systems side by side, beside the published figures."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from exvo.config import EMOTIONS
from exvo.evaluation.calibration import ECE, LOG_LOSS
from exvo.evaluation.groups import ENDS
from exvo.evaluation.prior import PRIOR, Prior, prior_predictions
from exvo.evaluation.scoring import HEADLINES, MEAN_CCC, UAR, as_metrics, score
from exvo.systems import SYSTEMS
from exvo.tasks import task_of
from exvo.text import slug

PUBLISHED = Path(__file__).with_name("published_results.csv")
"""The figures of arXiv 2206.06680 on HUME-VB: system, task, split, metric, value, ci_low, ci_high."""

SCORES = {
    "fewshot": (MEAN_CCC,),
    "multitask": (MEAN_CCC, "country_uar", "age_mae", "s_mtl"),
    "speaker": ("speaker_uar", "speaker_accuracy"),
}
"""The scores of a table of each task, but for exclusive categories."""

CATEGORY_SCORES = (UAR, "category_accuracy", "category_macro_f1", LOG_LOSS, ECE, MEAN_CCC)
"""The scores of a table of exclusive categories."""

_GROUPS = [f"{group}_{name}" for group in ("country", "speaker") for name in ("mean", "std")]
SPREAD = tuple(f"{metric}_{name}" for metric in (MEAN_CCC, UAR) for name in _GROUPS)
"""Of few-shot tables: CCC, or UAR of exclusive categories, over countries and over speakers."""

TRAINING = ("width", "epochs", "batch_size", "learning_rate", "seed", "shots")
"""The training options that a reader needs to judge a score."""

KEYS = ["corpus", "digest", "task", "protocol"]


@dataclass(frozen=True)
class Condition:
    """What all scores of one table share."""

    corpus: str
    digest: str
    task: str
    protocol: str
    split: str

    @property
    def name(self) -> str:
        """The table's file name, without its ending."""
        return f"{self.corpus}-{self.digest[:8]}-{self.task}-{self.protocol}-{self.split}"


def shown_scores(task: str, present: Iterable[str]) -> tuple[str, ...]:
    """The scores of a table, the headline first.

    Args:
        task: fewshot, multitask or speaker.
        present: the scores that its runs have.
    """
    return CATEGORY_SCORES if task == "fewshot" and UAR in set(present) else SCORES[task]


def make_condition(keys: Iterable[object], split: str) -> Condition:
    """The condition with these values of `KEYS`."""
    corpus, digest, task, protocol = map(str, keys)
    return Condition(corpus, digest, task, protocol, split)


def newest(runs: pd.DataFrame, split: str) -> pd.DataFrame:
    """The newest run of each system under each condition, systems in the order of `SYSTEMS`.

    Args:
        runs: one row a run, as `lookup.finished_runs` gives them.
        split: of which the runs must have scores.

    Returns:
        The rows of these runs; `metrics` holds the scores of the split alone, without its name.
    """
    rows = runs.assign(metrics=runs["metrics"].map(lambda metrics: of_split(metrics, split)))
    headlines = set(HEADLINES.values())
    rows = rows[rows["metrics"].map(lambda metrics: not headlines.isdisjoint(metrics)).astype(bool)]
    rows = rows[(rows[[*KEYS, "system"]] != "").all(axis=1)]
    rows = rows.sort_values("start", ascending=False, kind="stable").drop_duplicates([*KEYS, "system"])
    places = {system: place for place, system in enumerate(SYSTEMS)}
    rows = rows.assign(place=[places.get(system, len(places)) for system in rows["system"]])
    return rows.sort_values([*KEYS, "place", "system"]).drop(columns="place")


def of_split(metrics: dict[str, float], split: str) -> dict[str, float]:
    """The metrics of a split alone, without its name."""
    prefix = f"{split}/"
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


def seed_metric(score: str, seed: int) -> str:
    """The name of the metric that is a score of one of the seeds.

    >>> seed_metric("category_uar", 2)
    'category_uar_seed_2'
    """
    return f"{score}_seed_{seed}"


def seed_values(metrics: Mapping[str, float], score: str) -> dict[int, float]:
    """A score of each seed among the metrics of a run; empty where it is a single training.

    >>> seed_values({"category_uar": 0.5, "category_uar_seed_1": 0.6, "category_uar_seed_0": 0.4}, "category_uar")
    {0: 0.4, 1: 0.6}
    """
    found = {re.fullmatch(rf"{re.escape(score)}_seed_(\d+)", name): value for name, value in metrics.items()}
    return dict(sorted((int(match[1]), value) for match, value in found.items() if match))


def results_table(condition: Condition, rows: pd.DataFrame) -> pd.DataFrame:
    """The results under one condition, as numbers: one row a system, NaN where a score is undefined.

    Args:
        condition: that of all rows.
        rows: `system`, `run`, `evaluation`, `metrics` and the columns `TRAINING`, in the order to show.

    Returns:
        system, run, evaluation, the scores with their intervals, the CCC of each target, the published figures of the
        same metrics where there are some (`published_<metric>`), and the columns `TRAINING`. Where a run is several
        seeds, whose mean its scores are, also `seeds`: the first score of each, with spaces between; else empty.
    """
    metrics = pd.DataFrame(rows["metrics"].tolist(), index=rows.index)
    shown = shown_scores(condition.task, metrics.columns)
    scores = [name for shown_score in shown for name in (shown_score, *(f"{shown_score}_{end}" for end in ENDS))]
    spread = [name for name in SPREAD if name in metrics and condition.task == "fewshot" and name.startswith(shown[0])]
    figures = metrics.reindex(columns=[*scores, *spread, *target_metrics(metrics.columns)])
    references = published(condition).reindex(rows["system"]).set_axis(rows.index).dropna(axis="columns", how="all")
    about = rows[["system", "run", "evaluation"]]
    each = [" ".join(map(str, seed_values(values, shown[0]).values())) for values in rows["metrics"]]
    seeds = pd.DataFrame({"seeds": each} if any(each) else {}, index=rows.index)
    return pd.concat([about, figures, references, seeds, rows[list(TRAINING)]], axis=1).reset_index(drop=True)


def with_prior(condition: Condition, table: pd.DataFrame, predictions: pd.DataFrame, prior: Prior) -> pd.DataFrame:
    """A table of results with a last row that says what the prior reaches; it is no run, and has no training options.

    Args:
        condition: of the table.
        table: as `results_table` gives it.
        predictions: of one of its runs, whose clips are scored.
        prior: of the labels that the runs were trained on.
    """
    scores = score(prior_predictions(predictions, prior), task_of(predictions, condition.task))
    row = pd.Series(of_split(as_metrics(scores, condition.split), condition.split)).reindex(table.columns)
    whole = {name: "Int64" for name in TRAINING if pd.api.types.is_integer_dtype(table[name])}
    last = pd.DataFrame(
        [row.to_dict() | {"system": PRIOR, "run": "", "evaluation": "", "seeds": ""}], columns=table.columns
    )
    last = last.astype(table.dtypes.to_dict() | whole)
    return pd.concat([table.astype(whole), last], ignore_index=True)


def target_metrics(columns: pd.Index[str]) -> list[str]:
    """The metrics that are the CCC of one target: the ten emotions in their order, then others by name."""
    order = {f"{slug(emotion)}_ccc": place for place, emotion in enumerate(EMOTIONS)}
    chosen = columns.str.endswith("_ccc") & ~columns.str.startswith("published_") & (columns != MEAN_CCC)
    return sorted(columns[chosen], key=lambda name: (order.get(name, len(order)), name))


def published(condition: Condition) -> pd.DataFrame:
    """The published figures under a condition, (systems, `published_<metric>` with `_lo` and `_hi`), by system.

    There are some only for HUME-VB under the protocol `published`, where enrolment clips are scored too.
    """
    rows = pd.read_csv(PUBLISHED)
    exist = condition.corpus == "hume-vb" and condition.protocol == "published"
    rows = rows[(rows["task"] == condition.task) & (rows["split"] == condition.split) & exist]
    ends = {"value": "", "ci_low": "_lo", "ci_high": "_hi"}
    parts = [
        rows.pivot(index="system", columns="metric", values=column).add_suffix(end) for column, end in ends.items()
    ]
    return pd.concat(parts, axis=1).add_prefix("published_")


def published_figure(condition: Condition, system: str, metric: str) -> float:
    """The published figure of one system under a condition; NaN where there is none."""
    figures = published(condition)
    name = f"published_{metric}"
    return float(figures[name].loc[system]) if system in figures.index and name in figures else math.nan
