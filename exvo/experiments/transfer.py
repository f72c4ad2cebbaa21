"""Trains on each of several tables, tests each model on all.

Of three or more tables it trains on all but each too, and tests on that one. A run for each training lies beneath that
of the command. The same command goes on with the one that it was stopped in.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from exvo import systems
from exvo.config import ELSEWHERE
from exvo.corpora.common import in_common
from exvo.corpora.joined import ALL_BUT
from exvo.errors import InputError
from exvo.evaluation import scoring
from exvo.evaluation.groups import ENDS
from exvo.evaluation.prior import chance
from exvo.experiments.corpus import Ready, log_corpus, read_corpus, require_usable_clips
from exvo.experiments.features import open_extractor, record
from exvo.experiments.prediction import predictions_of
from exvo.experiments.resume import Begun, resumable
from exvo.experiments.train import log_system, resolve, start, train, training_task
from exvo.files import write_atomically
from exvo.networks.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from exvo.reports.transfer import transfer_page, transfer_text, transfer_verdict
from exvo.settings import TrainSettings
from exvo.systems import SystemConfig
from exvo.tracking import experiments, lookup, runs
from exvo.tracking.tags import TABLE_TAG
from exvo.training.states import States


def run(given: TrainSettings) -> None:
    """Trains and tests in a run of its own.

    Raises:
        InputError: there are not several tables, or options that make no sense here are given.
    """
    settings, system = resolve(given)
    require_transferable(settings, system)
    with resumable("transfer", settings, system) as begun:
        begun.part = "training"
        ready = start_transfer(settings, system, begun.ready)
        folder = Path(settings.output) / "runs" / begun.run_id / "tables"
        rows: list[dict[str, Any]] = []
        for number, name in enumerate(trainings(ready), 1):
            path = folder / f"{number}.json"
            done = read_rows(path)
            if done is None:
                begun.fold = number
                done = train_table(settings, system, ready, name, begun)
                write_atomically(path, json.dumps(done).encode())
            else:
                print(f"{name} is done: run {done[0]['run_id']}")
            rows += done
        table = pd.DataFrame(rows)
        runs.log_table(table, "transfer.csv")
        metric = scoring.headline(training_task(settings, system, ready.of_table(name).corpus))
        print(f"\n{transfer_text(table, metric)}\n\n{transfer_verdict(table, metric, settings.model)}")
        runs.log_page("report/transfer", transfer_page(table, metric, settings.model))
        print("report of the run: the artifact report/transfer.html")
        print(experiments.where_to_look(begun.run_id))
    shutil.rmtree(folder, ignore_errors=True)


def trainings(ready: Ready) -> list[str]:
    """What is trained on: each table, then all but each; of two tables the latter would be the other one again."""
    tables = list(ready.corpus.roots)
    return tables + [f"{ALL_BUT}{name}" for name in tables if len(tables) > 2]


def require_transferable(settings: TrainSettings, system: SystemConfig) -> None:
    """Refuses options with which no table can be compared with the others.

    Raises:
        InputError: names the option.
    """
    wrong = {
        "folds": settings.folds and "each table is tested on its test split; leave folds out",
        "seeds": settings.seeds != 1 and "a transfer trains each table once; leave seeds out",
        "devices": settings.devices != 1 and "a transfer trains on one device; leave devices out",
        "task": settings.task != "fewshot" and "tables have emotions in common alone; give task=fewshot",
        "init": settings.init.startswith("runs:/") and "that run may have learnt from a table; leave init out",
        "model": system.start in systems.SYSTEMS and not settings.init and "it continues another run; give another",
    }
    for option, reason in wrong.items():
        if reason:
            raise InputError(f"{option}={getattr(settings, option)}: {reason}.")


def start_transfer(settings: TrainSettings, system: SystemConfig, ready: Ready | None) -> Ready:
    """Logs the settings and the tables in the command's run, after all that can be refused was looked at.

    Raises:
        InputError: there is one table, or one can't be trained on.
    """
    runs.log_settings(
        asdict(settings),
        {"system": asdict(system), "features": record(open_extractor(settings.features, settings.device))},
    )
    log_system(settings)
    ready = ready or read_corpus(settings)
    if not ready.corpus.roots:
        raise InputError(
            f"transfer trains on each of several tables; give two or more, as data=a.csv,b.csv, not {settings.data!r}."
        )
    log_corpus(ready)
    for name in ready.corpus.roots:
        one = ready.of_table(name)
        if not (one.corpus.clips["speaker"][one.corpus.clips["split"] != ""] != "").any():
            systems.require_speakers(settings.model, system, settings.task)
        for split in ("train", "val", "test"):
            if len(one.rows(split)) < 2:
                raise InputError(
                    f"The table {name} has {len(one.rows(split))} readable clips in its {split} split; it needs at "
                    "least two."
                )
        require_usable_clips(one, settings.skip_unreadable)
        training_task(settings, system, one.corpus)
    runs.keep_run()
    return ready


def train_table(
    settings: TrainSettings, system: SystemConfig, ready: Ready, name: str, begun: Begun
) -> list[dict[str, Any]]:
    """Trains on a table, or all but it, in a run beneath the command's, in that of an earlier one where there is one.

    Args:
        settings: without `auto`.
        system: that they train.
        ready: all tables.
        name: what to train on, see `trainings`.
        begun: the command's run and the number of the training.

    Returns:
        A row for each table on which the model is tested, see `test_on`.
    """
    print(f"\ntraining {begun.fold} of {len(trainings(ready))}: {name}", flush=True)
    earlier = lookup.run_beneath(begun.run_id, TABLE_TAG, name)
    tags = {TABLE_TAG: name}
    with runs.start_run("train", earlier, parent=begun.run_id, tags=tags, output=settings.output) as run_id:
        best_file = Path(settings.output) / "runs" / run_id / WEIGHTS
        begun.states = States(best_file, f"{begun.command}-{begun.fold}")
        own = ready.of_table(name)
        start(settings, system, own)
        train(settings, system, own, run_id, states=begun.states)
        checkpoint = load_checkpoint(best_file)
        rows = [
            {"trained_on": name, "tested_on": other, **test_on(other, checkpoint, ready, settings), "run_id": run_id}
            for other in ready.corpus.roots
            if name in ready.corpus.roots or name == f"{ALL_BUT}{other}"
        ]
    begun.states.clear()
    return rows


def test_on(name: str, checkpoint: Checkpoint, ready: Ready, settings: TrainSettings) -> dict[str, Any]:
    """The headline score on the test split of one table, over what it has in common with the model.

    The predictions are logged as `transfer/<name>.parquet` of the present run.

    Returns:
        value and `groups.ENDS` (NaN where they are undefined), n (clips), speakers (0 where a clip's is not known),
        in_common (categories or intensities),
        left_out (clips of categories that the model does not know), chance, and why nothing is scored (empty: it is).
    """
    task = checkpoint.task
    undefined = dict.fromkeys(("value", *ENDS, "chance"), math.nan) | {
        "n": 0,
        "speakers": 0,
        "in_common": 0,
        "left_out": 0,
    }
    one = ready.of_table(name)
    readable = one.corpus.clips["split"].where((one.audio["problem"] == "").to_numpy(), "")
    try:
        corpus = replace(one.corpus, clips=one.corpus.clips.assign(split=readable))
        common = in_common(corpus, task.targets, task.categories, "test")
        scored = task.among(list(common.targets))
        table = predictions_of(checkpoint, replace(one, corpus=common.corpus), ELSEWHERE, settings, scored)["right"]
        scores = scoring.score(table, scored).set_index("metric")
    except InputError as error:
        print(f"not tested on {name}: {error}")
        return undefined | {"why_not": str(error)}
    runs.log_table(table.assign(split="test"), f"transfer/{name}.parquet")
    row = scores.loc[scoring.headline(scored)].to_dict()
    figures = {column: float(row[column]) for column in ("value", *ENDS)} | {"n": int(row["n"])}
    guessed, speakers = chance(scored), set(scoring.scorable(table)["speaker"])
    return figures | {
        "speakers": 0 if "" in speakers else len(speakers),
        "in_common": len(common.targets), "left_out": common.left_out_clips, "chance": guessed, "why_not": "",
    }  # fmt: skip


def read_rows(path: Path) -> list[dict[str, Any]] | None:
    """What `train_table` gave for a table; None where it is not done, or its run is gone."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return rows if lookup.run_exists(rows[0]["run_id"]) else None
