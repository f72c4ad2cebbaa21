"""Finds runs on the tracking server."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run as Run
from mlflow.exceptions import MlflowException

from exvo.errors import InputError
from exvo.evaluation.scoring import MEAN_CCC
from exvo.options import command_line
from exvo.systems import SHORT_NAMES, SYSTEMS
from exvo.text import listing, writable
from exvo.tracking import names, server
from exvo.tracking.tags import (
    AS_TRAINED,
    BEST_SEED_TAG,
    CONDITION,
    CORPUS_TAG,
    DIGEST_TAG,
    DONE,
    MODEL_TAG,
    NO_FOLD,
    ON_ITS_OWN,
    PARENT_TAG,
    PROTOCOL_TAG,
    RESULT_TAGS,
    SEEDS_TAG,
    SYSTEM_TAG,
    TASK_TAG,
)

OF_SYSTEM = f"attributes.status = 'FINISHED' and tags.`{SYSTEM_TAG}` LIKE '%'"
"""Of finished runs that train or evaluate a system."""

SYSTEMS_PAGE, MOST_EXCLUDED = 10, 24
"""Runs that are read at once to see which systems there are, and systems that a query leaves out at most."""


def find_run(name: str, option: str = "run_id", whole: bool = False) -> Run:
    """The run of that id, else of that name, else the newest finished training run of that system.

    A trial of a study is found by id and name alone: many are worse than what the study began with. So is a fold of a
    cross-validation, which is one of several models, and one of several seeds.

    Args:
        name: what the user gave.
        option: the option that holds it, for the sentences of errors.
        whole: gives a run of several seeds itself, instead of the one of its seeds with the best validation score.

    Raises:
        InputError: there is none, it is deleted, or the name fits several; says which.
    """
    run = _find(name, option)
    return run if whole else best_of_seeds(run)


def best_of_seeds(run: Run) -> Run:
    """Of a run of several seeds the one beneath it with the best validation score, which it names; else the run.

    Raises:
        InputError: its seeds have not all been trained, or that run is gone.
    """
    if SEEDS_TAG not in run.data.tags:
        return run
    subject = f"The run {run.info.run_name} is {run.data.tags[SEEDS_TAG]} seeds"
    if BEST_SEED_TAG not in run.data.tags:
        raise InputError(f"{subject}, which are not all trained; the same command goes on, or give one beneath it.")
    best = require_run(run.data.tags[BEST_SEED_TAG])
    if best.info.lifecycle_stage == "deleted":
        raise InputError(f"{subject}, the best of which on validation is deleted. {names.deleted([best])}")
    print(f"{subject}; the best of them on validation is {best.info.run_name} ({best.info.run_id})")
    return best


def _find(name: str, option: str) -> Run:
    """The same, without looking for the best of several seeds."""
    server.quiet()
    server.check_store()
    name = writable(name)
    if not name.strip():
        raise InputError(f"{option} is empty; give the id or the name of a run, as `train` prints it, or a system.")
    spellings = list(names.spellings(name))
    for text in spellings:
        run_of_this_id = names.run_of_id(text)
        runs = [run_of_this_id] if run_of_this_id else names.runs_of_name(text)
        if len(runs) > 1:
            each = listing(map(names.describe_run, runs))
            raise InputError(f"{option}={name} is the name of {len(runs)} runs; give the id of one: {each}.")
        if runs and runs[0].info.lifecycle_stage == "deleted":
            raise InputError(f"{option}={name}: {names.deleted(runs)}")
        if runs:
            return runs[0]
    for text in spellings:
        runs = _of_system(text)
        if runs:
            names.require_one_condition(runs, CONDITION, f"{option}={name}")
            return runs[0]
    deleted = [
        run for text in spellings for run in names.runs_of_name(text, deleted=True) or _of_system(text, deleted=True)
    ]
    if deleted:
        raise InputError(f"{option}={name}: {names.deleted(deleted)}")
    raise InputError(
        f"{option}={name}: the tracking server {server.shown_uri()} has no run of that id or name, and no "
        f"finished training run of a system of that name; `{command_line('train', {})}` makes one, and in a checkout "
        "`make personalisation` makes some to compare."
    )


def require_run(run_id: str) -> Run:
    """The run of that id, also where it is deleted.

    Raises:
        InputError: it is gone for good.
    """
    run = names.run_of_id(run_id)
    if run is None:
        raise InputError(f"The run {run_id} has been removed from the tracking server {server.shown_uri()}.")
    return run


def _of_system(name: str, deleted: bool = False) -> list[Run]:
    """The newest finished training run of a system under each condition, the newest first."""
    system = SHORT_NAMES.get(name, name)
    if not re.fullmatch(r"[\w.+-]+", system):
        return []
    query = f"attributes.status = 'FINISHED' and tags.`{SYSTEM_TAG}` = '{system}' and {ON_ITS_OWN}"
    found: dict[tuple[str, ...], Run] = {}
    for trained in (f"tags.`{MODEL_TAG}` LIKE '%'", f"tags.`{BEST_SEED_TAG}` LIKE '%'"):
        for run in names.newest_of_each(f"{query} and {trained}", [f"tags.`{tag}`" for tag in CONDITION], deleted):
            condition = tuple(run.data.tags.get(tag, "") for tag in CONDITION)
            if condition not in found or run.info.start_time > found[condition].info.start_time:
                found[condition] = run
    return sorted(found.values(), key=lambda run: -run.info.start_time)


def run_beneath(parent: str, tag: str, value: str | int) -> str:
    """The id of the newest run beneath another with that value of a tag, whatever its status; empty: there is none."""
    server.quiet()
    found = names.search(f"tags.`{tag}` = {names.quoted(str(value))} and tags.`mlflow.parentRunId` = '{parent}'")
    return found[0].info.run_id if found else ""


def logged_metrics(run_id: str, prefix: str = "") -> dict[tuple[str, int], float]:
    """What a run has logged, by metric and step, but for metrics of the system.

    Args:
        run_id: of the run.
        prefix: how the names of the metrics begin.
    """
    client = MlflowClient()
    metrics = client.get_run(run_id).data.metrics
    wanted = [name for name in metrics if name.startswith(prefix) and not name.startswith("system/")]
    points = [(name, point) for name in wanted for point in client.get_metric_history(run_id, name)]
    return {(name, point.step): point.value for name, point in points}


def parent_run(system: str, width: float, score: str, tags: Mapping[str, str]) -> Run | None:
    """The finished training run of a system with the best `score` on val; None where there is none of that width.

    A fold of a cross-validation is none: it lacks a part of the training speakers.

    Args:
        system: its full name.
        width: of its network.
        score: the name of a score of the val split.
        tags: of the run that continues it, and of the same corpus, task and protocol. A run that goes on keeps the one
            that it has started from.
    """
    if PARENT_TAG in tags:
        return MlflowClient().get_run(tags[PARENT_TAG])
    wanted = {SYSTEM_TAG: system} | {name: tags[name] for name in (DIGEST_TAG, TASK_TAG, PROTOCOL_TAG)}
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in wanted.items())
    query += f" and {DONE} and {NO_FOLD}"
    texts = {run.data.params["width"] for run in names.newest_of_each(query, ["params.`width`"])}
    order = [f"metrics.`val/{score}` DESC", names.NEWEST]
    same = [text for text in texts if float(text) == width]  # as typed under `mlflow run`: 0.1, 0.10
    best = [names.first(f"{query} and params.`width` = '{text}'", order=order) for text in same]
    return max(filter(None, best), key=lambda run: run.data.metrics.get(f"val/{score}", -math.inf), default=None)


def run_exists(run_id: str) -> bool:
    """Whether the server has this run, and it is not deleted."""
    server.quiet()
    try:
        return bool(run_id) and MlflowClient().get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        return False


def has_finished(run_id: str) -> bool:
    """Whether the server has this run, and it has ended well."""
    server.quiet()
    try:
        return bool(MlflowClient().get_run(run_id).info.status == "FINISHED")
    except MlflowException:
        return False


def finished_runs() -> pd.DataFrame:
    """All finished runs that train or evaluate a system, newest first, see `as_rows`; takes seconds a thousand.

    Raises:
        InputError: the store can't be used.
    """
    server.quiet()
    server.check_store()
    return as_rows(names.each(OF_SYSTEM))


def newest_runs(split: str, corpus: str = "") -> pd.DataFrame:
    """The newest finished run of each system under each condition, see `as_rows`.

    Trials of studies, folds of cross-validations, single ones of several seeds, and evaluations with another number of
    enrolment clips than their training's, or on another corpus, are not among them.

    Args:
        split: of which the runs have scores.
        corpus: its name; empty: all.

    Raises:
        InputError: the store can't be used.
    """
    server.quiet()
    server.check_store()
    query = f"{OF_SYSTEM} and {ON_ITS_OWN} and {AS_TRAINED}"
    query += f" and tags.`{CORPUS_TAG}` = {names.quoted(corpus)}" if corpus else ""
    found: list[Run] = []
    for newest in names.newest_of_each(query, [f"tags.`{tag}`" for tag in CONDITION]):
        tags = {tag: newest.data.tags[tag] for tag in CONDITION}
        same = " and ".join(f"tags.`{tag}` = {names.quoted(value)}" for tag, value in tags.items())
        headline = "speaker_uar" if tags[TASK_TAG] == "speaker" else MEAN_CCC
        # unequal to any number is also what is undefined
        found += _newest_of_systems(f"{query} and {same} and metrics.`{split}/{headline}` != -10")
    return as_rows(found)


def _newest_of_systems(query: str) -> list[Run]:
    """The newest run of each system that a query finds.

    The newest `SYSTEMS_PAGE` name most systems; it asks again without those, and for each other one where they are
    many, as databases limit how many conditions a query has.
    """
    found: dict[str, Run] = {}
    while True:
        others = "".join(f" and tags.`{SYSTEM_TAG}` != '{system}'" for system in found)
        page = list(itertools.islice(names.each(f"{query}{others}", page=SYSTEMS_PAGE), SYSTEMS_PAGE))
        for run in page:
            found.setdefault(run.data.tags[SYSTEM_TAG], run)
        if len(page) < SYSTEMS_PAGE:
            return list(found.values())
        if len(found) > MOST_EXCLUDED:
            break
    rest = (names.first(f"{query} and tags.`{SYSTEM_TAG}` = '{system}'") for system in SYSTEMS if system not in found)
    return [*found.values(), *filter(None, rest)]


def as_rows(runs: Iterable[Run]) -> pd.DataFrame:
    """Runs as a table.

    Returns:
        One row a run: run_id, run (its name), start, the columns of `RESULT_TAGS` ('' where a run lacks the tag), and
        metrics, a dictionary.
    """
    rows = []
    for run in runs:
        tags = [run.data.tags.get(tag, "") for tag in RESULT_TAGS.values()]
        rows.append((run.info.run_id, run.info.run_name, run.info.start_time, *tags, run.data.metrics))
    return pd.DataFrame(rows, columns=["run_id", "run", "start", *RESULT_TAGS, "metrics"])
