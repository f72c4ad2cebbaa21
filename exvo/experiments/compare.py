"""Compares runs on the very same clips.

They are two (a, b), chosen ones (runs), or the newest finished run of each system. Of two runs it tests the paired
difference of every score; of more, the differences of the main score each with each, corrected for their number. Runs
of different corpora, tasks, protocols or splits never share a table. Runs of versions that did not yet tag system and
protocol are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from exvo.config import CompareSettings
from exvo.errors import InputError
from exvo.evaluation import pairwise, results, scoring
from exvo.evaluation.pairwise import Matrix, Scored
from exvo.evaluation.results import Condition
from exvo.options import command_line
from exvo.reports import comparison, matrix, tables
from exvo.text import writable
from exvo.tracking import lookup, names, runs, server
from exvo.tracking.lookup import Run
from exvo.tracking.runs import log_metrics, log_page, log_settings, log_table, log_text, start_run, where_to_look
from exvo.tracking.scored import no_predictions, predictions_of, scored_run, training


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
    rows = results.newest(lookup.finished_runs(trials=False), settings.split)
    if settings.corpus:
        rows = rows[rows["corpus"] == writable(settings.corpus)]
    if rows.empty:
        first = "train" if settings.split == "val" else "evaluate"
        raise InputError(
            f"No finished run has scores of the {settings.split} split"
            f"{f' of corpus={settings.corpus}' if settings.corpus else ''}; `{command_line(first, {})}` makes one"
            f"{'.' if first == 'train' else f', with run_id=<a training run> and split={settings.split}.'}"
        )
    with runs.start_run("compare") as run_id:
        runs.log_settings(asdict(settings), {"runs": rows["run_id"].tolist()})
        trained = pd.DataFrame([training(row) for row in rows.to_dict("records")], index=rows.index)
        rows = rows.drop(columns="run").join(trained)
        for keys, group in rows.groupby(results.KEYS):
            condition = results.make_condition(keys, settings.split)
            show(condition, group, [predictions_of(row, condition) for row in group.to_dict("records")])
        print(runs.where_to_look(run_id))


def compare_chosen(settings: CompareSettings) -> None:
    """Prints and logs the table of results of chosen runs, and their differences each with each.

    Raises:
        InputError: fewer than two runs, a run named twice, without predictions or not finished, or two that can't be
            compared; of several mistakes all are said.
    """
    found: list[tuple[Scored, dict[str, Any]]] = []
    mistakes = []
    for source in find_runs(settings.runs, "runs"):
        try:
            found.append(scored_run(source, "runs", settings.split))
        except InputError as error:
            mistakes.append(str(error))
    refuse(mistakes)
    rows = pd.DataFrame([row for _, row in found])
    if len(rows) < 2:
        raise InputError(f"runs={settings.runs} names {len(rows)} run; give two or more, with commas between.")
    twice = rows["run_id"].duplicated()
    runs = [one for one, _ in found]
    again = [one.run for one, known in zip(runs, twice, strict=True) if known]
    refuse(f"runs names the run {name} twice; name each run once." for name in again)
    refuse(pairwise.comparable_runs(runs)[1].values())
    with start_run("compare") as run_id:
        log_settings(asdict(settings), {"runs": rows["run_id"].tolist()})
        show(runs[0].condition, rows, runs)
        print(where_to_look(run_id))


def find_runs(text: str, option: str) -> list[Run]:
    """The runs of a list with commas between; see `lookup.find_run`. A name with commas of its own is found too.

    Raises:
        InputError: as `lookup.find_run` does, of all names at once; or the list can be read in two ways.
    """
    server.quiet()
    server.check_store()
    query = "attributes.run_name LIKE '%,%'"
    with_comma = [*names.search(query), *names.search(query, deleted=True)] if "," in text else []
    tried: list[tuple[list[Run], list[str]]] = []
    for reading in names.readings(text, (run.info.run_name for run in with_comma)):
        runs, mistakes = [], []
        for name in filter(str.strip, reading):
            try:
                runs.append(lookup.find_run(name, option))
            except InputError as error:
                mistakes.append(str(error))
        tried.append((runs, mistakes))
    right = [runs for runs, mistakes in tried if not mistakes]
    if len(right) > 1:
        ways = " or ".join(names.listed(map(names.about, runs)) for runs in right)
        raise InputError(f"{option}={text} can be read in several ways, because names hold commas; give ids: {ways}.")
    refuse([] if right else tried[0][1])
    return right[0]


def refuse(mistakes: Iterable[str]) -> None:
    """Raises InputError with all of the sentences, ten at most, where there are some."""
    every = list(mistakes)
    if every:
        more = f" And {len(every) - 10} more." if len(every) > 10 else ""
        raise InputError(" ".join(every[:10]) + more)


def show(condition: Condition, rows: pd.DataFrame, runs: Sequence[Scored | None]) -> None:
    """Prints and logs the results under one condition, and the differences of the runs that can be compared.

    Args:
        condition: that of all.
        rows: `run_id`, `run`, and what `results.results_table` takes.
        runs: their predictions, in the same order; None where there are none.
    """
    compared, best_first, left_out = differences(rows, runs, condition.split)
    table = results.results_table(condition, rows)
    parts, again = [], {"corpus": condition.corpus, "split": condition.split}
    if compared is not None:
        again = {"runs": ",".join(rows["run_id"].iloc[sorted(best_first)]), "split": condition.split}
        table["place"] = pd.Series(pd.NA, index=table.index, dtype="Int64")
        table.loc[best_first, "place"] = range(1, len(best_first) + 1)
        parts.append(matrix.matrix_text(compared))
        log_table(compared.pairs, f"results/{condition.name}-differences.csv")
    if left_out:
        parts.append(matrix.left_out_text(left_out))
    text = "\n".join([tables.results_text(condition, table), *parts])
    print(text)
    log_text(f"results/{condition.name}.md", text)
    log_table(table, f"results/{condition.name}.csv")
    page = matrix.many_page(condition, table, compared, left_out, command_line("compare", again))
    log_page(f"results/{condition.name}", page)


def differences(
    rows: pd.DataFrame, runs: Sequence[Scored | None], split: str
) -> tuple[Matrix | None, list[int], list[str]]:
    """The matrix of the runs that can be compared, their places in `rows`, the best first, and why others can't."""
    known = {place: one for place, one in enumerate(runs) if one is not None}
    silent = [row for row, one in zip(rows.to_dict("records"), runs, strict=True) if one is None]
    left_out = [f"The run {row['run']} {no_predictions(row, split)}" for row in silent]
    chosen, reasons = pairwise.comparable_runs(list(known.values()))
    left_out += reasons.values()
    if len(chosen) < 2:
        return None, [], left_out
    places = [list(known)[one] for one in chosen]
    compared = pairwise.matrix([known[place] for place in places])
    return compared, [places[place] for place in compared.order], left_out


def compare_two(settings: CompareSettings) -> None:
    """Prints and logs the paired difference of two runs.

    Raises:
        InputError: one of them has no predictions of the split, they are the same, or they can't be compared.
    """
    a, about_a = scored_run(lookup.find_run(settings.a, "a"), f"a={settings.a}", settings.split)
    b, about_b = scored_run(lookup.find_run(settings.b, "b"), f"b={settings.b}", settings.split)
    if about_a["run_id"] == about_b["run_id"]:
        raise InputError(f"a={settings.a} and b={settings.b} are the same run, {b.run}; give two runs.")
    first, second, task = pairwise.comparable(a, b)
    runs = pd.DataFrame([about_a, about_b])
    ids = dict(zip("ab", runs["run_id"], strict=True))
    with start_run("compare") as run_id:
        about = runs[["run_id", "system", "run", "evaluation", *results.TRAINING]].to_dict("records")
        log_settings(asdict(settings), dict(zip("ab", about, strict=True)))
        table = pairwise.paired(first, second, task)
        warnings = pairwise.doubts([("a", first), ("b", second)], task)
        text = comparison.comparison_text(a.condition, runs, table, first, warnings)
        print(text)
        log_text("results/comparison.md", text)
        log_table(table, "results/comparison.csv")
        log_metrics(scoring.as_metrics(table, "difference"))
        again = command_line("compare", ids | {"split": settings.split})
        page = comparison.two_page(a.condition, runs, table, first, warnings, again)
        log_page("results/comparison", page)
        print(where_to_look(run_id))
