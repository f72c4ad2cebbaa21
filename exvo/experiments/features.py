"""What the option `features` names: log-mels, functionals, a pretrained encoder, or a run of ours."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.encoders import KIND as STATES
from exvo.features.encoders import load_encoder
from exvo.features.extractors import LOG_MEL, Extractor, clip_extractor
from exvo.features.functionals import SETS
from exvo.features.log_mel import LogMel
from exvo.features.shards import Features
from exvo.files import locate
from exvo.networks.header import read_keyed_features
from exvo.networks.run_encoder import KIND as EMBEDDINGS
from exvo.networks.run_encoder import RunEncoder
from exvo.text import nearest, printable
from exvo.tracking import lookup, models
from exvo.tracking.artifacts import load_settings
from exvo.tracking.encoders import load_kept
from exvo.tracking.lookup import Run

ENCODED = (STATES, EMBEDDINGS)
"""The kinds of features that an encoder gives."""

RUN = "runs:/"
"""How the option may begin that names a run; a run's name has no slash, and an encoder's name or folder has one."""


def resolve_features(name: str) -> str:
    """The option as it stays true: a folder as it is found from here, and a run's id for its name or its system's.

    Raises:
        InputError: there is no such run, or its name fits several.
    """
    if name in (LOG_MEL, *SETS):
        return name
    folder = locate("features", name, "place")
    if is_encoder(name):
        return folder if os.path.isdir(folder) else name
    try:
        return str(lookup.find_run(name.removeprefix(RUN), "features").info.run_id)
    except InputError as error:
        shown = f"features={printable(name, 200)}"
        if os.path.isdir(folder):
            raise InputError(
                f"{shown} is the name of no run, but of a folder; write features=./{printable(name, 200)} to take the "
                "encoder in it."
            ) from None
        known = nearest(name, [LOG_MEL, *SETS])
        raise InputError(f"{shown} is not a known kind{known} As a run: {error}") from None


def is_encoder(name: str) -> bool:
    """Whether the option names a pretrained encoder: a folder, or a name on the hub of Hugging Face."""
    return "/" in name and not name.startswith(RUN)


@lru_cache(maxsize=1)
def open_extractor(name: str, device: str) -> Extractor:
    """What computes the features that the option names; the same object where it is asked for again.

    Args:
        name: the option.
        device: where an encoder computes, cpu or cuda.

    Raises:
        InputError: there is no such run or encoder, it can't be used, or what it needs is not installed.
    """
    if extractor := clip_extractor(name):
        return extractor
    name = resolve_features(name)
    if is_encoder(name):
        return load_encoder(name, device)
    run = lookup.find_run(name, "features")
    return RunEncoder(models.checkpoint_of(run), device, f"The run {run.info.run_name}")


def extractor_of_run(source: Run, name: str, device: str) -> Extractor:
    """What computes the features that a run was trained on.

    It is what the run's option names or, where an encoder is gone or another one there, the encoder that the artifact
    store keeps.

    Args:
        source: the run.
        name: its option.
        device: where an encoder computes, cpu or cuda.

    Raises:
        InputError: they can't be computed.
    """
    logged = load_settings(source).get("features") or {}
    try:
        extractor = open_extractor(name, device)
        if logged.get("kind") not in ENCODED or record(extractor) == logged:
            return extractor
        problem = f"features={printable(name, 200)} names another encoder now, {extractor.features.text}."
    except InputError as error:
        if logged.get("kind") not in ENCODED:
            raise
        problem = str(error)
    features = read_keyed_features(logged)
    assert isinstance(features, Features)
    try:
        kept = load_kept(features, device)
    except InputError as error:
        raise InputError(f"{problem} {error}") from None
    print(f"takes the encoder that the artifact store keeps: {problem}")
    return kept


def model_features(extractor: Extractor) -> FeatureConfig | Features:
    """What a model file says of its features: of log-mels their settings."""
    return extractor.config if isinstance(extractor, LogMel) else extractor.features


def record(extractor: Extractor) -> dict[str, Any]:
    """The same as a run's settings.json has it."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(model_features(extractor))))
    return content
