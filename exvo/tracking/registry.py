"""The model registry: which runs can be registered, the versions of `exvo-fewshot`, and who is champion."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion as ModelVersion
from mlflow.exceptions import MlflowException

from exvo.errors import InputError
from exvo.evaluation.prior import OverPrior
from exvo.evaluation.results import Condition
from exvo.evaluation.scoring import MEAN_CCC, UAR
from exvo.reports.card import of_version
from exvo.reports.tables import number_texts
from exvo.tracking import artifacts, names, server
from exvo.tracking.scored import SPLIT, condition
from exvo.tracking.tags import (
    CONDITION,
    CORPUS_TAG,
    DIGEST_TAG,
    DONE,
    EVALUATED_TAG,
    FOLD_TAG,
    GATE_TAG,
    MODEL_TAG,
    NO_FOLD,
    PROTOCOL_TAG,
    SEED_TAG,
    STUDY_TAG,
    SYSTEM_TAG,
    TASK_TAG,
    TRIAL_TAG,
)

MODEL = "exvo-fewshot"
CHAMPION = "champion"
CHAMPION_URI = f"models:/{MODEL}@{CHAMPION}"
DESCRIPTION = (
    "Emotions of vocal bursts. A request has a row a clip: `audio` (bytes of a sound file, base64 in JSON) and, for a "
    "personalised model, `enrolment` (a list of clips of the same speaker) or `profile` (what the param `mode=enrol` "
    "gave). The answer has a column a label, and `warnings` of what the model may not have heard. Each version's model "
    "card has the commands."
)
"""Of the registered model: the signature has no columns of requests, as MLflow drops unknown ones in silence."""


CANDIDATES = f"tags.`{TASK_TAG}` = 'fewshot' and {DONE} and {NO_FOLD}"
"""Finished few-shot runs with a model, trials of studies among them.

Folds of a cross-validation are not: each lacks speakers, and none is what the pooled score is about.
"""


def conditions() -> list[Condition]:
    """The conditions under which there are candidates with a defined validation score.

    Raises:
        InputError: the store can't be used.
    """
    server.quiet()
    server.check_store()
    newest = names.newest_of_each(CANDIDATES, [f"tags.`{tag}`" for tag in CONDITION])
    defined = [run for run in newest if not math.isnan(score(run)) or next(best_first(condition(run)), None)]
    return [condition(run) for run in defined]


def best_first(under: Condition) -> Iterator[Run]:
    """The candidates under a condition that have a defined validation score, the best first, equal ones the newest."""
    values = zip(CONDITION, (under.corpus, under.digest, under.task, under.protocol), strict=True)
    query = " and ".join([CANDIDATES, *(f"tags.`{tag}` = {names.quoted(value)}" for tag, value in values)])
    for headline in (UAR, MEAN_CCC):
        metric = f"metrics.`{SPLIT}/{headline}`"
        query_of_defined = f"{query} and {metric} > -10"  # undefined is greater than no number
        found = names.each(query_of_defined, order=[f"{metric} DESC", names.NEWEST], page=3)
        best = next(found, None)
        if best is not None:
            yield best
            yield from found
            return


def headline_of(run: Run) -> str:
    """The score that chooses, the headline of the run's task: of exclusive categories the UAR, else the mean CCC."""
    return UAR if f"{SPLIT}/{UAR}" in run.data.metrics else MEAN_CCC


def score(run: Run) -> float:
    """The validation score that chooses; NaN where it is undefined."""
    return float(run.data.metrics.get(f"{SPLIT}/{headline_of(run)}", math.nan))


def require_candidate(run: Run) -> None:
    """Refuses a run that is no finished few-shot training run with a model.

    Raises:
        InputError: says what it is instead.
    """
    tags, subject = run.data.tags, f"The run {run.info.run_name}"
    evaluated = tags.get(EVALUATED_TAG)
    if evaluated:
        raise InputError(f"{subject} trained nothing: it looks at the run {evaluated}; give that as run_id.")
    task = tags.get(TASK_TAG)
    if task is None:
        raise InputError(f"{subject} is no training run; give one that train, main or tune has made.")
    if task != "fewshot":
        raise InputError(f"{subject} was trained for task={task}; {MODEL} takes few-shot runs alone.")
    if FOLD_TAG in tags:
        raise InputError(
            f"{subject} is fold {tags[FOLD_TAG]} of a cross-validation, which has not learnt from all speakers; train "
            "the same system without folds, and register that run."
        )
    if run.info.status != "FINISHED":
        raise InputError(f"{subject} has not finished (it is {run.info.status.lower()}); give a run that has.")
    if MODEL_TAG not in tags:
        raise InputError(f"{subject} has logged no model; give another.")
    artifacts.require_model(tags[MODEL_TAG])


def champion() -> ModelVersion | None:
    """The version that is champion; None where there is none.

    Raises:
        InputError: the registry can't be used.
    """
    try:
        return MlflowClient().get_model_version_by_alias(MODEL, CHAMPION)
    except MlflowException as error:
        if error.error_code in server.NOT_THERE:
            return None
        raise server.unusable(error) from None


def run_of(version: ModelVersion) -> Run:
    """The training run of a version.

    Raises:
        InputError: it has been deleted.
    """
    try:
        return MlflowClient().get_run(version.run_id)
    except MlflowException:
        raise InputError(f"The run of version {version.version}, {version.run_id}, has been deleted.") from None


def version_of(run: Run) -> ModelVersion | None:
    """The newest version that a run is registered as; None where it is none."""
    versions = MlflowClient().search_model_versions(f"name = '{MODEL}' and run_id = '{run.info.run_id}'")
    return max(versions, key=lambda version: int(version.version), default=None)


def register(run: Run, card: str, tags: Mapping[str, str]) -> tuple[ModelVersion, bool]:
    """Registers a run's model, with its card and tags; of a run that is registered already it renews both.

    Returns:
        The version, and whether it is new.
    """
    client = MlflowClient()
    try:
        client.create_registered_model(MODEL, description=DESCRIPTION)
    except MlflowException as error:  # it is there, or another process has just made it
        try:
            client.get_registered_model(MODEL)
        except MlflowException:
            raise server.unusable(error) from None
    version = version_of(run)
    if version is None:
        from exvo.tracking.models import whole_model  # and with it PyTorch

        uri = whole_model(run)
        model_id = uri.removeprefix("models:/")
        version = client.create_model_version(MODEL, uri, run.info.run_id, dict(tags), None, card, model_id=model_id)
        is_new = True
    else:
        for name, value in tags.items():
            client.set_model_version_tag(MODEL, version.version, name, value)
        is_new = False
    description = of_version(card, version_uri(version.version))
    return client.update_model_version(MODEL, version.version, description=description), is_new


def version_uri(version: str) -> str:
    """The address of a version."""
    return f"models:/{MODEL}/{version}"


def make_champion(version: ModelVersion) -> None:
    """Moves the alias `champion` to a version."""
    MlflowClient().set_registered_model_alias(MODEL, CHAMPION, version.version)


def note_gate(version: ModelVersion, text: str) -> None:
    """Tags a version with what became of it at the gate."""
    MlflowClient().set_model_version_tag(MODEL, version.version, GATE_TAG, text)


def lineage(run: Run) -> dict[str, str]:
    """Where a version comes from, as its tags: run, system, corpus, protocol, commit, study and trial, or seeds."""
    copied = (
        SYSTEM_TAG,
        CORPUS_TAG,
        DIGEST_TAG,
        PROTOCOL_TAG,
        "git.commit",
        "git.dirty",
        "git.problem",
        SEED_TAG,
        STUDY_TAG,
        TRIAL_TAG,
    )
    tags = {name: run.data.tags[name] for name in copied if name in run.data.tags}
    above = run.data.tags.get("mlflow.parentRunId")
    kind = "exvo.seeds_run" if SEED_TAG in run.data.tags else "exvo.study_run"
    return (
        {"exvo.run_id": run.info.run_id}
        | tags
        | ({kind: above} if above else {})
        | {f"exvo.{SPLIT}_{headline_of(run)}": number_texts([score(run)], 6)[0]}
    )


def decide(gate: str, value: float, low: float, high: float) -> tuple[bool, str]:
    """Whether the alias moves to a run whose headline score differs from the champion's by `value`, and why.

    Args:
        gate: none, not-worse or better.
        value: candidate - champion; NaN where it is undefined.
        low: the lower end of its 95% interval by speaker.
        high: the upper end.

    >>> decide("not-worse", -0.01, -0.05, 0.02)
    (True, 'its 95% interval by speaker does not lie below zero')
    >>> decide("better", 0.01, -0.02, 0.05)
    (False, 'its 95% interval by speaker does not lie above zero')
    """
    if gate == "none":
        return True, "gate=none asks for no comparison"
    if math.isnan(value) or math.isnan(low):
        return False, "the difference or its 95% interval by speaker is undefined"
    passed, where = (low > 0, "above") if gate == "better" else (high >= 0, "below")
    lies = "lies" if (gate == "better") == passed else "does not lie"
    return passed, f"its 95% interval by speaker {lies} {where} zero"


def better_than_prior(over: OverPrior) -> tuple[bool, str]:
    """Whether a model has learnt enough to be champion, and why: it must be better than the prior, by speaker.

    >>> better_than_prior(OverPrior("category_uar", 0.01, -0.02, 0.04))
    (False, 'its 95% interval by speaker over the prior does not lie above zero')
    """
    if math.isnan(over.value):
        return False, "its validation score is undefined"
    if math.isnan(over.low):
        return False, (
            "its difference to the prior or the 95% interval by speaker is undefined, as it is where the corpus does "
            "not say who speaks; gate=none asks for none"
        )
    lies = "lies" if over.better else "does not lie"
    return over.better, f"its 95% interval by speaker over the prior {lies} above zero"


def version_page(version: str) -> str:
    """How to open a version's page, with its card, in the UI."""
    return f"card   {server.page(f'#/models/{MODEL}/versions/{version}')}"
