"""Registers a few-shot run as exvo-fewshot, with a model card.

Without run_id it takes the run with the best validation score among those of one corpus and protocol: UAR of exclusive
categories, else the mean CCC. The alias `champion` moves to it only if the run passes the gate on the validation split,
by speaker: it must be better than the prior (what the training labels say without hearing anything), and its paired
difference to the present champion good enough. The test split is never looked at to choose. To register the same run
again renews its card.
"""

from __future__ import annotations

import math
from dataclasses import asdict

import pandas as pd

from exvo.errors import InputError
from exvo.evaluation import pairwise, prior, scoring
from exvo.evaluation.pairwise import Scored
from exvo.evaluation.prior import OverPrior
from exvo.evaluation.results import Condition
from exvo.options import command_line
from exvo.reports import card
from exvo.reports.card import CardFacts
from exvo.reports.names import score_name
from exvo.reports.sentences import doubt_sentences, prior_text
from exvo.reports.tables import interval_texts, number_texts
from exvo.settings import RegisterSettings
from exvo.text import listing
from exvo.tracking import artifacts, experiments, lookup, registry, runs, scored, server
from exvo.tracking.lookup import Run
from exvo.tracking.registry import ModelVersion
from exvo.tracking.tags import ENTRY_TAG, GATE_TAG


def run(settings: RegisterSettings) -> None:
    """Registers in a run of its own, and says what it did and why."""
    source = run_to_register(settings)
    challenger = scored.validated(source)
    with runs.start_run("register") as run_id:
        runs.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        runs.log_evaluated(source, challenger.condition.protocol)
        runs.log_resolved({"protocol": challenger.condition.protocol})
        (score,) = number_texts([registry.score(source)])
        name = f"{scored.SPLIT} {score_name(registry.headline_of(source))}"
        print(f"candidate   {source.info.run_name} ({source.info.run_id}), {name} {score}")
        over = over_prior_of(source, challenger)
        print(f"prior       {prior_text(over)}")
        champion = registry.champion()
        already = champion is not None and champion.run_id == source.info.run_id
        learnt, why = registry.better_than_prior(over)
        if already:
            moves, why = False, "it is champion already"
        elif not learnt and settings.gate != "none":
            moves = False
        elif champion is None:
            moves, why = True, "there was no champion" if learnt else "gate=none asks for no comparison"
        else:
            moves, why = gate_decision(settings.gate, champion, challenger)
        forced = moves and settings.gate == "none" and (champion is not None or not learnt)
        text = card.card(facts(source, challenger, over, forced))
        outcome = f"{settings.gate}: {{}}, because {why}"
        tags = registry.lineage(source)
        if not already:  # true even if the command is killed before the alias has moved
            tags[GATE_TAG] = outcome.format("passed" if moves else "not champion")
        version, new = registry.register(source, text, tags)
        runs.log_text("card.md", version.description)
        print(
            f"registered  {registry.MODEL} version {version.version}{'' if new else ' (it was already; card renewed)'}"
        )
        if moves:
            registry.make_champion(version)
            registry.note_gate(version, outcome.format("became champion"))
        elif already and champion is not None:
            noted = champion.tags.get(GATE_TAG, "")
            if ": passed, " in noted:  # an earlier command was killed after the alias had moved
                registry.note_gate(version, noted.replace(": passed, ", ": became champion, "))
        print(f"decision    {verdict(version.version, moves, already)}: {why}.")
        uri = registry.CHAMPION_URI if moves or already else registry.version_uri(version.version)
        print(f"load        {uri}")
        print(f"{registry.version_page(version.version)}\n{experiments.where_to_look(run_id, to_see=False)}")


def verdict(version: str, moves: bool, already: bool) -> str:
    """What became of the alias."""
    if moves:
        return f"version {version} is champion now"
    if already:
        return f"version {version} stays champion"
    return f"version {version} does not become champion (gate=none would move the alias)"


def run_to_register(settings: RegisterSettings) -> Run:
    """The run to register: the named one, or the best on val among those of one corpus and protocol.

    Only a model that this version of exvo computes is registered; candidates with others are left out, each with a line
    that says why.

    Raises:
        InputError: there is none, the named one can't be registered, or the runs are of several corpora or protocols
            and no option says which.
    """
    if settings.run_id:
        if settings.corpus or settings.protocol != "auto":
            raise InputError("run_id is given beside corpus or protocol; give the run, or where to look for the best.")
        source = lookup.find_run(settings.run_id)
        registry.require_candidate(source)
        require_model_that_loads(source)
        return source
    present = registry.conditions()
    matching = [condition for condition in present if matches(condition, settings)]
    if not matching:
        others = f" There are: {conditions_text(present)}." if present else ""
        limits = " that fits corpus and protocol" if present else ""
        raise InputError(
            f"No finished few-shot run with a validation score and a model is there{limits}; "
            f"`{command_line('train', {})}` makes one.{others}"
        )
    if len(matching) > 1:
        raise InputError(
            "Scores of different corpora and protocols can't be ranked, and there are runs of several; give corpus (a "
            f"name, or the first digits of a digest), protocol, or run_id: {conditions_text(matching)}."
        )
    print(f"the best validation score of {conditions_text(matching)}")
    for run in registry.best_first(matching[0]):
        try:
            require_model_that_loads(run)
        except server.StoreAway:
            raise
        except InputError as error:
            print(f"left out    {run.info.run_name} ({run.info.run_id}): {error}")
        else:
            return run
    raise InputError("No model of these runs can be used any more, as said above; train one again.")


def require_model_that_loads(run: Run) -> None:
    """Refuses a run whose model, or the encoder of its features, this version of exvo can't compute.

    Raises:
        InputError: it can't.
    """
    from exvo.tracking import models  # and with it PyTorch, which a command that is refused before does not need

    models.checkpoint_of(run, "cpu")


def matches(condition: Condition, settings: RegisterSettings) -> bool:
    """Whether a run is of the corpus and protocol that the options name."""
    same_corpus = settings.corpus in ("", condition.corpus) or condition.digest.startswith(settings.corpus)
    return same_corpus and settings.protocol in ("auto", condition.protocol)


def conditions_text(conditions: list[Condition]) -> str:
    """The conditions, for a sentence."""
    return listing(f"{each.corpus} {each.digest[:12]} under the {each.protocol} protocol" for each in conditions)


def gate_decision(gate: str, champion: ModelVersion, challenger: Scored) -> tuple[bool, str]:
    """Whether the alias moves, and why; prints and logs the difference to the champion's run."""
    try:
        titleholder = scored.validated(registry.run_of(champion))
        print(f"champion    {titleholder.run} ({champion.run_id}), version {champion.version}")
        ours, theirs = validation_text(challenger), validation_text(titleholder)
        if ours != theirs:
            raise InputError(f"the run was validated on {ours}, the champion on {theirs}")
        first, second, task = pairwise.comparable(titleholder, challenger)
    except InputError as error:
        if gate == "none":
            return registry.decide(gate, math.nan, math.nan, math.nan)
        reason = str(error).rstrip(".")
        return False, f"they can't be compared: {reason}"
    table = pairwise.paired(first, second, task)
    runs.log_table(table, "results/comparison.csv")
    runs.log_metrics(scoring.as_metrics(table, "difference"))
    print(f"difference  {difference_text(table)}, over {len(first)} clips of {first['speaker'].nunique()} speakers")
    for doubt in doubt_sentences(pairwise.doubts([("the champion", first), ("the run", second)], task)):
        print(f"note        {doubt}")
    row = table.iloc[0]
    return registry.decide(gate, row["value"], row["lo_by_speaker"], row["hi_by_speaker"])


def over_prior_of(source: Run, challenger: Scored) -> OverPrior:
    """How much better than the prior a run is on validation; logs it.

    The prior of early versions' runs, which they have not logged, is that of the validation labels.
    """
    task = challenger.task
    found = scored.prior_of_run(source) or prior.prior_of_table(challenger.predictions, task)
    over = prior.over_prior(challenger.predictions, task, found)
    name = f"over_prior/{over.metric}"
    ends = {f"{name}_lo_by_speaker": over.low, f"{name}_hi_by_speaker": over.high}
    runs.log_metrics({name: over.value} | ({} if math.isnan(over.low) else ends))
    return over


def validation_text(run: Scored) -> str:
    """What two runs must share to be compared, in words."""
    condition = run.condition
    shots = f", {run.shots} enrolment clips" if condition.protocol == "strict" else ""
    return f"{condition.corpus} {condition.digest[:12]} under the {condition.protocol} protocol{shots}"


def difference_text(table: pd.DataFrame) -> str:
    """The difference of the headline score, with its interval by speaker."""
    row = table.iloc[0]
    if math.isnan(row["value"]):
        return f"{row['metric']}, candidate - champion: undefined"
    (bounds,) = interval_texts([row["lo_by_speaker"]], [row["hi_by_speaker"]])
    return f"{row['value']:+.4f} {row['metric']}, candidate - champion; 95% interval by speaker {bounds}"


def facts(source: Run, challenger: Scored, over: OverPrior, forced: bool) -> CardFacts:
    """What the card says, from the run, its evaluations and the gate."""
    evaluations = {split: scored.evaluations(source, split) for split in ("test", "val")}
    test_scores = (table for run in evaluations["test"] if (table := artifacts.scores(run, "test")) is not None)
    scores = {"val": artifacts.scores(source, "val"), "test": next(test_scores, None)}
    enrolments = (
        (split, artifacts.load_table(run.info.run_id, f"report/{split}/enrolment.parquet"))
        for split, evaluated in evaluations.items()
        for run in evaluated
    )
    libraries = artifacts.load_json(source, "environment.json").get("libraries", {})
    others = scored.runs_about(source, "evaluate") if scores["test"] is None else []
    return CardFacts(
        run=f"{card.text(source.info.run_name)} ({source.info.run_id})",
        entry_point=source.data.tags[ENTRY_TAG],
        lineage=registry.lineage(source),
        settings=artifacts.load_settings(source),
        audit=artifacts.load_json(source, "audit.json"),
        libraries={name: libraries[name] for name in ("mlflow", "torch", "torchaudio") if name in libraries},
        best_epoch=source.data.metrics["best_epoch"],
        validation=challenger,
        scores={split: table for split, table in scores.items() if table is not None},
        enrolment=next(((split, table) for split, table in enrolments if table is not None), None),
        curve=scored.newest_curve(source),
        robustness=scored.newest_robustness(source),
        over_prior=over,
        forced=forced,
        tested_otherwise=any(artifacts.load_settings(run)["options"]["split"] == "test" for run in others),
    )
