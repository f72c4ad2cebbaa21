"""The encoder of a model's features, in the folder `encoder` beside its weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.encoders import KIND as STATES
from exvo.features.encoders import load_encoder
from exvo.features.extractors import Encoder
from exvo.features.functionals import KIND as FUNCTIONALS
from exvo.features.shards import Features
from exvo.networks.checkpoint import Checkpoint
from exvo.networks.run_encoder import KIND as EMBEDDINGS
from exvo.networks.run_encoder import load_run_encoder

ENCODER = "encoder"
"""Name of the folder, beside the weights."""

Kept = Callable[[Features, str], Encoder]
"""Gives, for features and a device, an encoder that is kept elsewhere; raises InputError where it can't."""


def needs_encoder(features: FeatureConfig | Features) -> TypeGuard[Features]:
    """Whether a model's features are those of an encoder."""
    return isinstance(features, Features) and features.kind != FUNCTIONALS


def with_encoder(checkpoint: Checkpoint, folder: Path, device: str, kept: Kept | None = None) -> Checkpoint:
    """A model with its encoder, so that it can be given audio; as it is, where it needs none.

    Args:
        checkpoint: the model.
        folder: in which its encoder lies, as a rule.
        device: where the encoder computes, cpu or cuda.
        kept: gives it where the folder is not there; None: it must be there.

    Raises:
        InputError: the encoder is absent, damaged, or another one.
    """
    features = checkpoint.features
    if not needs_encoder(features):
        return checkpoint
    if folder.is_dir():
        return replace(checkpoint, encoder=load_carried(folder, features, device))
    if kept is not None:
        return replace(checkpoint, encoder=kept(features, device))
    raise InputError(
        f"The model takes the {features.kind} of an encoder, which is not there: {folder} is no folder. "
        "Give the run or the registered model, or put its artifacts' folder `encoder` there."
    )


def load_carried(folder: Path, features: Features, device: str) -> Encoder:
    """The encoder in a folder, which must give these features.

    Raises:
        InputError: it can't be loaded, or is another one.
    """
    if features.kind not in (EMBEDDINGS, STATES):
        raise InputError(f"This version of exvo has no encoder for features of the kind {features.kind}.")
    encoder: Encoder = (
        load_run_encoder(folder, device) if features.kind == EMBEDDINGS else load_encoder(str(folder), device)
    )
    if encoder.features != features:
        raise InputError(
            f"The encoder in {folder} gives {encoder.features.text}, and the model takes {features.text}; "
            "put there the one that it was trained with."
        )
    return encoder


def carry(encoder: Encoder, kept: Path, weights: Path) -> None:
    """Puts an encoder beside a model file, by links to the files of the one that is kept.

    Args:
        encoder: whose features the model takes.
        kept: a folder for the encoder, which many models share; written where it is not there.
        weights: the model file.
    """
    if not kept.is_dir():
        temporary = kept.with_name(f"{kept.name}-{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        encoder.save(temporary)
        try:
            temporary.rename(kept)
        except OSError:  # another process was quicker
            shutil.rmtree(temporary)
    target = weights.parent / ENCODER
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(kept, target, copy_function=link)


def link(source: str, target: str) -> str:
    """Gives a file a second name; where the file system has no such links, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
    return target
