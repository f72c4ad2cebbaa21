"""Which runs a name means, whatever name MLflow allows; sentences about runs, and about those that are deleted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from exvo.errors import InputError
from exvo.options import program
from exvo.text import listing
from exvo.tracking import server


def run_of_id(run_id: str) -> Run | None:
    """The run of that id, deleted or not; None where there is none.

    Raises:
        InputError: the store can't be used.
    """
    try:
        return MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code in server.NOT_THERE:
            return None
        raise server.unusable(error) from None


NEWEST = "attributes.start_time DESC"
"""The newest first, in MLflow's language."""


def each(query: str, deleted: bool = False, order: Sequence[str] = (NEWEST,), page: int = 1000) -> Iterator[Run]:
    """The runs of all experiments that a query of MLflow finds, a page at a time.

    A run takes milliseconds to come, with all its params and metrics: ask for few, and let the query choose.

    Args:
        query: in MLflow's language.
        deleted: finds deleted runs instead.
        order: in MLflow's language.
        page: runs that are asked for at once.

    Raises:
        InputError: the store can't be used.
    """
    client, token = MlflowClient(), ""
    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    try:
        experiments = client.search_experiments(view_type=ViewType.ALL if deleted else ViewType.ACTIVE_ONLY)
        ids = [experiment.experiment_id for experiment in experiments]
        while ids:
            found = client.search_runs(ids, query, view, page, [*order], token or None)
            yield from found
            token = found.token or ""
            if not token:
                break
    except MlflowException as error:
        raise server.unusable(error) from None


def search(query: str, deleted: bool = False) -> list[Run]:
    """All runs that a query finds, the newest first, see `each`."""
    return list(each(query, deleted))


def first(query: str, deleted: bool = False, order: Sequence[str] = (NEWEST,)) -> Run | None:
    """The first run that a query finds, see `each`; None where there is none."""
    return next(each(query, deleted, order, page=1), None)


def newest_of_each(query: str, fields: Sequence[str], deleted: bool = False) -> list[Run]:
    """The newest run of each combination of values of some tags or params; runs that lack one are left out.

    It asks for one run a combination and level, each time without the values that it has found: MLflow has no way to
    ask for the values themselves, and to read all runs takes seconds a thousand.

    Args:
        query: which runs.
        fields: one or more, as MLflow's language names them, such as "params.`width`".
        deleted: finds deleted runs instead.
    """
    field, *others = fields
    kind, _, name = field.partition(".")
    found: list[Run] = []
    others_than, values = query, set[str]()
    while run := first(f"{others_than} and {field} LIKE '%'" if not values else others_than, deleted):
        value = (run.data.tags if kind == "tags" else run.data.params)[name.strip("`")]
        if value in values:  # it can't be written in MLflow's language
            break
        values.add(value)
        found += newest_of_each(f"{query} and {field} = {quoted(value)}", others, deleted) if others else [run]
        others_than += f" and {field} != {quoted(value)}"
    return sorted(found, key=lambda run: run.info.start_time, reverse=True)


def quoted(value: str) -> str:
    """A value in MLflow's language."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def runs_of_name(name: str, deleted: bool = False) -> list[Run]:
    """The runs of that very name; where there are none, those whose name differs in how its letters are composed.

    MLflow's queries have no way to write every name, so the query is wider and the names are compared here.
    """
    composed = unicodedata.normalize("NFC", name)
    pattern = re.sub("[^A-Za-z0-9]+", "%", composed)
    similar = search(f"attributes.run_name LIKE '{pattern}'", deleted) if name else []
    same = [run for run in similar if run.info.run_name == name]
    return same or [run for run in similar if unicodedata.normalize("NFC", run.info.run_name) == composed]


def spellings(name: str) -> Iterator[str]:
    """What a name may stand for, the likeliest first: itself, less spaces around it, less what makes it a URI."""
    texts = [name, name.strip()]
    if texts[1].startswith("runs:/"):
        run = texts[1].removeprefix("runs:/")
        texts += [run, run.removesuffix("/model")]
    yield from dict.fromkeys(filter(None, texts))


def describe_run(run: Run) -> str:
    """A run in a list: its name, id, when it began, and how it ended."""
    began = datetime.fromtimestamp(run.info.start_time / 1000).astimezone().isoformat(" ", "minutes")
    return f"{run.info.run_name} ({run.info.run_id}; {began}, {run.info.status.lower()})"


def deleted(runs: list[Run]) -> str:
    """The sentence about runs that are deleted, with the command that restores one."""
    first = runs[0]
    experiment = MlflowClient().get_experiment(first.info.experiment_id)
    if experiment.lifecycle_stage == "deleted":
        return f"The run {describe_run(first)} is deleted with its whole experiment. {restore_experiment(experiment)}"
    restores = f"`{program('mlflow')} runs restore --run-id {first.info.run_id}` restores"
    if len(runs) == 1:
        return f"The run {describe_run(first)} is deleted; {restores} it."
    return f"All of these runs are deleted: {listing(map(describe_run, runs))}; {restores} the newest."


def restore_experiment(experiment: Experiment) -> str:
    """The sentence that says how an experiment that is deleted comes back."""
    restores = f"`{program('mlflow')} experiments restore -x {experiment.experiment_id}` restores"
    return f"The experiment {experiment.name} is deleted; {restores} it with its runs."


def require_one_condition(runs: list[Run], tags: Sequence[str], option: str) -> None:
    """Refuses runs of one system that can't stand for each other: of several corpora, tasks or protocols.

    Args:
        runs: the newest first.
        tags: of corpus, digest, task and protocol.
        option: with its value, as the user gave it.

    Raises:
        InputError: lists the newest of each.
    """
    newest: dict[tuple[str, ...], Run] = {}
    for run in runs:
        newest.setdefault(tuple(run.data.tags.get(tag, "") for tag in tags), run)
    if len(newest) > 1:
        each = listing(
            f"{run.info.run_name} ({run.info.run_id}): {corpus} {digest[:12]}, task {task}, {protocol} protocol"
            for (corpus, digest, task, protocol), run in newest.items()
        )
        raise InputError(
            f"{option}: the system's finished runs are of several corpora, tasks or protocols; give the name or id of "
            f"one run. The newest of each: {each}."
        )


def version_of_uri(uri: str) -> ModelVersion:
    """The registered version of `models:/<name>@<alias>` or `models:/<name>/<version>`."""
    name, at, version = re.split("([@/])", uri.removeprefix("models:/"), maxsplit=1)
    client = MlflowClient()
    return client.get_model_version_by_alias(name, version) if at == "@" else client.get_model_version(name, version)


def readings(text: str, with_comma: Iterable[str]) -> list[list[str]]:
    """The ways to read a list with commas between names, some of which may hold commas themselves.

    >>> readings("a,b,c", ["a,b"])
    [['a,b', 'c'], ['a', 'b', 'c']]
    """
    names_with_comma = set(with_comma)
    parts = text.split(",")

    def read(start: int) -> Iterator[list[str]]:
        if start == len(parts):
            yield []
        for end in range(len(parts), start, -1):
            name = ",".join(parts[start:end])
            if end == start + 1 or names_with_comma & set(spellings(name)):
                yield from ([name, *others] for others in read(end))

    return list(read(0))
