"""Registers a few-shot run as exvo-fewshot, with a model card.

Without run_id it takes the run with the best validation score among those of one corpus and protocol. The alias
`champion` moves to it only if the run passes the gate: its paired difference to the present champion on the validation
split, by speaker. The test split is never looked at to choose. To register the same run again renews its card.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict

import pandas as pd

from exvo.config import RegisterSettings
from exvo.errors import InputError
from exvo.evaluation import pairwise, scoring
from exvo.evaluation.pairwise import Scored
from exvo.evaluation.results import Condition
from exvo.options import command_line
from exvo.reports import card
from exvo.reports.card import Facts
from exvo.reports.tables import intervals, numbers
from exvo.text import listing
from exvo.tracking import artifacts, lookup, registry, runs, scored
from exvo.tracking.lookup import Run
from exvo.tracking.registry import ModelVersion
from exvo.tracking.tags import ENTRY_TAG, GATE_TAG


def run(settings: RegisterSettings) -> None:
    """Registers in a run of its own, and says what it did and why."""
    source = choose(settings)
    challenger = scored.validated(source)
    with runs.start_run("register") as run_id:
        runs.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        runs.log_evaluated(source, challenger.condition.protocol)
        (score,) = numbers([registry.score(source)])
        print(f"candidate   {source.info.run_name} ({source.info.run_id}), {registry.SCORE} {score}")
        champion = registry.champion()
        already = champion is not None and champion.run_id == source.info.run_id
        if champion is None and score == "undefined" and settings.gate != "none":
            moves, why = False, "its validation score is undefined"
        elif champion is None:
            moves, why = True, "there was no champion"
        elif already:
            moves, why = False, "it is champion already"
        else:
            moves, why = weigh(settings.gate, champion, challenger)
        text = card.card(facts(source, challenger))
        runs.log_text("card.md", text)
        outcome = f"{settings.gate}: {{}}, because {why}"
        tags = registry.lineage(source)
        if not already:  # what stays true if the command is killed before the alias has moved
            tags[GATE_TAG] = outcome.format("passed" if moves else "not champion")
        version, new = registry.register(source, text, tags)
        print(
            f"registered  {registry.MODEL} version {version.version}{'' if new else ' (it was already; card renewed)'}"
        )
        if moves:
            registry.make_champion(version)
            registry.note_gate(version, outcome.format("became champion"))
        elif already and champion is not None:
            known = champion.tags.get(GATE_TAG, "")
            if ": passed, " in known:  # an earlier command was killed after the alias had moved
                registry.note_gate(version, known.replace(": passed, ", ": became champion, "))
        print(f"decision    {verdict(version.version, moves, already)}: {why}.")
        uri = registry.CHAMPION_URI if moves or already else f"models:/{registry.MODEL}/{version.version}"
        print(f"load        {uri}")
        print(f"{registry.where_to_look(version.version)}\n{runs.where_to_look(run_id)}")


def verdict(version: str, moves: bool, already: bool) -> str:
    """What became of the alias."""
    if moves:
        return f"version {version} is champion now"
    if already:
        return f"version {version} stays champion"
    return f"version {version} does not become champion (gate=none would move the alias)"


def choose(settings: RegisterSettings) -> Run:
    """The run to register: the named one, or the best on val among those of one corpus and protocol.

    Only a model that this version of exvo computes is registered: others of the candidates are left out, and said.

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
    every = [(run, scored.condition(run)) for run in registry.candidates()]
    kept = [(run, condition) for run, condition in every if fits(condition, settings)]
    if not kept:
        there = f" There are: {listed([condition for _, condition in every])}." if every else ""
        raise InputError(
            "No finished few-shot run with a validation score and a model is there"
            f"{' that fits corpus and protocol' if every else ''}; `{command_line('train', {})}` makes one.{there}"
        )
    conditions = [condition for _, condition in kept]
    if len(set(conditions)) > 1:
        raise InputError(
            "Scores of different corpora and protocols can't be ranked, and there are runs of several; give corpus (a "
            f"name, or the first digits of a digest), protocol, or run_id: {listed(conditions)}."
        )
    print(f"the best validation score of {listed(conditions)}")
    for run in sorted((run for run, _ in kept), key=registry.score, reverse=True):
        try:
            require_model_that_loads(run)
        except InputError as error:
            print(f"left out    {run.info.run_name} ({run.info.run_id}): {error}")
        else:
            return run
    raise InputError("No model of these runs can be used any more, as said above; train one again.")


def require_model_that_loads(run: Run) -> None:
    """Refuses a run whose model this version of exvo can't compute.

    Raises:
        InputError: it can't.
    """
    from exvo.tracking import models  # and with it PyTorch, which a command that is refused before does not need

    models.checkpoint_of(run)


def fits(condition: Condition, settings: RegisterSettings) -> bool:
    """Whether a run is of the corpus and protocol that the options name."""
    corpus = settings.corpus in ("", condition.corpus) or condition.digest.startswith(settings.corpus)
    return corpus and settings.protocol in ("auto", condition.protocol)


def listed(conditions: list[Condition]) -> str:
    """The conditions and how many runs each has, for a sentence."""
    return listing(
        f"{one.corpus} {one.digest[:12]} under the {one.protocol} protocol ({count} run{'s' if count > 1 else ''})"
        for one, count in Counter(conditions).items()
    )


def weigh(gate: str, champion: ModelVersion, challenger: Scored) -> tuple[bool, str]:
    """Whether the alias moves, and why; prints and logs the difference to the champion's run."""
    try:
        holder = scored.validated(registry.run_of(champion))
        print(f"champion    {holder.run} ({champion.run_id}), version {champion.version}")
        ours, theirs = validated(challenger), validated(holder)
        if ours != theirs:
            raise InputError(f"the run was validated on {ours}, the champion on {theirs}")
        first, second, task = pairwise.comparable(holder, challenger)
    except InputError as error:
        if gate == "none":
            return registry.decide(gate, math.nan, math.nan, math.nan)
        reason = str(error).rstrip(".")
        return False, f"they can't be compared: {reason}"
    table = pairwise.paired(first, second, task)
    runs.log_table(table, "results/comparison.csv")
    runs.log_metrics(scoring.as_metrics(table, "difference"))
    print(f"difference  {difference(table)}, over {len(first)} clips of {first['speaker'].nunique()} speakers")
    for doubt in pairwise.doubts([("the champion", first), ("the run", second)], task):
        print(f"note        {doubt}")
    row = table.iloc[0]
    return registry.decide(gate, row["value"], row["lo_by_speaker"], row["hi_by_speaker"])


def validated(run: Scored) -> str:
    """What two runs must share to be compared, in words."""
    of = run.condition
    shots = f", {run.shots} enrolment clips" if of.protocol == "strict" else ""
    return f"{of.corpus} {of.digest[:12]} under the {of.protocol} protocol{shots}"


def difference(table: pd.DataFrame) -> str:
    """The difference of the headline score, with its interval by speaker."""
    row = table.iloc[0]
    if math.isnan(row["value"]):
        return f"{row['metric']}, candidate - champion: undefined"
    (bounds,) = intervals([row["lo_by_speaker"]], [row["hi_by_speaker"]])
    return f"{row['value']:+.4f} {row['metric']}, candidate - champion; 95% interval by speaker {bounds}"


def facts(source: Run, challenger: Scored) -> Facts:
    """What the card says, from the run and its evaluations."""
    every = {"val": artifacts.scores(source, "val")}
    evaluated = scored.evaluations(source, "test")
    tested = (table for one in evaluated if (table := artifacts.scores(one, "test")) is not None)
    every["test"] = next(tested, None)
    reports = [("test", one) for one in evaluated]
    reports += [("val", one) for one in scored.evaluations(source, "val")]
    tables = (
        (split, artifacts.load_table(one.info.run_id, f"report/{split}/enrolment.parquet")) for split, one in reports
    )
    libraries = artifacts.load_json(source, "environment.json").get("libraries", {})
    looked = scored.looks(source, "evaluate") if every["test"] is None else []
    return card.Facts(
        run=f"{card.text(source.info.run_name)} ({source.info.run_id})",
        entry_point=source.data.tags[ENTRY_TAG],
        lineage=registry.lineage(source),
        settings=artifacts.load_settings(source),
        audit=artifacts.load_json(source, "audit.json"),
        libraries={name: libraries[name] for name in ("mlflow", "torch", "torchaudio") if name in libraries},
        best_epoch=source.data.metrics["best_epoch"],
        validation=challenger,
        scores={split: table for split, table in every.items() if table is not None},
        enrolment=next(((split, table) for split, table in tables if table is not None), None),
        curve=scored.newest_curve(source),
        tested_otherwise=any(artifacts.load_settings(one)["options"]["split"] == "test" for one in looked),
    )
