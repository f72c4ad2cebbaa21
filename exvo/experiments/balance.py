"""The clips to train on, and what is done about categories of unequal numbers of clips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from exvo.batches.clips import Clips
from exvo.errors import InputError
from exvo.experiments.corpus import Ready
from exvo.settings import TrainSettings
from exvo.systems import SystemConfig
from exvo.tasks import Task
from exvo.text import listing


def balanced(settings: TrainSettings, system: SystemConfig, task: Task, clips: Clips) -> Clips:
    """The training clips as `balance` has them drawn.

    Raises:
        InputError: the option has no meaning for the labels, the objective or the system.
    """
    if settings.balance == "none":
        return clips
    option = f"balance={settings.balance}"
    if not task.categories or task.name != "fewshot":
        raise InputError(
            f"{option} is for exclusive categories (task=fewshot), which are not learnt here; leave it out."
        )
    if settings.balance == "weights":
        if task.objective != "cross-entropy":
            raise InputError(
                f"{option} weighs the terms of cross entropy, but the objective is {task.objective}; give sampler, or "
                "objective=cross-entropy."
            )
        return clips
    if system.enrolment == "shared" and not system.people:
        raise InputError(
            f"{option} draws clips one by one, but model={settings.model} trains on groups of a speaker's clips; give "
            "weights, or a system such as resnet-relative."
        )
    return replace(clips, balanced=len(task.targets))


def category_weights(clips: Clips, categories: int) -> tuple[float, ...]:
    """What makes each category count alike: clips / (categories * clips of the category), 1 on average over the clips.

    Args:
        clips: of training.
        categories: how many the labels begin with; one without clips has 0.
    """
    counts = np.bincount(clips.labels[:, :categories].argmax(axis=1), minlength=categories)
    weights = np.where(counts > 0, len(clips) / (np.maximum(counts, 1) * (counts > 0).sum()), 0.0)
    return tuple(weights.tolist())


def training_clips(ready: Ready, task: Task, settings: TrainSettings, system: SystemConfig) -> Clips:
    """The training split; where every clip needs another that enrols it, without the speakers who have only one.

    Raises:
        InputError: fewer than two clips are left.
    """
    clips = ready.clips("train", task, settings.fill)
    enrols_itself = settings.protocol == "published" and system.enrolment != "shared"
    if system.enrolment == "none" or system.people or enrols_itself:
        return clips
    counts = ready.rows("train")["speaker"].value_counts()
    lone = sorted(counts.index[counts == 1])
    if lone:
        print(
            f"left out of training, because no other clip can enrol them, {len(lone)} speakers with a single clip: "
            f"{listing(lone)}"
        )
        clips = clips.take(np.flatnonzero(~np.isin(clips.speakers, lone)))
    if len(clips) < 2:
        raise InputError(
            f"model={settings.model} learns from a speaker's other clips, but no speaker of the train split has two; "
            "train a plain system, such as cnn14."
        )
    return clips
