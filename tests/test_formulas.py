"""Every kind of network against the published formulas, computed from its state dict with PyTorch's functions alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from exvo.batches.clips import Clips
from exvo.networks.inference import embed_clips, predict_clips, speaker_profiles
from exvo.networks.network import Network

HEADS = {"enrolment_emotion": 3, "enrolment_speaker": 5, "main_speaker": 5}
ATTENTION = {"encoder": "cnn14", "enrolment": "cnn10", "fusion": "attention", "heads": HEADS}
KINDS: dict[str, dict[str, Any]] = {
    "cnn5": {"encoder": "cnn5"},
    "cnn10": {"encoder": "cnn10", "heads": {"main_speaker": 5}},
    "cnn14": {"encoder": "cnn14", "heads": {"main_speaker": 5}},
    "attention": ATTENTION,
    "layernorm": ATTENTION | {"layer_norm": True},
    "conditioning": {"encoder": "cnn14", "enrolment": "cnn5", "fusion": "conditioning", "heads": HEADS},
    "relative": {"encoder": "cnn10", "enrolment": "shared", "fusion": "relative"},
    "film": {"encoder": "cnn10", "enrolment": "shared", "fusion": "film"},
}
State = dict[str, Tensor]
Masks = Iterator[tuple[str, Tensor]]


def make(kind: str, **changes: object) -> Network:
    """With statistics, biases and normalisations that are not those of the start."""
    torch.manual_seed(0)
    network = Network(outputs=3, width=0.05, **(KINDS[kind] | changes))
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if "var" in name or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point() and (tensor.ndim == 1 or not tensor.any()):
                tensor.uniform_(-1, 1)
    return network.eval()


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def batch_norm(state: State, name: str, x: Tensor, training: bool) -> Tensor:
    mean, var = (None, None) if training else (state[f"{name}.running_mean"], state[f"{name}.running_var"])
    return functional.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], training)


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[1:], state[f"{name}.weight"], state[f"{name}.bias"])


def dropped(x: Tensor, kind: str, masks: Masks | None) -> Tensor:
    """In training x times the next mask, which must be of that kind of dropout."""
    if masks is None:
        return x
    drawn, mask = next(masks)
    assert drawn == kind
    return x * mask


def pann(state: State, name: str, log_mel: Tensor, masks: Masks | None, profile: Tensor | None = None) -> Tensor:
    """CNN10 or CNN14; with a profile, conditioned after each block and its pooling."""
    training = masks is not None
    x = batch_norm(state, f"{name}.bn0", log_mel[:, None].transpose(1, 3), training).transpose(1, 3)
    blocks = sum(key.startswith(f"{name}.conv_block") and key.endswith("conv1.weight") for key in state)
    for number in range(1, blocks + 1):
        block = f"{name}.conv_block{number}"
        for layer in (1, 2):
            x = functional.conv2d(x, state[f"{block}.conv{layer}.weight"], padding=1)
            x = functional.relu(batch_norm(state, f"{block}.bn{layer}", x, training))
        x = functional.avg_pool2d(x, 2) if number < 6 else x
        if profile is not None:
            x = x + functional.relu(linear(state, f"conditions.{number - 1}", profile))[:, :, None, None]
            x = dropped(x, "channels", masks)
        x = dropped(x, "numbers", masks)
    x = x.mean(dim=3)
    return functional.relu(linear(state, f"{name}.fc1", x.amax(dim=2) + x.mean(dim=2)))


def cnn5(state: State, name: str, log_mel: Tensor, masks: Masks | None) -> Tensor:
    x = log_mel[:, None]
    for layer in (0, 4, 8):
        weight, bias = state[f"{name}.layers.{layer}.weight"], state[f"{name}.layers.{layer}.bias"]
        assert weight.shape[2:] == (3, 5)
        x = functional.conv2d(x, weight, bias, padding=(1, 2))
        x = functional.relu(batch_norm(state, f"{name}.layers.{layer + 1}", x, masks is not None))
        x = dropped(x, "channels", masks)
    return x.mean(dim=(2, 3))


def encode(kind: str, state: State, name: str, log_mel: Tensor, masks: Masks | None = None) -> Tensor:
    return (cnn5 if kind == "cnn5" else pann)(state, name, log_mel, masks)


def fused(kind: str, state: State, z: Tensor, profile: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the output layer sees, and what the main speaker head reads."""
    if kind in ("attention", "layernorm"):
        w = functional.softmax(functional.relu(linear(state, "attention.weigh", profile)), dim=1)
        if kind == "attention":
            seen, read = z + w * z, z
        else:
            read = layer_norm(state, "attention.before", z)
            seen = read + layer_norm(state, "attention.after", w * read)
        return functional.relu(linear(state, "encoder.fc1", seen)), read
    if kind == "conditioning":
        return functional.relu(linear(state, "encoder.fc1", z)), z
    if kind == "relative":
        return functional.relu(linear(state, "relative.compare", torch.cat([z, z - profile], dim=1))), z
    if kind == "film":
        scale, shift = linear(state, "film.scale_shift", profile).chunk(2, dim=1)
        return z * (1 + scale) + shift, z
    return z, z


def head(state: State, name: str, x: Tensor) -> Tensor:
    return linear(state, f"heads.{name}.2", functional.relu(linear(state, f"heads.{name}.0", x)))


def main_embedding(kind: str, state: State, log_mel: Tensor, profile: Tensor, masks: Masks | None = None) -> Tensor:
    if kind == "conditioning":
        return pann(state, "encoder", log_mel, masks, profile)
    return encode(KINDS[kind]["encoder"], state, "encoder", log_mel, masks)


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest, in relation to the largest expected number."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


def shots_of(kind: str, state: State, enrolment: Tensor, masks: Masks | None = None) -> Tensor:
    """The embeddings of enrolment clips (speakers, shots, frames, bands): (speakers x shots, embedding)."""
    own = KINDS[kind]["enrolment"]
    encoder, name = ("cnn10", "encoder") if own == "shared" else (own, "enrolment_encoder")
    return encode(encoder, state, name, enrolment.flatten(0, 1), masks)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs(kind: str) -> None:
    network = make(kind)
    state, clips, enrolment = network.state_dict(), 20 * torch.randn(3, 71, 64), 20 * torch.randn(3, 2, 45, 64)
    profile = None
    if network.personalised:
        shots = shots_of(kind, state, enrolment)
        with torch.no_grad():
            assert difference(network.embed_enrolment(enrolment.flatten(0, 1)), shots) < 1e-5
        profile = shots.view(3, 2, -1).mean(dim=1)
    expected, _ = fused(kind, state, main_embedding(kind, state, clips, profile), profile)
    with torch.no_grad():
        assert difference(network.predict(clips, profile), linear(state, "output", expected)) < 1e-5
        if profile is not None:  # and it matters who speaks
            assert difference(network.predict(clips, profile.flip(0)), network.predict(clips, profile)) > 2e-5


@pytest.mark.parametrize("kind", ["cnn10", "cnn14", "attention", "layernorm", "conditioning"])
def test_heads(kind: str) -> None:
    network = make(kind)
    state, clips, enrolment = network.state_dict(), 20 * torch.randn(3, 71, 64), 20 * torch.randn(3, 2, 45, 64)
    with torch.no_grad():
        given = enrolment if network.personalised else None
        found = network(clips, given, None, dict.fromkeys(network.heads, 1.0))
    assert set(found) == {"main", *KINDS[kind]["heads"]}
    shots = shots_of(kind, state, enrolment) if network.personalised else torch.zeros(0)
    profile = shots.view(3, 2, -1).mean(dim=1) if network.personalised else None
    seen, read = fused(kind, state, main_embedding(kind, state, clips, profile), profile)
    assert difference(found["main"], linear(state, "output", seen)) < 1e-5
    for name in network.heads:
        expected = head(state, name, read if name == "main_speaker" else shots)
        assert difference(found[name], expected) < 1e-5


MAIN = {"conditioning": ["channels", "numbers"] * 6}
ENROLMENT = {"conditioning": ["channels"] * 3, "attention": ["numbers"] * 4, "layernorm": ["numbers"] * 4}


@pytest.mark.parametrize("kind", ["cnn5", "cnn10", "cnn14", "attention", "layernorm", "conditioning"])
def test_training(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and all gradients in training mode, in double precision, with the masks that the dropouts drew.

    A dropout of numbers must be given what the one of channels gave.
    """
    network = make(kind).double().train()
    if network.personalised:
        network.typical = network.typical.float()  # as in training, where all else may be bf16
    drawn: list[tuple[str, Tensor, Tensor]] = []  # kind, mask, output

    def record(name: str, ends: int) -> Any:
        def dropout(x: Tensor, p: float, training: bool, inplace: bool = False) -> Tensor:
            assert (p, training, inplace) == (0.2, True, False)
            if name == "numbers" and drawn and drawn[-1][0] == "channels" and kind == "conditioning":
                assert x is drawn[-1][2]
            shape = [*x.shape[: 4 - ends], *[1] * ends]
            mask = torch.bernoulli(torch.full(shape, 0.8, dtype=x.dtype)) / 0.8
            drawn.append((name, mask, x * mask))
            return drawn[-1][2]

        return dropout

    monkeypatch.setattr(functional, "dropout2d", record("channels", 2))
    monkeypatch.setattr(functional, "dropout", record("numbers", 0))
    clips = 20 * torch.randn(3, 64, 64, dtype=torch.float64)
    enrolment = 20 * torch.randn(3, 2, 40, 64, dtype=torch.float64) if network.personalised else None
    factors = {name: factor for name, factor in zip(HEADS, (-0.5, 1.0, -0.02), strict=True) if name in network.heads}
    found = network(clips, enrolment, None, factors)
    plain = {"cnn5": ["channels"] * 3, "cnn10": ["numbers"] * 4}.get(kind, ["numbers"] * 6)
    assert [name for name, _, _ in drawn] == ENROLMENT.get(kind, []) + MAIN.get(kind, plain)

    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    state |= {name: state[name].requires_grad_() for name, _ in network.named_parameters()}
    masks = iter([(name, mask) for name, mask, _ in drawn])
    shots = shots_of(kind, state, enrolment, masks) if enrolment is not None else torch.zeros(0)
    profile = shots.view(3, 2, -1).mean(dim=1) if enrolment is not None else None
    seen, read = fused(kind, state, main_embedding(kind, state, clips, profile, masks), profile)
    expected = {"main": linear(state, "output", seen)}
    expected |= {name: head(state, name, read if name == "main_speaker" else shots) for name in network.heads}
    assert set(found) == set(expected)
    gradients: State = {}
    for name, outputs in expected.items():
        assert difference(found[name], outputs) < 1e-10
        leaves = {key: state[key] for key, _ in network.named_parameters()}
        grads = torch.autograd.grad(outputs.square().sum(), list(leaves.values()), retain_graph=True, allow_unused=True)
        for key, grad in zip(leaves, grads, strict=True):
            if grad is not None:
                factor = 1.0 if key.startswith("heads") else factors.get(name, 1.0)
                gradients[key] = gradients.get(key, torch.zeros_like(grad)) + factor * grad
    sum(outputs.square().sum() for outputs in found.values()).backward()
    for key, weight in network.named_parameters():
        assert weight.grad is not None, key
        assert (weight.grad - gradients[key]).abs().max() <= 1e-8 * max(1.0, gradients[key].abs().max()), key


def make_clips(fill: str = "repeat", lengths: tuple[int, ...] = (40, 71, 55, 20, 71)) -> Clips:
    """Noise; the fourth clip is shorter than CNN14 needs."""
    generator = torch.Generator().manual_seed(1)
    mels = [20 * torch.randn(frames, 64, generator=generator) - 40 for frames in lengths]
    names = [str(number) for number in range(len(lengths))]
    features = {name: mel.numpy() for name, mel in zip(names, mels, strict=True)}
    return Clips(names, names, features, np.zeros((len(names), 1)), fill)


LISTS = [[0, 1], [0, 1], [2, 0], [3], [1, 3, 2], [], [0, 0, 3]]
"""Clip 0 (40 frames) is filled to 71, to 55 and not at all."""
FILLED = {(0, 71), (1, 71), (2, 55), (0, 55), (3, 20), (3, 71), (2, 71), (0, 40), (3, 40)}
UNFILLED = {(0, 40), (1, 71), (2, 55), (3, 20)}


def profile_by_hand(kind: str, state: State, clips: Clips, own: list[int], protocol: str | None, least: int) -> Tensor:
    """Each clip alone, with zeros up to the longest of its list, then from its beginning again to what CNN14 needs."""
    mels = [torch.from_numpy(clips.features[clips.contents[clip]]) for clip in own]
    if protocol == "published":
        longest = max(len(mel) for mel in mels)
        mels = [functional.pad(mel, (0, 0, 0, longest - len(mel))) for mel in mels]
    if clips.fill == "repeat":
        mels = [mel[torch.arange(max(len(mel), least)) % len(mel)] for mel in mels]
    mels = [functional.pad(mel, (0, 0, 0, max(0, least - len(mel)))) for mel in mels]
    return torch.cat([shots_of(kind, state, mel[None, None]) for mel in mels]).mean(dim=0)


@pytest.mark.parametrize("fill", ["repeat", "zero"])
@pytest.mark.parametrize("protocol", ["published", "strict", None])
@pytest.mark.parametrize("kind", ["attention", "layernorm", "conditioning", "relative", "film"])
def test_the_zero_fill_of_enrolment_clips(kind: str, protocol: str | None, fill: str) -> None:
    network, clips = make(kind), make_clips(fill)
    state, lists = network.state_dict(), [np.array(own, np.int64) for own in LISTS]
    encoded: list[tuple[int, int]] = []
    encoder = network.enrolment_encoder or network.encoder
    hook = encoder.register_forward_pre_hook(lambda _, given: encoded.append(tuple(given[0].shape[:2])))
    found = speaker_profiles(network, clips, "cpu", lists, protocol)
    hook.remove()
    expected = [
        profile_by_hand(kind, state, clips, own, protocol, network.min_frames) if own else network.typical
        for own in LISTS
    ]
    assert difference(found, torch.stack(expected)) < 1e-5
    # Each clip once for each of its lengths, those of one length in one batch of up to four.
    lengths = [max(frames, network.min_frames) for _, frames in (FILLED if protocol == "published" else UNFILLED)]
    assert sorted(encoded) == sorted((lengths.count(frames), frames) for frames in set(lengths))

    asked = lists[: len(clips)]
    outputs = torch.from_numpy(predict_clips(network, clips, "cpu", asked, protocol=protocol))
    with torch.no_grad():
        for clip in (0, 1, 2, 4):
            log_mel = torch.from_numpy(clips.features[str(clip)])[None]
            z = main_embedding(kind, state, log_mel, expected[clip][None])
            seen, _ = fused(kind, state, z, expected[clip][None])
            assert difference(outputs[clip : clip + 1], linear(state, "output", seen)) < 1e-5
            if kind == "conditioning":
                embedded = embed_clips(network, clips, "cpu", "main", asked, protocol=protocol)
                assert difference(torch.from_numpy(embedded[clip]), z[0]) < 1e-5


def fans(weight: Tensor) -> tuple[int, int]:
    """Inputs and outputs of one number of the result."""
    field = weight[0, 0].numel()
    return weight.shape[1] * field, weight.shape[0] * field


@pytest.mark.parametrize("kind", KINDS)
def test_first_weights(kind: str) -> None:
    """Uniform: PyTorch's default for fusions, heads and CNN5, Xavier with zero biases for the PANNs and the output."""
    torch.manual_seed(0)
    arguments = KINDS[kind] | ({"encoder": "cnn10"} if KINDS[kind]["encoder"] == "cnn14" else {})
    network = Network(outputs=30, width=0.25, **arguments)
    state, seen = network.state_dict(), 0
    for name, weight in network.named_parameters():
        if weight.ndim < 2 or name.startswith("film"):  # which starts as the identity
            continue
        inputs, outputs = fans(weight)
        ours = name.startswith(("output", "relative"))
        xavier = ours or ".fc1." in name or ".conv_block" in name
        bound = math.sqrt(6 / (inputs + outputs)) if xavier else 1 / math.sqrt(inputs)
        assert weight.abs().max() <= bound, name
        assert weight.abs().max() > 0.9 * bound, name
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15), name
        bias = state.get(f"{name.removesuffix('.weight')}.bias")
        assert (bias is None) == (".conv_block" in name), name
        if bias is not None and xavier:
            assert not bias.any(), name
        elif bias is not None:
            assert 0.4 * bound < bias.abs().max() <= bound, name
        seen += 1
    assert seen >= 4
