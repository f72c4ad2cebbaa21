"""What `import exvo` gives: `load` a model, the `scores` of predictions, and `compare` two tables of them.

    import exvo

    model = exvo.load("models:/exvo-fewshot@champion")
    profile = model.enrol(["one.wav", "two.wav"])
    model.predict("laugh.wav", enrolment=profile)

    exvo.scores("a.parquet")
    exvo.compare("a.parquet", "b.parquet")

A user's mistake is an `exvo.InputError`, one sentence. Provisional: until it is settled what a prediction holds, names
and columns may change from one version to the next, and the CHANGELOG says so.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

from exvo.config import DEVICES
from exvo.errors import InputError
from exvo.evaluation.pairwise import doubts, paired, same_clips
from exvo.evaluation.scoring import scorable, score
from exvo.files import expand
from exvo.reports.sentences import doubt_sentences
from exvo.tables import compose, plain_schema, read_flat_parquet, validated_predictions
from exvo.tasks import Task, task_of
from exvo.text import LONGEST_NAME, listing, nearest, printable, reason, writable

if TYPE_CHECKING:
    from exvo.serving.recogniser import Recogniser

MODEL_FILE = ".safetensors"

Predictions = pd.DataFrame | str | os.PathLike[str]
"""A predictions table, or the path of its Parquet file."""


def load(model: str | os.PathLike[str], device: str = "auto") -> Recogniser:
    """A trained model, ready to predict.

    A run and a registered model are looked up on the tracking server of `MLFLOW_TRACKING_URI`, or else in `mlflow.db`
    in the present folder. A model file needs no server.

    Args:
        model: a model file (a name that ends in `.safetensors`, or a `Path`); a training run (its id or name, or a
            system, whose newest finished run it is then); `models:/<name>@<alias>` or `models:/<name>/<version>`.
        device: auto (cuda where there is one), cpu or cuda.

    Raises:
        InputError: there is no such model, it can't be read or the tracking server can't be used; or no such device.
    """
    from exvo.devices import resolve_device  # here and below: PyTorch, which `scores` does without
    from exvo.serving.recogniser import Recogniser

    if device not in DEVICES:
        raise InputError(f"device={printable(device)} is not known{nearest(device, DEVICES)}")
    device = resolve_device(device)
    name = os.fspath(model)
    if not isinstance(model, str) or name.endswith(MODEL_FILE):
        from exvo.networks.carried import ENCODER, with_encoder
        from exvo.networks.checkpoint import load_checkpoint

        path = Path(expand(name))
        return Recogniser(with_encoder(load_checkpoint(path), path.parent / ENCODER, device), device)
    from exvo.tracking.models import load_model  # MLflow, which a model file does without

    return Recogniser(load_model(name, "model", device), device)


def scores(predictions: Predictions) -> pd.DataFrame:
    """Every score of a predictions table with its 95% intervals.

    Clips that enrol (`scored` is False) and clips without labels are left out. The task, and so the scores, follow from
    the columns. What a reader must know of the scores (few speakers, constant predictions) is a warning.

    Args:
        predictions: of one split, as runs log them (`predictions/<split>.parquet`): a row a clip with `file`, `split`,
            `speaker` ('' where unknown), `scored`, and `truth.<target>` and `prediction.<target>` of each target; for
            multitask also of `age` and `country`, for categories of `category`; optional `country`.

    Returns:
        A row a score: metric, value, its interval by clip (lo, hi), as published, and by speaker (lo_by_speaker,
        hi_by_speaker), which is the honest one for new people, and n, the clips. See `exvo.evaluation.scoring.score`.

    Raises:
        InputError: the table can't be read, lacks columns, is of several splits, or has fewer than two clips to score.

    >>> truth = [0.1, 0.4, 0.5, 0.9]
    >>> table = pd.DataFrame({"file": list("abcd"), "split": "test", "speaker": ["ann", "ann", "bob", "bob"]})
    >>> table = table.assign(**{"scored": True, "truth.Awe": truth, "prediction.Awe": truth[::-1]})
    >>> with warnings.catch_warnings(action="ignore"):  # two speakers are few
    ...     print(scores(table).set_index("metric")["value"]["emotion_mae"].round(3))
    0.45
    """
    table, name = read_predictions(predictions, "The table")
    task = task_of(table)
    score_table = score(table, task)
    warn([(name, scorable(table))], task)
    return score_table


def compare(a: Predictions, b: Predictions) -> pd.DataFrame:
    """The difference b - a of every score over the very same clips, with its 95% intervals.

    Both are scored on the same resamples, of clips and of whole speakers. For what both tables may hold see `scores`.

    Args:
        a, b: two predictions tables of one split.

    Returns:
        A row a score, the headline first: metric, a, b, value (b - a), its interval (lo, hi), and wins, the share of
        the resamples in which b is the better one; the last three also `_by_speaker`. NaN where a score is undefined.

    Raises:
        InputError: a table can't be used, or the two differ in split, targets, scored clips, speakers or labels.
    """
    (first, name_a), (second, name_b) = read_predictions(a, "a"), read_predictions(b, "b")
    tasks = task_of(first), task_of(second)
    try:
        for what, values in (
            ("tasks", [task.name for task in tasks]),
            ("targets", [listing(task.targets) for task in tasks]),
            ("splits", [listing(table["split"].unique()) for table in (first, second)]),
        ):
            if values[0] != values[1]:
                raise InputError(f"their {what} differ, {values[0]} and {values[1]}; evaluate both alike.")
        first, second = same_clips(first, second)
    except InputError as error:
        raise InputError(f"{name_a} and {name_b} can't be compared: {error}") from None
    differences = paired(first, second, tasks[0])
    warn([(name_a, first), (name_b, second)], tasks[0])
    return differences


def read_predictions(predictions: Predictions, name: str) -> tuple[pd.DataFrame, str]:
    """A predictions table, checked, and what a sentence calls it: the file's path, or the name that is given.

    Raises:
        InputError: see `scores`.
    """
    if isinstance(predictions, pd.DataFrame):
        try:
            table = pa.Table.from_pandas(predictions, preserve_index=False)
            table = compose(table.cast(plain_schema(name, table.schema)))
        except InputError:
            raise
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise InputError(f"{name} is no predictions table ({reason(error)}); give one as runs log it.") from None
    else:
        path = os.fspath(predictions)
        name = printable(writable(path), LONGEST_NAME)
        table = read_flat_parquet(Path(expand(path)), name)
    checked = validated_predictions(table, name, "give a predictions table as runs log it")
    splits = checked["split"].unique()
    if len(splits) > 1:
        raise InputError(f"{name} has clips of several splits, {listing(splits)}; give one split at a time.")
    return checked, name


def warn(rows: list[tuple[str, pd.DataFrame]], task: Task) -> None:
    """Warns the caller of the library of what `doubts` says of scored rows, each with the name of their table."""
    for sentence in doubt_sentences(doubts(rows, task)):
        warnings.warn(sentence, stacklevel=3)
