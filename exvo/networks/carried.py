"""The encoder that a model carries beside its weights, in a folder."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

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


def needs_encoder(checkpoint: Checkpoint) -> bool:
    """Whether a model's features are computed by an encoder that it must carry."""
    features = checkpoint.features
    return isinstance(features, Features) and features.kind != FUNCTIONALS


def with_encoder(checkpoint: Checkpoint, folder: Path, device: str) -> Checkpoint:
    """A model with the encoder that it carries, so that it can be given audio; as it is, where it needs none.

    Args:
        checkpoint: the model.
        folder: in which its encoder lies.
        device: where the encoder computes, cpu or cuda.

    Raises:
        InputError: the encoder is absent, damaged, or another one.
    """
    if not needs_encoder(checkpoint):
        return checkpoint
    assert isinstance(checkpoint.features, Features)
    if not folder.is_dir():
        raise InputError(
            f"The model takes the {checkpoint.features.kind} of an encoder, which is not there: {folder} is no folder. "
            "Give the run or the registered model, or put its artifacts' folder `encoder` there."
        )
    encoder = load_carried(folder, checkpoint.features.kind, device)
    if encoder.features != checkpoint.features:
        raise InputError(
            f"The encoder in {folder} gives {encoder.features.text}, and the model takes {checkpoint.features.text}: "
            "put there the one that it was trained with."
        )
    return replace(checkpoint, encoder=encoder)


def load_carried(folder: Path, kind: str, device: str) -> Encoder:
    """The encoder in a folder, for features of that kind.

    Raises:
        InputError: it can't be loaded.
    """
    if kind == EMBEDDINGS:
        return load_run_encoder(folder, device)
    if kind == STATES:
        return load_encoder(str(folder), device)
    raise InputError(f"This version of exvo has no encoder for features of the kind {kind}.")


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
