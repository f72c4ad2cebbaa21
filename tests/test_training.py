"""Training: it learns, it is reproducible bit for bit, it stops on what is not finite; prediction is per clip."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from exvo.batches.clips import Batch, Clips
from exvo.batches.epoch import training_batches
from exvo.devices import resolve_device
from exvo.enrolment import Draw, choose_enrolment
from exvo.errors import InputError, TrainingError
from exvo.evaluation.metrics import ccc
from exvo.networks.inference import predict_clips
from exvo.networks.network import Network
from exvo.training.loop import TrainingConfig, Validation, fit, make_optimizer, train_step
from exvo.training.objectives import objectives
from exvo.training.states import Epoch

from helpers.networks import TASK, config, make_clips, make_network


def train(
    clips: Clips, config: TrainingConfig, scores: list[float] | None = None, **options: object
) -> tuple[Epoch, list[Epoch], Network]:
    network = make_network(config.seed, **options)
    epochs: list[Epoch] = []
    saved: list[int] = []
    given = iter(scores or [])

    def validate(network: Network) -> Validation:
        error = float(np.abs(predict_clips(network, clips, "cpu") - clips.labels).mean())
        return Validation(next(given) if scores else -error)

    def save_best(weights: Mapping[str, Tensor], epoch: Epoch) -> None:
        saved.append(epoch.number)

    best = fit(network, TASK, clips, config, validate, save_best, epochs.append)
    assert saved == [epoch.number for epoch in epochs if epoch.best]
    return best, epochs, network


def test_it_learns() -> None:
    _, epochs, _ = train(make_clips(), config(epochs=30), width=0.1, dropout=0.0)
    assert epochs[-1].loss < 0.5 * epochs[0].loss


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    ("fusion", "draw"),
    [
        ({}, None),
        ({"enrolment": "cnn10", "fusion": "attention"}, Draw(2, itself=True, shared=False)),
        ({"enrolment": "shared", "fusion": "film"}, Draw(2, itself=False, shared=True)),
    ],
    ids=["plain", "attention", "film"],
)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    precision: str, fusion: dict[str, str], draw: Draw | None
) -> None:
    weights = []
    for seed in (0, 0, 1):
        torch.rand(7)  # the state of the global generator before must not matter
        given = config(seed=seed, precision=precision, draw=draw)
        weights.append(train(make_clips(6), given, [0.0, 0.0], **fusion)[2].state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["encoder.fc1.weight"], weights[2]["encoder.fc1.weight"])


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
        predict_clips(make_network(), clips, "cpu")


FUSIONS = [
    ("cnn14", "none", "none", False),
    ("cnn14", "cnn10", "attention", False),
    ("cnn14", "cnn10", "attention", True),
    ("cnn14", "cnn5", "conditioning", False),
    ("cnn10", "shared", "relative", False),
    ("cnn10", "shared", "film", False),
]
every_fusion = pytest.mark.parametrize("make", FUSIONS, ids=lambda make: f"{make[2]}{'-layernorm' * make[3]}")


def trained(make: tuple[str, str, str, bool], heads: dict[str, int] | None = None) -> Network:
    """With statistics, typical profile and fusion as if trained, and still in training mode."""
    encoder, enrolment, fusion, layer_norm = make
    torch.manual_seed(0)
    network = Network(encoder, 2, 0.05, enrolment=enrolment, fusion=fusion, layer_norm=layer_norm, heads=heads)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if name.startswith(("attention.weigh", "film", "typical", "conditions")) or name.endswith("bias"):
            torch.nn.init.normal_(tensor, std=0.1 if name.startswith("conditions") else 1.0)
        elif name.endswith(("bn0.running_mean", "bn0.running_var")):
            torch.nn.init.constant_(tensor, -40.0 if name.endswith("mean") else 200.0)
    return network.train()


def by_hand(network: Network, clips: Clips, clip: int, enrolling: list[int]) -> np.ndarray:
    """The prediction of one clip, each clip alone; those shorter than the network needs are repeated."""

    def whole(number: int) -> Tensor:
        frames = clips.features[clips.contents[number]]
        rows = [frames[t % len(frames)] for t in range(max(len(frames), network.min_frames))]
        return torch.from_numpy(np.stack(rows))[None]

    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        if network.fusion == "none":
            return network.predict(whole(clip))[0].numpy()
        profile = network.typical
        if enrolling:
            profile = torch.stack([network.embed_enrolment(whole(other))[0] for other in enrolling]).mean(dim=0)
        return network.predict(whole(clip), profile[None])[0].numpy()


@every_fusion
def test_prediction_with_enrolment_by_hand(make: tuple[str, str, str, bool]) -> None:
    clips, network = make_clips(9, lengths=(10, 40, 40, 55)), trained(make)
    enrolment = [[0, 3], [4, 1], [], [0, 3], [4, 1, 7], [], [2], [4], [8, 5]]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = predict_clips(network, clips, "cpu", [np.array(own, np.int64) for own in enrolment])
    expected = [by_hand(network, clips, clip, own) for clip, own in enumerate(enrolment)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    typical = [by_hand(network, clips, clip, []) for clip in range(9)]
    for enrolment in (None, [np.zeros(0, np.int64)] * 9):
        np.testing.assert_allclose(predict_clips(network, clips, "cpu", enrolment), typical, atol=1e-5)
    assert np.allclose(found, typical, atol=1e-3) == (network.fusion == "none")  # who enrols matters
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@every_fusion
def test_prediction_of_a_clip_does_not_depend_on_the_others(make: tuple[str, str, str, bool]) -> None:
    clips, network = make_clips(12, lengths=(10, 40, 40, 55)), trained(make)
    enrolment = choose_enrolment(clips.speakers, "strict", 2).clips
    together = predict_clips(network, clips, "cpu", enrolment)
    for batch_size in (1, 3, 64):
        found = predict_clips(network, clips, "cpu", enrolment, batch_size)
        np.testing.assert_allclose(found, together, atol=1e-5)
    turned = [own[::-1] for own in enrolment]  # the order of a speaker's enrolment clips
    np.testing.assert_allclose(predict_clips(network, clips, "cpu", turned), together, atol=1e-5)
    for clip in range(12):  # alone with the clips that enrol its speaker
        kept = np.array([clip, *(other for other in enrolment[clip] if other != clip)])
        own = [np.arange(1, len(kept))] * len(kept)
        found = predict_clips(network, clips.take(kept), "cpu", own)
        np.testing.assert_allclose(found[0], together[clip], atol=1e-5)


@pytest.mark.parametrize("make", FUSIONS[1:4], ids=["attention", "attention-layernorm", "conditioning"])
def test_training_outputs_with_drawn_clips_by_hand(make: tuple[str, str, str, bool]) -> None:
    """In evaluation mode, whose statistics stay: each clip and each enrolment clip alone."""
    heads = {"enrolment_emotion": 2, "enrolment_speaker": 3}
    heads |= {"main_speaker": 3} if make[2] == "attention" else {}
    network = trained(make, heads).eval()
    clips, enrolment = 15 * torch.randn(3, 40, 64) - 40, 15 * torch.randn(3, 2, 40, 64) - 40
    typical = network.typical.clone()
    found = network(clips, enrolment, None, dict.fromkeys(heads, 1.0))
    alone = torch.cat([network.embed_enrolment(enrolment[clip, shot][None]) for clip in range(3) for shot in range(2)])
    profiles = torch.stack([(alone[0] + alone[1]) / 2, (alone[2] + alone[3]) / 2, (alone[4] + alone[5]) / 2])
    expected = {"main": torch.cat([network.predict(clips[i : i + 1], profiles[i : i + 1]) for i in range(3)])}
    expected |= {head: network.heads[head](alone) for head in ("enrolment_emotion", "enrolment_speaker")}
    if "main_speaker" in heads:
        read = network.attention.before(network.encoder(clips))  # the embedding itself without LayerNorm
        expected["main_speaker"] = network.heads["main_speaker"](read)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network.typical, 0.9 * typical + 0.1 * profiles.mean(dim=0))
    assert not network.typical.requires_grad


@pytest.mark.parametrize("make", FUSIONS[4:], ids=["relative", "film"])
def test_training_outputs_within_the_batch_by_hand(make: tuple[str, str, str, bool]) -> None:
    network = trained(make).eval()
    clips, typical = 15 * torch.randn(5, 40, 64) - 40, network.typical.clone()
    groups = torch.tensor([0, 0, 0, 1, 1])
    enrols = (groups[:, None] == groups).float() - torch.eye(5)
    found = network(clips, None, enrols, {})
    embeddings = torch.cat([network.embed_enrolment(clips[i : i + 1]) for i in range(5)])
    others = [[1, 2], [0, 2], [0, 1], [4], [3]]
    profiles = torch.stack([sum(embeddings[other] for other in own) / len(own) for own in others])
    expected = torch.cat([network.predict(clips[i : i + 1], profiles[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(found, {"main": expected}, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network.typical, 0.9 * typical + 0.1 * profiles.mean(dim=0))


def softmax_cross_entropy(outputs: Tensor, truth: list[int]) -> float:
    rows = np.exp(outputs.double().numpy())
    return float(np.mean([-np.log(row[speaker] / row.sum()) for row, speaker in zip(rows, truth, strict=True)]))


def test_objectives_of_the_heads_are_of_each_enrolment_clip() -> None:
    rng = torch.Generator().manual_seed(0)
    shapes = {"main": (3, 2), "main_speaker": (3, 4), "enrolment_emotion": (6, 2), "enrolment_speaker": (6, 4)}
    found = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    labels, theirs = torch.rand(3, 2, generator=rng), torch.rand(3, 2, 2, generator=rng)
    batch = Batch(torch.zeros(0), labels, np.arange(3), torch.tensor([2, 0, 3]), np.zeros((3, 2)), None, theirs)
    parts = {name: value.item() for name, value in objectives(found, TASK, batch).items()}
    clips = [theirs[clip, shot] for clip in range(3) for shot in range(2)]
    expected = {
        "main": 1 - ccc(labels.numpy().ravel(), found["main"].numpy().ravel()),
        "main_speaker": softmax_cross_entropy(found["main_speaker"], [2, 0, 3]),
        "enrolment_emotion": 1 - ccc(torch.cat(clips).numpy(), found["enrolment_emotion"].numpy().ravel()),
        "enrolment_speaker": softmax_cross_entropy(found["enrolment_speaker"], [2, 2, 0, 0, 3, 3]),
    }
    assert parts == pytest.approx(expected, rel=1e-5)


def test_training_calls_the_network_itself() -> None:
    """Hooks fire, and PyTorch's wrappers see the whole step: the loop reaches nothing of the network past `forward`."""
    network, seen = make_network(), []
    network.register_forward_pre_hook(lambda _, given: seen.append(("before", given[0].shape[0])))
    network.register_forward_hook(lambda _, given, outputs: seen.append(("after", len(outputs["main"]))))
    (batch,) = training_batches(make_clips(6), 6, 0, 1, frames=40)
    train_step(network, TASK, make_optimizer(network, config()), batch, config(), 1)
    assert seen == [("before", 6), ("after", 6)]


@pytest.mark.parametrize(("epoch", "factor"), [(11, 1.0), (12, 0.0), (37, -0.5)])
def test_a_step_follows_the_gradient_of_the_whole_objective(epoch: int, factor: float) -> None:
    """Against the objective written out, with the reversed head's part of the encoder's gradient by hand."""
    torch.manual_seed(0)
    heads = {"enrolment_emotion": 2, "enrolment_speaker": 3, "main_speaker": 3}
    network = Network("cnn14", 2, 0.05, 0.0, "cnn10", "attention", heads=heads).eval()
    (batch,) = training_batches(make_clips(6), 6, 0, 1, Draw(2, True, False), frames=40)
    roles = {"enrolment_emotion": "forget", "enrolment_speaker": "learn", "main_speaker": "forget"}
    plain = copy.deepcopy(network)
    parts = objectives(plain(batch.log_mel, batch.enrolment, None, dict.fromkeys(heads, 1.0)), TASK, batch)
    weighted = {"main": 1 / 4, "main_speaker": 1 / 4, "enrolment_emotion": 1 / 4, "enrolment_speaker": 1 / 4}
    expected = {name: weight.detach().clone() for name, weight in plain.named_parameters()}
    for head, weight in weighted.items():
        grads = torch.autograd.grad(parts[head], list(plain.parameters()), retain_graph=True, allow_unused=True)
        for (name, _), grad in zip(plain.named_parameters(), grads, strict=True):
            fights = roles.get(head) == "forget" and not name.startswith("heads")
            expected[name] -= 0 if grad is None else 0.1 * weight * (factor if fights else 1.0) * grad
    settings = config(learning_rate=0.1, roles=roles)
    loss = train_step(network, TASK, make_optimizer(network, settings), batch, settings, epoch)
    assert loss.item() == pytest.approx(sum(weight * parts[head].item() for head, weight in weighted.items()), rel=1e-5)
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("optimizer", "decay"), [("sgd", 0.0), ("adam", 0.0), ("adamw", 1e-4)])
def test_weight_decay(optimizer: str, decay: float) -> None:
    """What a step does to the weights where there is no gradient."""
    network = make_network()
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    make_optimizer(network, config(optimizer=optimizer, learning_rate=100.0)).step()
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight, before[name] * (1 - 100 * decay), rtol=1e-6, atol=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizers_change_every_weight(optimizer: str) -> None:
    before = make_network().state_dict()
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
