"""What the option `features` names: log-mels, functionals, a pretrained encoder, or a run of ours."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.encoders import load_encoder
from exvo.features.extractors import LOG_MEL, Extractor, clip_extractor
from exvo.features.functionals import SETS
from exvo.features.log_mel import LogMel
from exvo.features.shards import Features
from exvo.networks.run_encoder import RunEncoder
from exvo.text import nearest, printable
from exvo.tracking import lookup, models

RUN = "runs:/"
"""How the option may begin that names a run; a run's name has no slash, and an encoder's name or folder has one."""


def resolve_features(name: str) -> str:
    """The option with a run's name, or that of a system, replaced by the run's id: others may have that name later.

    Raises:
        InputError: there is no such run, or its name fits several.
    """
    if name in (LOG_MEL, *SETS) or is_encoder(name):
        return name
    try:
        return str(lookup.find_run(name.removeprefix(RUN), "features").info.run_id)
    except InputError as error:
        known = nearest(name, [LOG_MEL, *SETS])
        raise InputError(f"features={printable(name, 200)} is not a known kind{known} As a run: {error}") from None


def is_encoder(name: str) -> bool:
    """Whether the option names a pretrained encoder: a folder, or a name on the hub of Hugging Face."""
    return "/" in name and not name.startswith(RUN)


@lru_cache(maxsize=1)
def open_extractor(name: str, device: str) -> Extractor:
    """What computes the features that the option names; the same object where it is asked for again.

    Args:
        name: the option, see `resolve_features`.
        device: where an encoder computes, cpu or cuda.

    Raises:
        InputError: there is no such run or encoder, it can't be used, or what it needs is not installed.
    """
    if extractor := clip_extractor(name):
        return extractor
    if is_encoder(name):
        return load_encoder(name, device)
    run = lookup.find_run(resolve_features(name), "features")
    return RunEncoder(models.checkpoint_of(run), device, f"The run {run.info.run_name}")


def model_features(extractor: Extractor) -> FeatureConfig | Features:
    """What a model file says of its features: of log-mels their settings."""
    return extractor.config if isinstance(extractor, LogMel) else extractor.features


def record(extractor: Extractor) -> dict[str, Any]:
    """The same as a run's settings.json has it."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(model_features(extractor))))
    return content
