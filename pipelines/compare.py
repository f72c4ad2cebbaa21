"""Lists the newest finished run of each system, or tests the paired difference of two runs, a and b.

Runs of different corpora, tasks, protocols or splits never share a table. Runs of versions that did not yet tag system
and protocol are left out.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from exvo.config import CompareSettings, InputError
from pipelines.common import command

if TYPE_CHECKING:
    from exvo.comparison import Scored


def run(settings: CompareSettings) -> None:
    """Compares in a run of its own."""
    if bool(settings.a) != bool(settings.b):
        missing = "b" if settings.a else "a"
        raise InputError(f"{missing} is empty; give both a and b to compare two runs, or neither to list all systems.")
    compare_two(settings) if settings.a else list_systems(settings)


def list_systems(settings: CompareSettings) -> None:
    """Prints and logs a table of results for each corpus, task and protocol.

    Raises:
        InputError: no finished run has scores to show.
    """
    import pandas as pd

    from exvo import results, tracking

    rows = results.newest(tracking.finished_runs(), settings.split)
    if settings.corpus:
        rows = rows[rows["corpus"] == settings.corpus]
    if rows.empty:
        first = "train" if settings.split == "val" else f"evaluate -P split={settings.split} -P run_id=<training run>"
        raise InputError(
            f"No finished run has scores of the {settings.split} split"
            f"{f' of corpus={settings.corpus}' if settings.corpus else ''}; first run `mlflow run . -e {first}`."
        )
    with tracking.run("compare") as run_id:
        tracking.log_settings(asdict(settings), {"runs": rows["run_id"].tolist()})
        trained = pd.DataFrame([training(row) for row in rows.to_dict("records")], index=rows.index)
        rows = rows.drop(columns="run").join(trained)
        for keys, group in rows.groupby(results.KEYS):
            condition = results.Condition(*keys, settings.split)
            table = results.results_table(condition, group)
            text = results.results_text(condition, table)
            print(text)
            tracking.log_text(f"results/{condition.name}.md", text)
            tracking.log_table(table, f"results/{condition.name}.csv")
        print(tracking.where_to_look(run_id))


def training(scored: dict[str, Any]) -> dict[str, Any]:
    """How a scored run was trained: `run` (the training run's name), `evaluation` (its own, if another) and options.

    Args:
        scored: a row of `tracking.finished_runs`.
    """
    from exvo import results, tracking

    own = tracking.find_run(scored["run_id"])
    options, name, evaluation = tracking.load_settings(own)["options"], scored["run"], ""
    if scored["evaluated_run"]:
        source = tracking.find_run(scored["evaluated_run"])
        options = tracking.load_settings(source)["options"] | options
        name, evaluation = source.info.run_name, name
    return {"run": name, "evaluation": evaluation} | {option: options[option] for option in results.TRAINING}


def compare_two(settings: CompareSettings) -> None:
    """Prints and logs the paired difference of two runs.

    Raises:
        InputError: one of them has no predictions of the split, or they can't be compared.
    """
    import pandas as pd

    from exvo import comparison, evaluation, tracking

    a, about_a = scored_run(settings.a, "a", settings.split)
    b, about_b = scored_run(settings.b, "b", settings.split)
    first, second, task = comparison.comparable(a, b)
    with tracking.run("compare") as run_id:
        tracking.log_settings(asdict(settings), {"a": about_a, "b": about_b})
        table = comparison.paired(first, second, task)
        text = comparison.comparison_text(a.condition, pd.DataFrame([about_a, about_b]), table, first)
        print(text)
        tracking.log_text("results/comparison.md", text)
        tracking.log_table(table, "results/comparison.csv")
        tracking.log_metrics(evaluation.as_metrics(table, "difference"))
        print(tracking.where_to_look(run_id))


def scored_run(name: str, option: str, split: str) -> tuple[Scored, dict[str, Any]]:
    """A run's predictions of a split, its own or those of its newest evaluation, and how it was trained.

    Raises:
        InputError: there is no such run, it has not finished, it is no run of a system, or it has no predictions.
    """
    from exvo import comparison, results, tracking

    source = tracking.find_run(name, option)
    said = f"The run {source.info.run_name} ({option}={name})"
    if source.info.status != "FINISHED":
        raise InputError(f"{said} is {source.info.status.lower()}; give a run that has finished.")
    runs = tracking.finished_runs()
    known = runs[(runs["run_id"] == source.info.run_id) | (runs["evaluated_run"] == source.info.run_id)]
    if source.info.run_id not in set(known["run_id"]):
        raise InputError(f"{said} names no system; give a run that train, main or evaluate of this version has made.")
    own_first = known.sort_values("evaluated_run", key=lambda column: column == source.info.run_id, kind="stable")
    for row in own_first.to_dict("records"):
        predictions = tracking.load_table(row["run_id"], f"predictions/{split}.parquet")
        if predictions is not None:
            about = {"system": row["system"]} | training(row)
            condition = results.Condition(*(row[key] for key in results.KEYS), split)
            return comparison.Scored(source.info.run_name, condition, about["shots"], predictions), about
    trained = own_first["evaluated_run"].iloc[0] or source.info.run_id
    raise InputError(
        f"{said} has no predictions of the {split} split; write them with "
        f"`mlflow run . -e evaluate -P run_id={trained} -P split={split}`."
    )


if __name__ == "__main__":
    command("compare", run)
