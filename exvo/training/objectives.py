"""The objectives of training: 1 - CCC, the others, and their combination (arXiv 2206.06680)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from exvo.batches.clips import Batch
from exvo.tasks import Task

HELPING_EPOCHS = 11
"""First epochs in which a head that forgets learns instead."""

REVERSAL_EPOCHS = 50
"""Epochs after them in which the reversal of its gradient grows from 0 to -1."""


def objectives(
    outputs: Mapping[str, Tensor],
    task: Task,
    batch: Batch,
    label_smoothing: float = 0.0,
    category_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """The objective of the main output and of each head: the task's for emotions, cross entropy for speakers.

    Args:
        outputs: of `Network.forward` for this batch.
        task: what the main output is.
        batch: with labels and, for heads of speakers, speakers.
        label_smoothing: of the emotions, see `emotion_loss`.
        category_weights: of the emotions, see `emotion_loss`.

    Returns:
        For each name in `outputs` a number on the device.
    """
    parts = {"main": task_loss(task, outputs["main"].float(), batch.labels, label_smoothing, category_weights)}
    shots = 1 if batch.enrolment_index is None else batch.enrolment_index.shape[1]
    for name, head_outputs in outputs.items():
        if name == "enrolment_emotion":
            labels = batch.labels if batch.enrolment_labels is None else batch.enrolment_labels.flatten(0, 1)
            parts[name] = emotion_loss(task, head_outputs.float(), labels, label_smoothing, category_weights)
        elif name != "main":
            assert batch.speakers is not None
            speakers = batch.speakers.repeat_interleave(1 if name == "main_speaker" else shots)
            parts[name] = functional.cross_entropy(head_outputs.float(), speakers)
    return parts


def ccc_loss(truth: Tensor, prediction: Tensor) -> Tensor:
    """1 - CCC of each column, with moments of ddof 0: 1 - 2 cov / (var + var + (difference of means)²).

    NaN where truth and prediction of a column are both constant and equal: the CCC is undefined there.

    Args:
        truth: (values, columns).
        prediction: (values, columns).

    Returns:
        (columns,), 0 (equal) to 2.
    """
    truth, prediction = truth.float(), prediction.float()
    truth_mean, prediction_mean = truth.mean(dim=0), prediction.mean(dim=0)
    covariance = ((truth - truth_mean) * (prediction - prediction_mean)).mean(dim=0)
    spread = truth.var(dim=0, unbiased=False) + prediction.var(dim=0, unbiased=False)
    return 1 - 2 * covariance / (spread + (truth_mean - prediction_mean).square())


def gradient_factor(role: str, epoch: int) -> float:
    """The factor of a head's gradient into the encoder beneath it (arXiv 2206.06680).

    For a head that learns it is 1. For a head that forgets it is 1 in epochs 1 to 11, then falls linearly from 0 in
    epoch 12 to -1 in epoch 62, and stays there: the published schedule advances after each epoch, for the next.

    Args:
        role: learn or forget.
        epoch: 1 is the first.

    >>> [gradient_factor("forget", epoch) for epoch in (1, 11, 12, 13, 60, 62, 100)]
    [1.0, 1.0, 0.0, -0.02, -0.96, -1.0, -1.0]
    """
    if role == "learn" or epoch <= HELPING_EPOCHS:
        return 1.0
    return 0.0 - min((epoch - 1 - HELPING_EPOCHS) / REVERSAL_EPOCHS, 1.0)


def total_objective(parts: Mapping[str, Tensor]) -> Tensor:
    """The objective of a batch from its parts: main, main_speaker, enrolment_emotion, enrolment_speaker.

    The total is main; with a head for the main speaker it is (main + main_speaker) / 2. With heads on the enrolment
    clips it is then (total + mean of their objectives) / 2 (arXiv 2206.06680).
    """
    total = parts["main"]
    if "main_speaker" in parts:
        total = (total + parts["main_speaker"]) / 2
    enrolment = [parts[name] for name in ("enrolment_emotion", "enrolment_speaker") if name in parts]
    if enrolment:
        total = (total + sum(enrolment[1:], enrolment[0]) / len(enrolment)) / 2
    return total


def task_loss(
    task: Task, outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0, category_weights: Tensor | None = None
) -> Tensor:
    """The objective of a batch (arXiv 2206.06680).

    Few-shot: that of the emotions, as published 1 - CCC over the batch's values of all at once (`emotion_loss`).
    Multitask: the mean over a term for each emotion (1 - CCC), age (squared error, years²) and country (cross entropy).
    Speaker: cross entropy.

    Args:
        task: what the outputs are.
        outputs: (batch, outputs), or (batch, members x outputs), whose members are scored as further clips.
        labels: (batch, targets), (batch, targets + 2) or (batch, 1), as `Task.labels` gives them.
        label_smoothing: of few-shot's cross entropy.
        category_weights: of the same, see `emotion_loss`.
    """
    members = outputs.shape[1] // task.outputs
    if members > 1:
        outputs = outputs.reshape(-1, task.outputs)
        labels = labels.repeat_interleave(members, dim=0)
    if task.name == "speaker":
        return functional.cross_entropy(outputs, labels[:, 0].long())
    count = len(task.targets)
    if task.name == "fewshot":
        return emotion_loss(task, outputs, labels, label_smoothing, category_weights)
    if task.objective == "mse":
        emotions = (outputs[:, :count] - labels[:, :count]).square().mean(dim=0)
    else:
        emotions = ccc_loss(labels[:, :count], outputs[:, :count])
    age = functional.mse_loss(outputs[:, count], labels[:, count])
    country = functional.cross_entropy(outputs[:, count + 1 :], labels[:, count + 1].long())
    return torch.cat([emotions, age[None], country[None]]).mean()


def emotion_loss(
    task: Task, outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0, category_weights: Tensor | None = None
) -> Tensor:
    """1 - CCC over the values of all emotions at once, their mean squared error, or the cross entropy of categories.

    Args:
        task: gives the objective and the number of emotions.
        outputs: (clips, targets); for cross entropy logits.
        labels: (clips, labels), the emotions first.
        label_smoothing: share of cross entropy's target that is spread over all categories (arXiv 1512.00567).
        category_weights: (categories,), by which cross entropy's terms of each category are multiplied; None: 1.
    """
    labels = labels[:, : len(task.targets)]
    if task.objective == "cross-entropy":
        return functional.cross_entropy(outputs, labels, category_weights, label_smoothing=label_smoothing)
    if task.objective == "mse":
        return functional.mse_loss(outputs, labels)
    return ccc_loss(labels.reshape(-1, 1), outputs.reshape(-1, 1)).mean()
