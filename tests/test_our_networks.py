"""The encoders, outputs and profiles of our own against their formulas, computed with PyTorch's functions alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from exvo.batches.clips import Clips
from exvo.errors import InputError
from exvo.networks.build import build_network
from exvo.networks.chain import chain_places
from exvo.networks.frozen import statistics
from exvo.networks.inference import predict_clips, speaker_profiles
from exvo.networks.network import Network
from exvo.systems import find
from exvo.tasks import Task
from exvo.training.objectives import task_loss

State = dict[str, Tensor]
INPUTS = [3, 20]
KINDS: dict[str, dict[str, Any]] = {
    "resnet": {"encoder": "resnet"},
    "frozen": {"encoder": "frozen", "inputs": INPUTS},
    "chain": {"encoder": "frozen", "inputs": INPUTS, "head": "chain"},
    "resnet-relative": {"encoder": "resnet", "enrolment": "shared", "fusion": "relative", "typical_clips": 1},
    "resnet-film": {"encoder": "resnet", "enrolment": "shared", "fusion": "film", "typical_clips": 1},
    "frozen-relative": {"encoder": "frozen", "inputs": INPUTS, "enrolment": "shared", "fusion": "relative"},
    "frozen-film": {"encoder": "frozen", "inputs": INPUTS, "enrolment": "shared", "fusion": "film", "typical_clips": 2},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, **changes: object) -> Network:
    """With statistics, biases and normalisations that are not those of the start."""
    torch.manual_seed(0)
    network = Network(outputs=4, width=0.1, **(KINDS[kind] | changes))
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if "var" in name or name.endswith("scale") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 2)
            elif name.endswith("place"):
                tensor.copy_(torch.tensor([2.0, 0.0, 3.0, 1.0]))
            elif tensor.is_floating_point() and (tensor.ndim == 1 or not tensor.any()):
                tensor.uniform_(-1, 1)
    return network.eval()


def features(network: Network, clips: int, frames: int = 71) -> Tensor:
    inputs = network.arguments["inputs"]
    return 3 * torch.randn(clips, *inputs) if inputs else 20 * torch.randn(clips, frames, 64) - 30


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def batch_norm(state: State, name: str, x: Tensor, training: bool = False) -> Tensor:
    mean, var = (None, None) if training else (state[f"{name}.running_mean"], state[f"{name}.running_var"])
    return functional.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], training)


def resnet(state: State, log_mel: Tensor, training: bool = False) -> Tensor:
    def norm(name: str, x: Tensor) -> Tensor:
        return batch_norm(state, f"encoder.{name}", x, training)

    pairs = 4 * (len(log_mel[0]) // 8)  # what does not fill 80 ms is left out
    x = norm("bn0", log_mel[:, : 2 * pairs].transpose(1, 2)).transpose(1, 2)
    x = (x[:, 0 : 2 * pairs : 2] + x[:, 1 : 2 * pairs : 2])[:, None] / 2
    x = functional.relu(norm("bn", functional.conv2d(x, state["encoder.conv.weight"], stride=2, padding=1)))
    for number, stride in enumerate((1, 2, 2, 2)):
        block = f"blocks.{number}"
        change = functional.conv2d(x, state[f"encoder.{block}.conv1.weight"], stride=stride, padding=1)
        change = functional.relu(norm(f"{block}.bn1", change))
        change = norm(f"{block}.bn2", functional.conv2d(change, state[f"encoder.{block}.conv2.weight"], padding=1))
        if number:
            x = functional.avg_pool2d(x, 2, ceil_mode=True)
            x = norm(f"{block}.shortcut.2", functional.conv2d(x, state[f"encoder.{block}.shortcut.1.weight"]))
        x = functional.relu(x + change)
    variance = (x - x.mean(dim=2, keepdim=True)).square().mean(dim=2)
    x = torch.cat([x.mean(dim=2), x.max(dim=2).values, (variance + 1e-5).sqrt()], dim=1)
    assert x.shape[2] == 4  # bands
    return functional.relu(norm("fc_bn", linear(state, "encoder.fc", x.reshape(len(x), -1))))


def frozen(state: State, x: Tensor) -> Tensor:
    x = torch.clip((x - state["encoder.mean"]) * state["encoder.scale"], -5, 5)
    weights = torch.exp(state["encoder.layer_weights"]) / torch.exp(state["encoder.layer_weights"]).sum()
    x = sum(weight * x[:, layer] for layer, weight in enumerate(weights))
    x = functional.layer_norm(x, x.shape[1:], state["encoder.norm.weight"], state["encoder.norm.bias"])
    return functional.relu(linear(state, "encoder.hidden", x))


def encode(kind: str, state: State, x: Tensor) -> Tensor:
    return resnet(state, x) if kind.startswith("resnet") else frozen(state, x)


def output(kind: str, state: State, z: Tensor, profile: Tensor | None) -> Tensor:
    if kind.endswith("relative"):
        z = functional.relu(linear(state, "relative.compare", torch.cat([z, z - profile], dim=1)))
    if kind.endswith("film"):
        scale, shift = linear(state, "film.scale_shift", profile).chunk(2, dim=1)
        z = z * (1 + scale) + shift
    if kind != "chain":
        return linear(state, "output", z)
    alone = linear(state, "output.linear", z)
    y = torch.zeros_like(alone)
    done: list[int] = []
    for emotion in (1, 3, 0, 2):  # by their places
        y[:, emotion] = alone[:, emotion]
        for before in done:
            y[:, emotion] += state["output.links"][emotion, before] * torch.tanh(y[:, before])
        done.append(emotion)
    return y


@every_kind
@pytest.mark.parametrize("frames", [8, 71, 200])
def test_outputs(kind: str, frames: int) -> None:
    network = make(kind)
    state, clips, enrolling = network.state_dict(), features(network, 3, frames), features(network, 5, 45)
    t = network.typical_clips
    lists = [[0, 1], [2, 3, 4], [1]]
    profile = None
    if network.personalised:
        embedded = encode(kind, state, enrolling)
        sums = torch.stack([embedded[own].sum(dim=0) for own in lists])
        counts = torch.tensor([2.0, 3.0, 1.0])[:, None]
        profile = (sums + t * state["typical"]) / (counts + t)
    expected = output(kind, state, encode(kind, state, clips), profile)
    with torch.no_grad():
        found_profile = None
        if network.personalised:
            found = network.embed_enrolment(enrolling)
            means = torch.stack([found[own].mean(dim=0) for own in lists])
            found_profile = network.profile(means, torch.tensor([2.0, 3.0, 1.0]))
        torch.testing.assert_close(network.predict(clips, found_profile), expected, rtol=1e-4, atol=1e-4)
        if network.personalised:  # and without anybody: the typical profile
            alone = output(kind, state, encode(kind, state, clips), state["typical"].expand(3, -1))
            torch.testing.assert_close(network.predict(clips), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "kind", ["frozen", "frozen-relative", "frozen-film", "chain", "resnet", "resnet-relative", "resnet-film"]
)
def test_members_are_networks_side_by_side(kind: str) -> None:
    """A clip's output is the mean over the members; in training each member's output is learnt by itself."""
    network = make(kind, members=3)
    state = network.state_dict()
    clips, profile = features(network, 4), torch.randn(4, network.encoder.size)
    expected = []
    for member in range(3):
        own = {name: tensor for name, tensor in state.items() if not name.startswith(("output", "relative", "film"))}
        for name, tensor in state.items():
            layer, _, rest = name.partition(f".{member}.")
            own |= {f"{layer}.{rest}": tensor} if rest else {}
        for name in ("encoder.hidden.weight", "encoder.hidden.bias") if "encoder.hidden.weight" in state else ():
            own[name] = state[name].chunk(3)[member]
        mine = profile.chunk(3, dim=1)[member]
        expected.append(output(kind, own, encode(kind, own, clips), mine))
    given = profile if network.personalised else None
    torch.testing.assert_close(network.predict(clips, given), torch.stack(expected).mean(dim=0), rtol=1e-4, atol=1e-4)
    apart = network.output(network.fuse(network.embed(clips), given))
    torch.testing.assert_close(apart, torch.cat(expected, dim=1), rtol=1e-4, atol=1e-4)
    task = Task("fewshot", ("a", "b", "c", "d"), categories=True, objective="cross-entropy")
    labels = torch.eye(4)
    each = torch.stack([functional.cross_entropy(one, labels) for one in expected])
    torch.testing.assert_close(task_loss(task, apart, labels), each.mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["resnet-relative", "frozen-relative", "frozen-film"])
def test_training_within_the_batch(kind: str) -> None:
    """In evaluation mode, whose statistics stay."""
    network = make(kind)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    clips = features(network, 4)
    lists: list[list[int]] = [[1, 3], [0], [], [0, 1, 2]]
    enrols = torch.tensor([[float(clip in own) for clip in range(4)] for own in lists])
    found = network(clips, None, enrols, {})["main"]
    z, t = encode(kind, state, clips), network.typical_clips
    profiles = [
        (z[own].sum(dim=0) + t * state["typical"]) / (len(own) + t) if own or t else state["typical"] for own in lists
    ]
    torch.testing.assert_close(found, output(kind, state, z, torch.stack(profiles)), rtol=1e-4, atol=1e-4)
    moved = not torch.equal(network.typical, state["typical"])
    assert moved == (t == 0)  # a learnt profile moves by its gradient alone
    found.sum().backward()
    assert t == 0 or network.typical.grad is not None


def test_resnet_in_training() -> None:
    network = make("resnet", dropout=0.0).train()
    state, clips = {name: tensor.clone() for name, tensor in network.state_dict().items()}, features(network, 6)
    found = network(clips, None, None, {})["main"]
    expected = linear(state, "output", resnet(state, clips, training=True))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@every_kind
def test_dropout_is_before_the_output_too(kind: str) -> None:
    network = make(kind)
    profile = torch.zeros(3, len(network.typical)) if network.personalised else None
    with torch.no_grad():
        embedding = network.embed(features(network, 3))
        kept = network.fuse(embedding, profile)
        dropped = network.train().fuse(embedding, profile)
    zero = dropped == 0
    assert 0 < (zero & (kept != 0)).float().mean() < 0.6
    torch.testing.assert_close(dropped[~zero], kept[~zero] / 0.8)


def test_a_residual_block_starts_as_its_shortcut() -> None:
    network = Network("resnet", 2, 0.1).eval()
    for number, block in enumerate(network.encoder.blocks):
        x = torch.rand(2, block.conv1.in_channels, 9, 7)
        torch.testing.assert_close(block(x), torch.relu(block.shortcut(x)))
        assert block(x).shape[2:] == ((5, 4) if number else (9, 7))


@pytest.mark.parametrize("kind", ["resnet", "resnet-film", "frozen"])
def test_a_step_in_bf16(kind: str) -> None:
    network = make(kind).train()
    clips = features(network, 8)
    enrols = 1 - torch.eye(8) if network.personalised else None
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(clips, None, enrols, {})["main"]
    outputs.float().square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def clips_of(values: np.ndarray, labels: np.ndarray | None = None) -> Clips:
    names = [str(number) for number in range(len(values))]
    labels = np.zeros((len(values), 4)) if labels is None else labels
    return Clips(names, names, dict(zip(names, values, strict=True)), labels, "repeat", names)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_frozen_standardises_by_the_training_clips(dtype: type) -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(7, 3, (150, *INPUTS)) * rng.uniform(0.1, 10, INPUTS)).astype(dtype)
    values[:, 1, 4] = 0.1  # constant, though its sum is rounded
    values[:, 2, 0] = 0
    clips = clips_of(values, rng.random((150, 4)))
    mean, deviation = statistics(clips)
    np.testing.assert_allclose(mean, values.astype(np.float64).mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(deviation, values.astype(np.float64).std(axis=0), rtol=1e-6, atol=1e-12)
    network = build_network(replace(find("frozen"), members=1), Task("fewshot", tuple("abcd")), 0.1, 0, "", clips)
    assert network.arguments["inputs"] == INPUTS
    state = network.state_dict()
    standardised = (torch.from_numpy(values.astype(np.float32)) - state["encoder.mean"]) * state["encoder.scale"]
    varies = torch.ones(INPUTS, dtype=torch.bool)
    varies[1, 4] = varies[2, 0] = False
    assert not standardised[:, ~varies].any()
    torch.testing.assert_close(standardised.mean(dim=0), torch.zeros(INPUTS), rtol=0, atol=1e-4)
    torch.testing.assert_close(standardised.std(dim=0, unbiased=False)[varies], torch.ones(58), rtol=1e-3, atol=0)
    found = predict_clips(network, clips, "cpu")
    expected = output("frozen", state, frozen(state, torch.from_numpy(values).float()), None)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_profiles_of_whole_features() -> None:
    network = make("frozen-film")
    values = features(network, 4).numpy()
    found = speaker_profiles(network, clips_of(values), "cpu", [np.array([0, 1, 3]), np.array([], int)], "independent")
    z, typical = frozen(network.state_dict(), torch.from_numpy(values)), network.typical
    expected = torch.stack([(z[0] + z[1] + z[3] + 2 * typical) / 5, typical])
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


LABELS = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]], float)


@pytest.mark.parametrize(
    ("task", "labels", "expected"),
    [
        (Task("fewshot", tuple("abc"), categories=True, objective="cross-entropy"), LABELS, np.log([6, 2, 1]) - 9),
        (Task("fewshot", tuple("abc"), categories=True, objective="mse"), LABELS, [0.75, 0.25, 0]),
        (Task("fewshot", tuple("abc")), 10 * LABELS, [7.5, 2.5, 0]),
        (
            Task("multitask", ("a",), ("Chile", "Kenya")),
            np.array([[0.5, 20, 1], [1, 30, 1], [0, 40, 0], [0, 50, 1]]),
            [0.375, 35, np.log(1), np.log(3)],
        ),
    ],
    ids=["shares", "categories", "intensities", "multitask"],
)
def test_the_prior_is_what_training_says(task: Task, labels: np.ndarray, expected: list[float]) -> None:
    clips = clips_of(20 * np.random.default_rng(0).random((4, 30, 64)).astype(np.float32), labels)
    network = build_network(find("prior"), task, 1.0, 0, "", clips)
    assert not network.trainable
    found = predict_clips(network, clips, "cpu")
    assert (found == found[0]).all()  # nothing is heard
    if task.objective == "cross-entropy":  # up to what all have in common; the third, which is absent, as half a clip
        np.testing.assert_allclose(found[0] - found[0][0], np.array(expected) - expected[0], rtol=1e-5)
    elif task.name == "multitask":
        np.testing.assert_allclose(found[0][:2], expected[:2], rtol=1e-6)
        assert found[0][3] - found[0][2] == pytest.approx(expected[3], rel=1e-5)
    else:
        np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_the_order_of_a_chain() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=5000)
    weights = np.array([0.2, 2.0, 0.0, 1.0])
    labels = common[:, None] * weights + rng.normal(size=(5000, 4))
    labels[:, 2] = 0.5  # constant
    assert chain_places(labels).tolist() == [2, 0, 3, 1]
    clips = clips_of(rng.random((5000, *INPUTS)).astype(np.float32), labels)
    network = build_network(find("frozen-chain"), Task("fewshot", tuple("abcd")), 0.1, 0, "", clips)
    assert [output.place.tolist() for output in network.output] == [[2, 0, 3, 1]] * len(network.output)


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (Task("fewshot", ("a", "b"), categories=True), "but the labels are exclusive categories; train frozen instead"),
        (Task("multitask", ("a", "b"), ("x", "y")), "but task=multitask has other outputs too; train frozen instead"),
    ],
)
def test_a_chain_is_for_intensities_alone(task: Task, sentence: str) -> None:
    clips = clips_of(np.zeros((3, *INPUTS), np.float32), np.zeros((3, 4)))
    with pytest.raises(InputError, match=sentence):
        build_network(find("frozen-chain"), task, 0.1, 0, "", clips)
