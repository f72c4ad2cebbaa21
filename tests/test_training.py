"""Training: it learns, it is reproducible bit for bit, it stops on what is not finite, and evaluation is per clip."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exvo.batches import Clips
from exvo.config import InputError
from exvo.networks.cnn import CNN
from exvo.tasks import Task
from exvo.training import Epoch, TrainingConfig, TrainingError, fit, make_optimizer, predict, resolve_device

TASK = Task("fewshot", ("High", "Loud"))


def config(**changes: object) -> TrainingConfig:
    values = {
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.01,
        "optimizer": "sgd",
        "seed": 0,
        "device": "cpu",
        "precision": "float32",
    }
    return TrainingConfig(**(values | changes))  # type: ignore[arg-type]


def make_clips(count: int = 12, lengths: tuple[int, ...] = (40, 60, 90)) -> Clips:
    """Noise whose level in the lower and in the upper bands are the two labels."""
    rng = np.random.default_rng(0)
    labels = rng.random((count, 2))
    features = {}
    for clip, (low, high) in enumerate(labels):
        level = np.repeat([40 * low - 60, 40 * high - 60], 32)
        features[f"c{clip}"] = (level + rng.normal(0, 3, (lengths[clip % len(lengths)], 64))).astype(np.float32)
    return Clips([f"clip{i}.wav" for i in range(count)], list(features), features, labels, "repeat")


def train(clips: Clips, config: TrainingConfig, scores: list[float] | None = None) -> tuple[Epoch, list[Epoch], CNN]:
    torch.manual_seed(config.seed)
    network = CNN("cnn10", 2, 0.1)
    epochs: list[Epoch] = []
    saved: list[int] = []
    given = iter(scores or [])

    def validate(network: nn.Module) -> float:
        return next(given) if scores else -float(np.abs(predict(network, clips, "cpu") - clips.labels).mean())

    def save_best(weights: Mapping[str, Tensor], epoch: Epoch) -> None:
        saved.append(epoch.number)

    best = fit(network, TASK, clips, config, validate, save_best, epochs.append)
    assert saved == [epoch.number for epoch in epochs if epoch.best]
    return best, epochs, network


def test_it_learns() -> None:
    _, epochs, _ = train(make_clips(), config(epochs=15))
    assert epochs[-1].loss < 0.5 * epochs[0].loss


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(precision: str) -> None:
    weights = []
    for seed in (0, 0, 1):
        torch.rand(7)  # the state of the global generator before must not matter
        weights.append(train(make_clips(), config(seed=seed, precision=precision))[2].state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["fc1.weight"], weights[2]["fc1.weight"])


def test_the_best_epoch_and_the_schedule() -> None:
    scores = [0.1, 0.3, math.nan, 0.2, 0.2, 0.2, 0.2, 0.2, 0.4]
    best, epochs, _ = train(make_clips(4), config(epochs=9), scores)
    assert best.number == 9
    assert [epoch.number for epoch in epochs if epoch.best] == [1, 2, 9]
    rates = [epoch.learning_rate for epoch in epochs]
    assert rates[:8] == [0.01] * 8  # patience of five epochs after the second
    assert rates[8] == pytest.approx(0.009)


def test_an_undefined_score_is_never_better() -> None:
    best, epochs, _ = train(make_clips(4), config(epochs=3), [math.nan, -0.5, math.nan])
    assert [epoch.best for epoch in epochs] == [True, True, False]
    assert best.score == -0.5


def test_a_loss_that_is_not_finite_names_the_clips() -> None:
    clips = make_clips(4)
    clips.features["c2"][5, 5] = np.nan  # type: ignore[index]
    with pytest.raises(
        TrainingError, match=r"The loss is nan in epoch 1 on the batch of (clip\d\.wav, )*clip2\.wav[,.]"
    ):
        train(clips, config())


def test_an_output_that_is_not_finite_names_the_clips() -> None:
    clips = make_clips(4)
    clips.features["c3"][0, 0] = np.inf  # type: ignore[index]
    with pytest.raises(TrainingError, match=r"not finite for clip3\.wav;"):
        predict(CNN("cnn10", 2, 0.1), clips, "cpu")


def test_prediction_of_a_clip_does_not_depend_on_the_others() -> None:
    clips = make_clips(12, lengths=(10, 40, 40, 95))
    network = CNN("cnn14", 2, 0.1)
    together = predict(network, clips, "cpu")
    for clip in range(12):
        alone = Clips(
            clips.files[clip : clip + 1], clips.contents[clip : clip + 1], clips.features, clips.labels, "repeat"
        )
        np.testing.assert_allclose(predict(network, alone, "cpu")[0], together[clip], atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizers_change_every_weight(optimizer: str) -> None:
    before = {name: weight.clone() for name, weight in CNN("cnn10", 2, 0.1).state_dict().items()}
    torch.manual_seed(0)
    _, _, network = train(make_clips(4), config(optimizer=optimizer, epochs=1))
    assert all(not torch.equal(before[name], weight) for name, weight in network.named_parameters())
    kind = make_optimizer(network, config(optimizer=optimizer))
    assert type(kind).__name__.lower() == optimizer
    if optimizer == "sgd":
        assert kind.param_groups[0]["momentum"] == 0.9


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_is_refused() -> None:
    assert resolve_device("auto") == "cpu"
    with pytest.raises(InputError, match="device=cuda, but PyTorch finds no CUDA device"):
        resolve_device("cuda")
