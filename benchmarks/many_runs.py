"""How much longer commands look for runs in a store of 5,000 runs than in one of two.

.venv/bin/python -m benchmarks.many_runs    # these rows alone, in some minutes

The runs are copies of a real one, made in MLflow's database, under other names, systems, corpora, protocols and scores:
their artifacts are those of the one that was copied.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from mlflow import MlflowClient
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam, SqlRun, SqlTag
from tqdm import tqdm

from benchmarks.timing import REPEATS, Row, row, seconds
from exvo.errors import InputError
from exvo.evaluation.scoring import MEAN_CCC
from exvo.experiments.resume import unfinished_runs
from exvo.tracking import lookup, registry, scored
from exvo.tracking.tags import (
    CORPUS_TAG,
    DIGEST_TAG,
    ENTRY_TAG,
    PROTOCOL_TAG,
    SYSTEM_TAG,
    TASK_TAG,
    TRIAL_TAG,
)

COUNT = 5_000
"""Runs of the large store."""

METRICS = 197
"""Metrics that a copy has: what a run on EmoGator logged before most scores stood in tables alone."""

MOST_SECONDS = 3.0
"""What the look-ups of a command may take longer in the large store."""

RUNS = ("cnn10", "cnn10-relative")
TINY = ("--width", "0.05", "--epochs", "1", "--protocol", "strict")

NAMED = "small"
"""The name of the run that is copied."""

COPIED = (
    "cnn10-random-init",
    "cnn14-random-init",
    "cnn10-relative",
    "cnn10-film",
    "cnn14-relative",
    "cnn14-film",
    "resnet",
    "resnet-relative",
    "frozen",
    "frozen-relative",
)
"""Systems of the copies: two corpora, two protocols and these make forty rows of `compare`."""


def copy_runs(database: str, count: int) -> None:
    """Adds copies of a store's newest training run to it; of three one is the trial of a study.

    Args:
        database: address of the store.
        count: of the copies.
    """
    rng, kinds = random.Random(0), (SqlRun, SqlParam, SqlTag, SqlLatestMetric)
    with sqlalchemy.create_engine(database).connect() as connection:
        tag, run = SqlTag.__table__, SqlRun.__table__
        trained = sqlalchemy.select(tag.c.run_uuid).where(tag.c.key == ENTRY_TAG, tag.c.value == "train")
        newest = sqlalchemy.select(run).where(run.c.run_uuid.in_(trained)).order_by(run.c.start_time.desc())
        source = connection.execute(newest).mappings().first()
        assert source is not None
        own = {
            kind: [
                dict(one)
                for one in connection.execute(
                    sqlalchemy.select(kind.__table__).where(kind.__table__.c.run_uuid == source["run_uuid"])
                ).mappings()
            ]
            for kind in kinds
        }
        metrics = own[SqlLatestMetric]
        metrics += [metrics[0] | {"key": f"val/other_{number}"} for number in range(METRICS - len(metrics))]
        for first in range(0, count, 250):
            added: dict[Any, list[dict[str, Any]]] = {kind: [] for kind in kinds}
            for number in range(first, min(count, first + 250)):
                for kind, copied in copy_of(own, number, count, rng).items():
                    added[kind] += copied
            for kind, rows_of_kind in added.items():
                connection.execute(sqlalchemy.insert(kind.__table__), rows_of_kind)
        connection.commit()


def copy_of(
    own: dict[Any, list[dict[str, Any]]], number: int, count: int, rng: random.Random
) -> dict[Any, list[dict[str, Any]]]:
    """The rows of one copy, by table; it began as many seconds before the run as copies come after it."""
    (run,), new = own[SqlRun], uuid.UUID(int=rng.getrandbits(128)).hex
    corpus, system = rng.choice(("sample", "emogator")), rng.choice(COPIED)
    name = f"{system}-e1-s{number}-{new[:4]}"
    tags = {tag["key"]: tag["value"] for tag in own[SqlTag]} | {
        SYSTEM_TAG: system,
        CORPUS_TAG: corpus,
        DIGEST_TAG: f"{corpus.encode().hex():0<64}",
        PROTOCOL_TAG: rng.choice(("strict", "published")),
        "mlflow.runName": name,
    }
    tags |= {TRIAL_TAG: str(number)} if number % 3 == 0 else {}
    when = run["start_time"] - 1000 * (count - number)
    fresh = {"run_uuid": new}
    return {
        SqlRun: [run | fresh | {"name": name, "start_time": when, "end_time": when + 900}],
        SqlParam: [one | fresh for one in own[SqlParam]],
        SqlTag: [own[SqlTag][0] | fresh | {"key": key, "value": value} for key, value in tags.items()],
        SqlLatestMetric: [
            one | fresh | ({"value": rng.random() / 2} if one["key"].startswith("val/") else {})
            for one in own[SqlLatestMetric]
        ],
    }


def look_ups() -> dict[str, Callable[[], object]]:
    """What commands ask of a store, by what a table calls it."""
    newest = lookup.find_run(NAMED)
    same = {tag: newest.data.tags[tag] for tag in (DIGEST_TAG, TASK_TAG, PROTOCOL_TAG)}

    def best() -> None:
        conditions = registry.conditions()
        next(registry.best_first(conditions[0]))

    def nobody() -> None:
        with contextlib.suppress(InputError):
            lookup.find_run("nobody")

    def system() -> None:
        with contextlib.suppress(InputError):  # in the large store it is of several corpora, which are listed
            lookup.find_run(newest.data.tags[SYSTEM_TAG])

    return {
        "a run by its name": lambda: lookup.find_run(NAMED),
        "a run by its system": system,
        "a run that is not there": nobody,
        "compare, all systems": lambda: lookup.newest_runs("val"),
        "compare, predictions of a run": lambda: scored.scored_run(newest, "a", "val"),
        "register, the best run": best,
        "register, its evaluations": lambda: scored.evaluations(newest, "test"),
        "train, an unfinished run": lambda: unfinished_runs("0" * 64),
        "train, the run to continue": lambda: lookup.parent_run(newest.data.tags[SYSTEM_TAG], 0.05, MEAN_CCC, same),
    }


def rows(scratch: Path) -> Iterator[Row]:
    """All of them; `scratch` is an empty folder, in which two small networks are trained first."""
    folder = scratch / "many-runs"
    folder.mkdir()

    def python(store: str, *words: str) -> str:
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/{store}.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        }
        return subprocess.run(
            [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, check=True
        ).stdout

    for model in RUNS:
        python("few", "exvo", "train", "--model", model, *TINY)
    client = MlflowClient(f"sqlite:///{folder}/few.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"attributes.run_name LIKE '{RUNS[1]}-%'")
    client.update_run(run.info.run_id, name=NAMED)
    shutil.copy(folder / "few.db", folder / "many.db")
    copy_runs(f"sqlite:///{folder}/many.db", COUNT)
    times = [
        [json.loads(python(store, "benchmarks.many_runs", "times").splitlines()[-1]) for store in ("many", "few")]
        for _ in tqdm(range(REPEATS), "many runs", leave=False, disable=None)
    ]
    for what in times[0][0]:
        over = statistics.median(many[what] - few[what] for many, few in times)
        also = {"seconds": statistics.median(many[what] for many, _ in times), "seconds more": over}
        ratios = [many[what] / few[what] for many, few in times]
        title, against = f"looking up among {COUNT:,} runs: {what}", "the same among two (time over theirs)"
        line = row(title, against, ratios, also=also)
        yield line | {"met": over < MOST_SECONDS, "target": f"{MOST_SECONDS:g} s more"}


if __name__ == "__main__":
    if sys.argv[1:] == ["times"]:
        print(json.dumps({what: seconds(work) for what, work in look_ups().items()}))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            for line in rows(Path(temporary)):
                print(f"{line['what']}: {line['ratio']:.2f} {line['also']} {line['target']} {line['met']}", flush=True)
