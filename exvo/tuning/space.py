"""What a study searches, and the name by which its commands know it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from exvo.config import OPTIMIZERS, SCHEDULES, SEARCHED
from exvo.errors import InputError
from exvo.text import nearest

SPACE: dict[str, tuple[str, BaseDistribution]] = {
    "batch_size": (
        "log2_batch_size",
        IntDistribution(2, 6),
    ),  # 4 to 64 clips, as integers so that TPE knows their order
    "learning_rate": ("learning_rate", FloatDistribution(1e-4, 1e-1, log=True)),
    "width": ("width", FloatDistribution(0.1, 1.0)),  # of the paper's channels
    "dropout": ("dropout", FloatDistribution(0.0, 0.5)),  # share of the channels
    "optimizer": ("optimizer", CategoricalDistribution(OPTIMIZERS)),
    "schedule": ("schedule", CategoricalDistribution(SCHEDULES)),
    "weight_decay": ("weight_decay", FloatDistribution(1e-5, 1e-1, log=True)),  # of adamw
    "label_smoothing": ("label_smoothing", FloatDistribution(0.0, 0.3)),  # of cross-entropy
    "warp": ("warp", FloatDistribution(0.0, 0.3)),  # logarithm of a factor
    "spec_augment": ("spec_augment", FloatDistribution(0.0, 0.3)),  # largest share of a mask
    "mixup": ("mixup", FloatDistribution(0.0, 1.0)),  # parameter of a Beta distribution; 0: none
    "clip_gradient": ("clip_gradient", CategoricalDistribution((0.0, 0.5, 1.0, 5.0))),  # largest norm; 0: any
}
"""For each option of `config.SEARCHED`: Optuna's name of it, and its values."""

assert tuple(SPACE) == SEARCHED

DIGITS = 3
"""Significant digits to which a searched number is rounded: the printed command then repeats the trial exactly."""


def parse_search(text: str) -> tuple[str, ...]:
    """The options of a list with commas, in the order of `SPACE`.

    >>> parse_search("learning_rate, batch_size")
    ('batch_size', 'learning_rate')

    Raises:
        InputError: it is empty or names what can't be searched.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in SPACE]
    if unknown:
        raise InputError(f"search={text}: {unknown[0]} can't be searched{nearest(unknown[0], list(SPACE))}")
    if not names:
        raise InputError(f"search is empty; give some of {', '.join(SPACE)}, with commas.")
    return tuple(name for name in SPACE if name in names)


def training_options(params: Mapping[str, Any]) -> dict[str, Any]:
    """The training options of a trial, from Optuna's params.

    >>> training_options({"log2_batch_size": 4, "learning_rate": 0.00123456})
    {'batch_size': 16, 'learning_rate': 0.00123}
    """
    options = {name: params[key] for name, (key, _) in SPACE.items() if key in params}
    rounded = {name: float(f"{value:.{DIGITS}g}") for name, value in options.items() if isinstance(value, float)}
    size = {"batch_size": 2 ** options["batch_size"]} if "batch_size" in options else {}
    return options | rounded | size


def values_text(name: str) -> str:
    """The values of a searched option, in words.

    >>> [values_text(name) for name in ("batch_size", "learning_rate", "width", "optimizer", "clip_gradient")]
    ['4 to 64', '0.0001 to 0.1, log', '0.1 to 1', 'sgd, adam, adamw', '0, 0.5, 1, 5']
    """
    distribution = SPACE[name][1]
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(f"{choice:g}" if isinstance(choice, float) else str(choice) for choice in distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = (training_options({SPACE[name][0]: end})[name] for end in (distribution.low, distribution.high))
    return f"{low:g} to {high:g}{', log' if distribution.log else ''}"


def study_name(prefix: Sequence[str], equal: Mapping[str, Any], search: Sequence[str]) -> str:
    """The name of the study that all commands with the same `equal` and `search` share: a prefix and eight digits.

    Args:
        prefix: words by which a reader knows it.
        equal: JSON of what its trials must share.
        search: the options that are searched.
    """
    space = {name: values_text(name) for name in search}
    text = json.dumps([dict(equal), space], sort_keys=True)
    return "-".join([*prefix, hashlib.sha256(text.encode()).hexdigest()[:8]])
