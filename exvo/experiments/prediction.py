"""The predictions tables of a split: as the protocol enrols, and as other clips or none would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from exvo.batches.clips import Clips
from exvo.enrolment import Enrolment, enrol_wrong_speakers, permute_enrolment
from exvo.errors import InputError
from exvo.evaluation.correction import correct_shares, correction_power
from exvo.experiments.corpus import Ready, describe_enrolment, log_copies
from exvo.networks.checkpoint import Checkpoint
from exvo.networks.inference import predict_enrolments
from exvo.settings import TrainSettings
from exvo.tasks import Task

UNCALIBRATED = "uncalibrated"
"""The name of the predictions table at temperature 1."""


def predictions_of(
    checkpoint: Checkpoint,
    ready: Ready,
    split: str,
    settings: TrainSettings,
    scored: Task | None = None,
    cluster: str = "",
) -> dict[str, pd.DataFrame]:
    """The predictions tables of one split, see `evaluate`; `scored`, `cluster`: see `enrolled_outputs`.

    Returns:
        Those of `enrolled_outputs`, and where shares are calibrated `UNCALIBRATED`: `right` at temperature 1.

    Raises:
        InputError: the split has no clips.
    """
    rows = ready.rows(split)
    if rows.empty:
        raise InputError(f"The corpus {ready.corpus.name} has no readable clips in its {split} split.")
    task = scored or checkpoint.task
    clips = ready.clips(split, task, settings.fill)
    enrolment = ready.enrolment(split, settings.protocol, settings.shots)
    if checkpoint.network.personalised or settings.protocol == "strict" or corrects(task, enrolment):
        print(describe_enrolment(ready, split, settings.protocol, settings.shots), end="")
    log_copies(enrolment, split)
    outputs = enrolled_outputs(checkpoint, clips, enrolment, settings.device, split, scored, cluster)
    tables = {
        name: task.table(rows, output, enrolment.scored, checkpoint.temperature) for name, output in outputs.items()
    }
    if checkpoint.temperature is not None:
        tables[UNCALIBRATED] = task.table(rows, outputs["right"], enrolment.scored)
    return tables


def enrolled_outputs(
    checkpoint: Checkpoint,
    clips: Clips,
    enrolment: Enrolment,
    device: str,
    progress: str,
    scored: Task | None = None,
    cluster: str = "",
) -> dict[str, np.ndarray]:
    """The outputs of a network for a split by who enrols: each (clips, outputs).

    Args:
        checkpoint: of the network.
        clips: of the split.
        enrolment: who enrols whom.
        device: cpu or cuda.
        progress: label of the progress bar.
        scored: the task, where it has but some targets of the network's; their outputs alone are given, so that shares
            are over these targets. None: the network's own.
        cluster: address of the Dask scheduler whose workers compute; empty: this machine does.

    Returns:
        `right`, as the protocol has it (of a plain system: without enrolment). For a personalised system, where two
        speakers or more enrol, also `typical` (nobody enrols), `wrong` (another speaker's clips) and `permuted` (those
        that enrol a clip at random). Where `corrects`, `corrected`: without enrolment, but its shares are corrected.
    """
    network, task = checkpoint.network, scored or checkpoint.task
    enrolments: dict[str, Sequence[np.ndarray] | None] = {"right": enrolment.clips}
    enrolling = {speaker for speaker, places in zip(clips.speakers, enrolment.clips, strict=True) if len(places)}
    if network.personalised and len(enrolling) > 1:
        wrong, permuted = enrol_wrong_speakers(enrolment, clips.speakers), permute_enrolment(enrolment)
        enrolments |= {"typical": None, "wrong": wrong, "permuted": permuted}
    lists = list(enrolments.values())
    outputs = predict_enrolments(network, clips, device, lists, None, progress, checkpoint.protocol, cluster=cluster)
    if scored is not None:
        places = [checkpoint.task.targets.index(target) for target in scored.targets]
        outputs = [output[:, places] for output in outputs]
    named = dict(zip(enrolments, outputs, strict=True))
    plain = named.get("typical" if network.personalised else "right")
    if plain is not None and corrects(task, enrolment):
        powers = [correction_power(len(own)) for own in enrolment.clips]
        shares = correct_shares(task.shares(plain, checkpoint.temperature), enrolment.clips, powers)
        logits = np.log(np.maximum(shares, np.finfo(np.float64).tiny))
        named["corrected"] = logits * (checkpoint.temperature or 1.0)
    return named


def corrects(task: Task, enrolment: Enrolment) -> bool:
    """Whether there are shares to correct, and clips that enrol to correct them by."""
    return task.objective == "cross-entropy" and any(map(len, enrolment.clips))
