"""Compares runs on the very same clips: two (a, b), chosen ones (runs), or the newest finished run of each system.

Of two runs it tests the paired difference of every score; of more, the differences of the main score each with each,
corrected for their number. Runs of different corpora, tasks, protocols or splits never share a table. Runs of versions
that did not yet tag system and protocol are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from exvo.config import CompareSettings, InputError
from exvo.options import command_line
from exvo.text import writable
from pipelines.common import command, log_page

if TYPE_CHECKING:
    import pandas as pd

    from exvo.comparison import Scored
    from exvo.matrix import Matrix
    from exvo.results import Condition
    from exvo.tracking import Run


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
    import pandas as pd

    from exvo import lookup, results, tracking

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
    with tracking.run("compare") as run_id:
        tracking.log_settings(asdict(settings), {"runs": rows["run_id"].tolist()})
        trained = pd.DataFrame([training(row) for row in rows.to_dict("records")], index=rows.index)
        rows = rows.drop(columns="run").join(trained)
        for keys, group in rows.groupby(results.KEYS):
            condition = results.Condition(*keys, settings.split)
            show(condition, group, [scored(row, condition) for row in group.to_dict("records")])
        print(tracking.where_to_look(run_id))


def compare_chosen(settings: CompareSettings) -> None:
    """Prints and logs the table of results of chosen runs, and their differences each with each.

    Raises:
        InputError: fewer than two runs, a run named twice, without predictions or not finished, or two that can't be
            compared; of several mistakes all are said.
    """
    import pandas as pd

    from exvo import matrix, tracking

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
    refuse(matrix.comparable_runs(runs)[1].values())
    with tracking.run("compare") as run_id:
        tracking.log_settings(asdict(settings), {"runs": rows["run_id"].tolist()})
        show(runs[0].condition, rows, runs)
        print(tracking.where_to_look(run_id))


def find_runs(text: str, option: str) -> list[Run]:
    """The runs of a list with commas between; see `lookup.find_run`. A name with commas of its own is found too.

    Raises:
        InputError: as `lookup.find_run` does, of all names at once; or the list can be read in two ways.
    """
    from exvo import lookup, names, server

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
    import pandas as pd

    from exvo import comparison_pages, matrix, results, tracking

    compared, best_first, left_out = differences(rows, runs, condition.split)
    table = results.results_table(condition, rows)
    parts, again = [], {"corpus": condition.corpus, "split": condition.split}
    if compared is not None:
        again = {"runs": ",".join(rows["run_id"].iloc[sorted(best_first)]), "split": condition.split}
        table["place"] = pd.Series(pd.NA, index=table.index, dtype="Int64")
        table.loc[best_first, "place"] = range(1, len(best_first) + 1)
        parts.append(matrix.matrix_text(compared))
        tracking.log_table(compared.pairs, f"results/{condition.name}-differences.csv")
    if left_out:
        parts.append(matrix.left_out_text(left_out))
    text = "\n".join([results.results_text(condition, table), *parts])
    print(text)
    tracking.log_text(f"results/{condition.name}.md", text)
    tracking.log_table(table, f"results/{condition.name}.csv")
    page = comparison_pages.many_page(condition, table, compared, left_out, command_line("compare", again))
    log_page(f"results/{condition.name}", page)


def differences(
    rows: pd.DataFrame, runs: Sequence[Scored | None], split: str
) -> tuple[Matrix | None, list[int], list[str]]:
    """The matrix of the runs that can be compared, their places in `rows`, the best first, and why others can't."""
    from exvo import matrix

    known = {place: one for place, one in enumerate(runs) if one is not None}
    silent = [row for row, one in zip(rows.to_dict("records"), runs, strict=True) if one is None]
    left_out = [f"The run {row['run']} {no_predictions(row, split)}" for row in silent]
    chosen, reasons = matrix.comparable_runs(list(known.values()))
    left_out += reasons.values()
    if len(chosen) < 2:
        return None, [], left_out
    places = [list(known)[one] for one in chosen]
    compared = matrix.matrix([known[place] for place in places])
    return compared, [places[place] for place in compared.order], left_out


def training(scored: dict[str, Any]) -> dict[str, Any]:
    """How a scored run was trained: `run` (the training run's name), `evaluation` (its own, if another) and options.

    Args:
        scored: a row of `lookup.finished_runs`.
    """
    from exvo import lookup, results

    own = lookup.run_of_id(scored["run_id"])
    options, name, evaluation = lookup.load_settings(own)["options"], scored["run"], ""
    if scored["evaluated_run"]:
        source = lookup.run_of_id(scored["evaluated_run"])
        options = lookup.load_settings(source)["options"] | options
        name, evaluation = source.info.run_name, name
    return {"run": name, "evaluation": evaluation} | {option: options[option] for option in results.TRAINING}


def compare_two(settings: CompareSettings) -> None:
    """Prints and logs the paired difference of two runs.

    Raises:
        InputError: one of them has no predictions of the split, they are the same, or they can't be compared.
    """
    import pandas as pd

    from exvo import comparison, comparison_pages, evaluation, lookup, results, tracking

    a, about_a = scored_run(lookup.find_run(settings.a, "a"), f"a={settings.a}", settings.split)
    b, about_b = scored_run(lookup.find_run(settings.b, "b"), f"b={settings.b}", settings.split)
    if about_a["run_id"] == about_b["run_id"]:
        raise InputError(f"a={settings.a} and b={settings.b} are the same run, {b.run}; give two runs.")
    first, second, task = comparison.comparable(a, b)
    runs = pd.DataFrame([about_a, about_b])
    ids = dict(zip("ab", runs["run_id"], strict=True))
    with tracking.run("compare") as run_id:
        about = runs[["run_id", "system", "run", "evaluation", *results.TRAINING]].to_dict("records")
        tracking.log_settings(asdict(settings), dict(zip("ab", about, strict=True)))
        table = comparison.paired(first, second, task)
        warnings = comparison.doubts([("a", first), ("b", second)], task)
        text = comparison.comparison_text(a.condition, runs, table, first, warnings)
        print(text)
        tracking.log_text("results/comparison.md", text)
        tracking.log_table(table, "results/comparison.csv")
        tracking.log_metrics(evaluation.as_metrics(table, "difference"))
        again = command_line("compare", ids | {"split": settings.split})
        page = comparison_pages.two_page(a.condition, runs, table, first, warnings, again)
        log_page("results/comparison", page)
        print(tracking.where_to_look(run_id))


def scored_run(source: Run, given: str, split: str) -> tuple[Scored, dict[str, Any]]:
    """A run's predictions of a split, its own or those of its newest evaluation, as a row of a table of results.

    Raises:
        InputError: it has not finished, it is no run of a system, or it has no predictions.
    """
    from exvo import lookup, results

    said = f"The run {source.info.run_name} ({given})"
    status = source.info.status
    if status != "FINISHED":
        ended = {"FAILED": "has failed", "KILLED": "was stopped"}.get(status, f"is {status.lower()}")
        raise InputError(f"{said} {ended}; give a run that has finished.")
    runs = lookup.finished_runs()
    known = runs[(runs["run_id"] == source.info.run_id) | (runs["evaluated_run"] == source.info.run_id)]
    if source.info.run_id not in set(known["run_id"]):
        raise InputError(f"{said} names no system; give a run that train, main or evaluate of this version has made.")
    own_first = known.sort_values("evaluated_run", key=lambda column: column == source.info.run_id, kind="stable")
    for row in own_first.to_dict("records"):
        about = row | training(row) | {"metrics": results.of_split(row["metrics"], split)}
        condition = results.Condition(*(row[key] for key in results.KEYS), split)
        found = scored(about | {"run": source.info.run_name}, condition)
        if found is not None:
            return found, about
    raise InputError(f"{said} {no_predictions(own_first.iloc[0].to_dict(), split)}")


def scored(row: dict[str, Any], condition: Condition) -> Scored | None:
    """The predictions of a run of a table of results; None where it has none of the condition's split."""
    from exvo import comparison, lookup

    predictions = lookup.load_table(row["run_id"], f"predictions/{condition.split}.parquet")
    return None if predictions is None else comparison.Scored(row["run"], condition, row["shots"], predictions)


def no_predictions(row: dict[str, Any], split: str) -> str:
    """The end of a sentence about a run without predictions."""
    trained = row["evaluated_run"] or row["run_id"]
    again = command_line("evaluate", {"run_id": trained, "split": split})
    return f"has no predictions of the {split} split; write them with `{again}`."


if __name__ == "__main__":
    command("compare", run)
