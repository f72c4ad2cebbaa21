"""Compares runs on the very same clips.

They are two (a, b), chosen ones (runs), or the newest finished run of each system. Of two runs it tests the paired
difference of every score; of more, the differences of the main score each with each, corrected for their number. Runs
of different corpora, tasks, protocols or splits never share a table. Runs of versions that did not yet tag system and
protocol are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from exvo.config import POOLED
from exvo.errors import InputError
from exvo.evaluation import pairwise, results, scoring, seeds
from exvo.evaluation.matrix import Matrix, comparable_runs, difference_matrix
from exvo.evaluation.pairwise import Scored
from exvo.evaluation.prior import PRIOR
from exvo.evaluation.results import Condition
from exvo.options import command_line
from exvo.reports import comparison, matrix, tables
from exvo.reports.sentences import doubt_sentences
from exvo.settings import CompareSettings
from exvo.text import listing, writable
from exvo.tracking import experiments, lookup, names, runs, server
from exvo.tracking.lookup import Run
from exvo.tracking.scored import (
    SystemRun,
    as_table,
    no_predictions,
    predictions_of,
    prior_of_run,
    scored_run,
    system_runs,
)

MOST_MISTAKES = 10
"""Mistakes of one command that are said."""


def run(settings: CompareSettings) -> None:
    """Compares in a run of its own."""
    if settings.runs and (settings.a or settings.b):
        raise InputError("runs is given beside a or b; give runs to compare many, or a and b to compare two.")
    if bool(settings.a) != bool(settings.b):
        missing = "b" if settings.a else "a"
        raise InputError(f"{missing} is empty; give both a and b to compare two runs, or neither to list all systems.")
    if settings.a:
        compare_two(settings)
    elif settings.runs:
        compare_chosen(settings)
    else:
        list_systems(settings)


def list_systems(settings: CompareSettings) -> None:
    """Prints and logs a table of results for each corpus, task and protocol, with the differences of its systems.

    Raises:
        InputError: no finished run has scores to show.
    """
    newest = results.newest(lookup.newest_runs(settings.split, writable(settings.corpus)), settings.split)
    if newest.empty:
        entry_point = "train" if settings.split in ("val", POOLED) else "evaluate"
        options = {"val": ".", POOLED: ", with folds=5."}.get(
            settings.split, f", with run_id=<a training run> and split={settings.split}."
        )
        raise InputError(
            f"No finished run has scores of the {settings.split} split"
            f"{f' of corpus={settings.corpus}' if settings.corpus else ''}; `{command_line(entry_point, {})}` makes one"
            f"{options}"
        )
    with runs.start_run("compare") as run_id:
        runs.log_settings(asdict(settings), {"runs": newest["run_id"].tolist()})
        by_condition: dict[Condition, list[SystemRun]] = {}
        for system_run in system_runs(newest, settings.split):
            by_condition.setdefault(system_run.condition, []).append(system_run)
        for condition, members in by_condition.items():
            log_results(condition, members, [predictions_of(member) for member in members])
        print(experiments.where_to_look(run_id))


def compare_chosen(settings: CompareSettings) -> None:
    """Prints and logs the table of results of chosen runs, and their differences each with each.

    Raises:
        InputError: fewer than two runs, a run named twice, without predictions or not finished, or two that can't be
            compared; of several mistakes all are said.
    """
    predictions: list[Scored] = []
    members: list[SystemRun] = []
    mistakes = []
    for source in find_runs(settings.runs, "runs"):
        try:
            scored, member = scored_run(source, "runs", settings.split)
            predictions.append(scored)
            members.append(member)
        except InputError as error:
            mistakes.append(str(error))
    refuse_mistakes(mistakes)
    if len(members) < 2:
        raise InputError(f"runs={settings.runs} names {len(members)} run; give two or more, with commas between.")
    ids = [member.run_id for member in members]
    repeated = [scored.run for place, scored in enumerate(predictions) if ids[place] in ids[:place]]
    refuse_mistakes(f"runs names the run {name} twice; name each run once." for name in repeated)
    refuse_mistakes(comparable_runs(predictions)[1].values())
    with runs.start_run("compare") as run_id:
        runs.log_settings(asdict(settings), {"runs": ids})
        log_results(predictions[0].condition, members, predictions)
        print(experiments.where_to_look(run_id))


def find_runs(text: str, option: str) -> list[Run]:
    """The runs of a list with commas between, see `lookup.find_run`. A name with commas of its own is found too.

    Raises:
        InputError: as `lookup.find_run` does, of all names at once; or the list can be read in two ways.
    """
    server.quiet()
    server.check_store()
    query = "attributes.run_name LIKE '%,%'"
    with_comma = [*names.search(query), *names.search(query, deleted=True)] if "," in text else []
    readings = [
        _find_each(reading, option) for reading in names.readings(text, (run.info.run_name for run in with_comma))
    ]
    right = [reading.runs for reading in readings if not reading.mistakes]
    if len(right) > 1:
        ways = " or ".join(listing(map(names.describe_run, found)) for found in right)
        raise InputError(f"{option}={text} can be read in several ways, because names hold commas; give ids: {ways}.")
    refuse_mistakes([] if right else readings[0].mistakes)
    return right[0]


@dataclass(frozen=True)
class Reading:
    """A way to read a list of names: the runs, and a sentence for each name that has none."""

    runs: list[Run]
    mistakes: list[str]


def _find_each(run_names: Iterable[str], option: str) -> Reading:
    sources, mistakes = [], []
    for name in filter(str.strip, run_names):
        try:
            sources.append(lookup.find_run(name, option, whole=True))
        except InputError as error:
            mistakes.append(str(error))
    return Reading(sources, mistakes)


def refuse_mistakes(mistakes: Iterable[str]) -> None:
    """Refuses the command where it has mistakes.

    Args:
        mistakes: a sentence each.

    Raises:
        InputError: all of the sentences, ten at most, where there are some.
    """
    sentences = list(mistakes)
    if sentences:
        left_out = len(sentences) - MOST_MISTAKES
        raise InputError(" ".join(sentences[:MOST_MISTAKES]) + (f" And {left_out} more." if left_out > 0 else ""))


def log_results(condition: Condition, members: Sequence[SystemRun], predictions: Sequence[Scored | None]) -> None:
    """Prints and logs the results under one condition, and the differences of the runs that can be compared.

    Args:
        condition: that of all runs.
        members: the runs.
        predictions: theirs, in the same order; None where there are none.
    """
    differences = compare_members(members, predictions, condition.split)
    table = results.results_table(condition, as_table(members))
    if PRIOR not in set(table["system"]):
        table = with_prior(condition, table, members, predictions)
    parts, options = [], {"corpus": condition.corpus, "split": condition.split}
    compared, best_first, left_out = differences.compared, differences.best_first, differences.left_out
    if compared is not None:
        ids = ",".join(members[place].run_id for place in sorted(best_first))
        options = {"runs": ids, "split": condition.split}
        table["place"] = pd.Series(pd.NA, index=table.index, dtype="Int64")
        table.loc[best_first, "place"] = range(1, len(best_first) + 1)
        parts.append(matrix.matrix_text(compared))
        runs.log_table(compared.pairs, f"results/{condition.name}-differences.csv")
    if left_out:
        parts.append(matrix.left_out_text(left_out))
    text = "\n".join([tables.results_text(condition, table), *parts])
    print(text)
    runs.log_text(f"results/{condition.name}.md", text)
    runs.log_table(table, f"results/{condition.name}.csv")
    page = matrix.results_page(condition, table, compared, left_out, command_line("compare", options))
    runs.log_page(f"results/{condition.name}", page)


def with_prior(
    condition: Condition, table: pd.DataFrame, members: Sequence[SystemRun], predictions: Sequence[Scored | None]
) -> pd.DataFrame:
    """The table of results with a row for the prior, as one of its runs with predictions has logged it, if one has."""
    for member, scored in zip(members, predictions, strict=True):
        prior = {} if scored is None else prior_of_run(lookup.require_run(member.training_id))
        if scored is not None and prior:
            return results.with_prior(condition, table, scored.predictions, prior)
    return table


@dataclass(frozen=True, eq=False)
class Differences:
    """The differences of the runs of a table that can be compared.

    Attributes:
        compared: each with each; None where fewer than two can be compared.
        best_first: their places in the table.
        left_out: a sentence for each run that can't be compared.
    """

    compared: Matrix | None
    best_first: list[int]
    left_out: list[str]


def compare_members(members: Sequence[SystemRun], predictions: Sequence[Scored | None], split: str) -> Differences:
    """Compares the runs of a table that can be compared, each with each."""
    with_predictions = {place: scored for place, scored in enumerate(predictions) if scored is not None}
    left_out = [
        f"The run {member.run} {no_predictions(member.training_id, split)}"
        for member, scored in zip(members, predictions, strict=True)
        if scored is None
    ]
    chosen, reasons = comparable_runs(list(with_predictions.values()))
    left_out += reasons.values()
    if len(chosen) < 2:
        return Differences(None, [], left_out)
    places = [list(with_predictions)[number] for number in chosen]
    compared = difference_matrix([with_predictions[place] for place in places])
    return Differences(compared, [places[number] for number in compared.order], left_out)


def compare_two(settings: CompareSettings) -> None:
    """Prints and logs the paired difference of two runs; of two runs of several seeds that of the seeds' means.

    Raises:
        InputError: one of them has no predictions of the split, they are the same, or they can't be compared.
    """
    a, run_a = scored_run(lookup.find_run(settings.a, "a", whole=True), f"a={settings.a}", settings.split)
    b, run_b = scored_run(lookup.find_run(settings.b, "b", whole=True), f"b={settings.b}", settings.split)
    if run_a.run_id == run_b.run_id:
        raise InputError(f"a={settings.a} and b={settings.b} are the same run, {b.run}; give two runs.")
    pairs = seeds.pair_seeds(a, b) if a.seeds or b.seeds else {}
    first, second, task = next(iter(pairs.values()), None) or pairwise.comparable(a, b)
    spread = seeds.seed_spread(pairs) if pairs else None
    members = as_table([run_a, run_b])
    with runs.start_run("compare") as run_id:
        about = members[["run_id", "system", "run", "evaluation", *results.TRAINING]].to_dict("records")
        runs.log_settings(asdict(settings), dict(zip("ab", about, strict=True)))
        table = pairwise.paired_means(list(pairs.values()) or [pairwise.Pair(first, second, task)])
        warnings = doubt_sentences(pairwise.doubts([("a", first), ("b", second)], task))
        text = comparison.comparison_text(a.condition, members, table, first, warnings, spread)
        print(text)
        runs.log_text("results/comparison.md", text)
        runs.log_table(table, "results/comparison.csv")
        runs.log_metrics(scoring.as_metrics(table, "difference"))
        if spread is not None:
            runs.log_table(spread.table, "results/seeds.csv")
        options: Mapping[str, str] = {"a": run_a.run_id, "b": run_b.run_id, "split": settings.split}
        command = command_line("compare", options)
        page = comparison.comparison_page(a.condition, members, table, first, warnings, command, spread)
        runs.log_page("results/comparison", page)
        print(experiments.where_to_look(run_id))
