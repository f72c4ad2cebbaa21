"""Networks: encoders and fusions against plain formulas, gradients of the heads, weights from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from exvo.config import FeatureConfig, InputError
from exvo.networks import layers, load, load_parent, save
from exvo.networks.cnn import PANN, ConvBlock, channels
from exvo.networks.enrolment import Network, mean_of_others
from exvo.networks.panns import load_panns
from exvo.tasks import Task

TASK = Task("fewshot", ("Awe", "Fear", "Horror"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def shaken(network: Network) -> Network:
    """In evaluation mode, with statistics, biases and normalisations that are not those of the start."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if "var" in name or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.is_floating_point() and (tensor.ndim == 1 or not tensor.any()):
                tensor.uniform_(-1, 1, generator=generator)
    return network.eval()


def norm(x: Tensor, bn: torch.nn.BatchNorm2d, shape: tuple[int, ...]) -> Tensor:
    mean, var = bn.running_mean.view(shape), bn.running_var.view(shape)
    return (x - mean) / torch.sqrt(var + bn.eps) * bn.weight.view(shape) + bn.bias.view(shape)


def plain_pann(pann: PANN, log_mel: Tensor, added: list[Tensor] | None = None) -> Tensor:
    """CNN10 or CNN14 written out plainly; `added` (batch, channels) after each block is what conditions it."""
    x = norm(log_mel[:, None], pann.bn0, (1, 1, 1, 64))
    blocks = [module for module in pann.children() if isinstance(module, ConvBlock)]
    for number, block in enumerate(blocks):
        for convolution, bn in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
            x = torch.relu(norm(torch.conv2d(x, convolution.weight, padding=1), bn, (1, -1, 1, 1)))
        if number < 5:  # all of CNN10's four, all but the last of CNN14's six
            batch, count, frames, bands = x.shape[0], x.shape[1], x.shape[2] // 2, x.shape[3] // 2
            x = x[:, :, : 2 * frames, : 2 * bands].reshape(batch, count, frames, 2, bands, 2).mean(dim=(3, 5))
        if added is not None:
            x = x + added[number][:, :, None, None]
    x = x.mean(dim=3)
    x = x.max(dim=2).values + x.mean(dim=2)
    return torch.relu(x @ pann.fc1.weight.T + pann.fc1.bias)


@pytest.mark.parametrize(
    ("encoder", "counts", "width"),
    [
        ("cnn5", (64, 256, 1024), 1.0),
        ("cnn10", (64, 128, 256, 512), 1.0),
        ("cnn14", (64, 128, 256, 512, 1024, 2048), 1.0),
        ("cnn10", (6, 13, 26, 51), 0.1),
        ("cnn14", (4, 4, 5, 10, 20, 41), 0.02),
    ],
)
def test_channels(encoder: str, counts: tuple[int, ...], width: float) -> None:
    assert channels(encoder, width) == counts


@pytest.mark.parametrize("encoder", ["cnn10", "cnn14"])
def test_panns_formula(encoder: str) -> None:
    network = shaken(Network(encoder, 3, 0.1))
    clips = 20 * torch.randn(2, 77, 64)
    expected = plain_pann(network.encoder, clips)
    torch.testing.assert_close(network.encoder(clips), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(clips), network.output(expected), rtol=1e-4, atol=1e-4)


def test_cnn5_formula() -> None:
    network = shaken(Network("cnn5", 3, 0.05))
    clips = 20 * torch.randn(2, 19, 64)
    convolutions = [module for module in network.encoder.layers if isinstance(module, torch.nn.Conv2d)]
    norms = [module for module in network.encoder.layers if isinstance(module, torch.nn.BatchNorm2d)]
    assert [tuple(c.weight.shape) for c in convolutions] == [(4, 1, 3, 5), (13, 4, 3, 5), (51, 13, 3, 5)]
    x = clips[:, None]
    for convolution, bn in zip(convolutions, norms, strict=True):
        padded = functional.pad(x, (2, 2, 1, 1))  # two bands and one frame at each side: the same size again
        runs = padded.unfold(2, 3, 1).unfold(3, 5, 1)  # (batch, channels, frames, bands, 3, 5)
        x = torch.relu(norm(torch.einsum("bcfkij,ocij->bofk", runs, convolution.weight), bn, (1, -1, 1, 1)))
    assert x.shape == (2, 51, 19, 64)
    torch.testing.assert_close(network.encoder(clips), x.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_attention_formula(layer_norm: bool) -> None:
    network = shaken(Network("cnn14", 3, 0.05, enrolment="cnn10", fusion="attention", layer_norm=layer_norm))
    clips, profile = 20 * torch.randn(4, 40, 64), torch.randn(4, 26)
    attention, pann = network.attention, network.encoder
    assert attention.weigh.weight.shape == (102, 26)
    embedding = plain_pann(pann, clips)

    def layer(x: Tensor, norm: torch.nn.Module) -> Tensor:
        if not layer_norm:
            return x
        centred = x - x.mean(dim=1, keepdim=True)
        return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias

    weights = torch.relu(profile @ attention.weigh.weight.T + attention.weigh.bias).exp()
    weights = weights / weights.sum(dim=1, keepdim=True)
    fused = embedding + layer(layer(embedding, attention.before) * weights, attention.after)
    expected = network.output(torch.relu(fused @ pann.fc1.weight.T + pann.fc1.bias))
    torch.testing.assert_close(network(clips, profile), expected, rtol=1e-4, atol=1e-4)


def test_conditioning_formula() -> None:
    network = shaken(Network("cnn14", 3, 0.05, enrolment="cnn5", fusion="conditioning"))
    clips, profile = 20 * torch.randn(2, 70, 64), torch.randn(2, 51)
    assert [tuple(linear.weight.shape) for linear in network.conditions] == [(c, 51) for c in (4, 6, 13, 26, 51, 102)]
    added = [torch.relu(profile @ linear.weight.T + linear.bias) for linear in network.conditions]
    expected = network.output(plain_pann(network.encoder, clips, added))
    torch.testing.assert_close(network(clips, profile), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(network(clips, profile), network(clips, 2 * profile), atol=1e-2)


def test_relative_and_film_formulas() -> None:
    clips, profile = 20 * torch.randn(3, 40, 64), torch.randn(3, 26)
    relative = shaken(Network("cnn10", 3, 0.05, enrolment="shared", fusion="relative"))
    embedding = plain_pann(relative.encoder, clips)
    compare = relative.relative.compare
    own, difference = compare.weight[:, :26], compare.weight[:, 26:]
    hidden = torch.relu(embedding @ own.T + (embedding - profile) @ difference.T + compare.bias)
    expected = hidden @ relative.output.weight.T + relative.output.bias
    torch.testing.assert_close(relative(clips, profile), expected, rtol=1e-4, atol=1e-4)
    film = shaken(Network("cnn10", 3, 0.05, enrolment="shared", fusion="film"))
    both = profile @ film.film.scale_shift.weight.T + film.film.scale_shift.bias
    expected = film.output(plain_pann(film.encoder, clips) * (1 + both[:, :26]) + both[:, 26:])
    torch.testing.assert_close(film(clips, profile), expected, rtol=1e-4, atol=1e-4)
    film = Network("cnn10", 3, 0.05, enrolment="shared", fusion="film").eval()  # at its start it changes nothing
    assert torch.equal(film(clips, profile), film.output(film.encoder(clips)))


@pytest.mark.parametrize(
    ("encoder", "fusion", "blocks"), [("cnn14", "none", 6), ("cnn10", "none", 4), ("cnn14", "conditioning", 6)]
)
def test_dropout_after_each_block(encoder: str, fusion: str, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training 0.2 of the numbers, under conditioning 0.2 of the channels as a whole."""
    network = Network(encoder, 3, 0.25, enrolment="cnn5", fusion=fusion).train()
    torch.nn.init.constant_(network.encoder.conv_block1.bn2.bias, 20.0)  # so that ReLU leaves no zeros
    seen: list[Tensor] = []
    network.encoder.conv_block2.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    home, kind = (functional, "dropout2d") if fusion == "conditioning" else (layers, "dropout")
    calls, applied = [], getattr(home, kind)
    monkeypatch.setattr(home, kind, lambda x, p, training: calls.append(p) or applied(x, p, training))
    with torch.no_grad():
        network.embed(torch.randn(80, 32, 64), torch.zeros(80, 256))
    assert calls == [0.2] * blocks
    zero = (seen[0] == 0).float().mean(dim=(2, 3))  # (batch, channels)
    assert zero.mean().item() == pytest.approx(0.2, abs=0.04)
    assert ((zero == 0) | (zero == 1)).all() == (fusion == "conditioning")
    network.eval().embed(torch.randn(1, 32, 64), torch.zeros(1, 256))
    assert not (seen[1] == 0).any()


def test_channel_dropout_of_cnn5() -> None:
    layers = Network("cnn5", 3, 0.25).train().encoder.layers
    torch.nn.init.constant_(layers[1].bias, 20.0)
    with torch.no_grad():
        zero = (layers[:4](torch.randn(80, 1, 9, 64)) == 0).float().mean(dim=(2, 3))
    assert zero.mean().item() == pytest.approx(0.2, abs=0.04)
    assert ((zero == 0) | (zero == 1)).all()
    assert [layer.p for layer in layers if isinstance(layer, torch.nn.Dropout2d)] == [0.2] * 3


def test_mean_of_others() -> None:
    embeddings, groups = torch.randn(10, 4, dtype=torch.float64), torch.tensor([1, 0, 2, 1, 2, 2, 0, 2, 2, 1])
    found = mean_of_others(embeddings, groups)
    for clip in range(10):
        others = [embeddings[i] for i in range(10) if groups[i] == groups[clip] and i != clip]
        torch.testing.assert_close(found[clip], sum(others) / len(others))


def gradients(network: Network, name: str, factor: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a head's output, with that factor, in each parameter that it reaches."""
    factors = dict.fromkeys(network.heads, 1.0) | {name: factor}
    network.zero_grad()
    found = network.training_outputs(tensors["log_mel"], tensors.get("enrolment"), None, factors)
    functional.cross_entropy(found[name], torch.arange(len(found[name])) % 3).backward()
    return {key: weight.grad.clone() for key, weight in network.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("head", ["main_speaker", "enrolment_speaker", "enrolment_emotion"])
def test_reversal_of_a_heads_gradient(head: str) -> None:
    heads = dict.fromkeys(("main_speaker", "enrolment_speaker", "enrolment_emotion"), 3)
    network = Network("cnn14", 2, 0.05, 0.0, "cnn10", "attention", heads=heads)
    tensors = {"log_mel": torch.randn(3, 40, 64), "enrolment": torch.randn(3, 2, 40, 64)}
    help, half, none, fight = (gradients(network, head, factor, tensors) for factor in (1.0, -0.5, 0.0, -1.0))
    beneath = "encoder" if head == "main_speaker" else "enrolment_encoder"
    reached = {".".join(key.split(".")[: 2 if key.startswith("heads") else 1]) for key in help}
    assert reached == {beneath, f"heads.{head}"}
    for key in help:
        if key.startswith("heads"):
            assert torch.equal(fight[key], help[key])
            assert torch.equal(none[key], help[key])
        else:
            assert help[key].any(), key
            assert torch.equal(fight[key], -help[key])
            assert torch.equal(half[key], -0.5 * help[key])
            assert not none[key].any()


def panns_file(path: Path, network: PANN, **changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """A file with the key layout of the published PANNs weights, random numbers in it, and a NumPy sampler state."""
    state = {k: torch.randn_like(v.float()).to(v.dtype) for k, v in network.state_dict().items()}
    state |= {
        "spectrogram_extractor.stft.conv_real.weight": torch.randn(257, 1, 512),
        "spectrogram_extractor.stft.conv_imag.weight": torch.randn(257, 1, 512),
        "logmel_extractor.melW": torch.randn(257, 64),
        "fc_audioset.weight": torch.randn(527, 8),
        "fc_audioset.bias": torch.randn(527),
    }
    for key, value in changes.items():
        state[key] = value
    state = {k: v for k, v in state.items() if v is not None}
    torch.save({"iteration": 1, "model": state, "sampler": {"indexes": np.arange(5), "pointer": 3}}, path)
    return state


@pytest.mark.parametrize("encoder", ["cnn10", "cnn14"])
def test_panns_weights_load_by_name(tmp_path: Path, encoder: str) -> None:
    network = Network(encoder, 3, 0.05, enrolment="cnn10", fusion="attention")
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state = panns_file(tmp_path / "panns.pth", network.encoder)
    load_panns(network.encoder, tmp_path / "panns.pth")
    for key, tensor in network.state_dict().items():
        expected = state[key.removeprefix("encoder.")] if key.startswith("encoder.") else before[key]
        assert torch.equal(tensor, expected), key


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"conv_block6.conv2.weight": None}, r"it lacks 1 of \d+ \(conv_block6.conv2.weight\) and has 0 unknown"),
        ({"classifier.weight": torch.zeros(2)}, r"has 1 unknown ones \(classifier.weight\)"),
        ({"fc1.weight": torch.zeros(2, 2)}, r"fc1.weight is \(2, 2\), this network needs \(102, 102\)"),
    ],
)
def test_other_weights_are_refused(tmp_path: Path, changes: dict[str, torch.Tensor | None], sentence: str) -> None:
    network = PANN("cnn14", 0.05)
    panns_file(tmp_path / "panns.pth", network, **changes)
    with pytest.raises(InputError, match=sentence):
        load_panns(network, tmp_path / "panns.pth")


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (open, (str(self.path), "w"))


def test_a_file_of_weights_executes_nothing(tmp_path: Path) -> None:
    torch.save({"model": {}, "x": Malicious(tmp_path / "executed")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="can't be read as a file of weights"):
        load_panns(PANN("cnn14", 0.05), tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match="can't be read as a file of weights"):
        load_panns(PANN("cnn14", 0.05), tmp_path / "text.pth")
    with pytest.raises(InputError, match="is not a file; download"):
        load_panns(PANN("cnn14", 0.05), tmp_path / "absent.pth")


def test_save_and_load(tmp_path: Path) -> None:
    network = Network("cnn10", TASK.outputs, 0.1).eval()
    path = tmp_path / "new" / "best.safetensors"
    save(path, network, network.state_dict(), TASK, FeatureConfig(), "floor", {"epoch": 3})
    checkpoint = load(path)
    clip = torch.randn(2, 60, 64)
    assert torch.equal(checkpoint.network(clip), network(clip))
    assert (checkpoint.task, checkpoint.features) == (TASK, FeatureConfig())
    assert (checkpoint.fill, checkpoint.notes) == ("floor", {"epoch": 3})
    assert [file.name for file in path.parent.iterdir()] == ["best.safetensors"]


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    network = Network("cnn10", TASK.outputs, 0.1)
    path = tmp_path / "best.safetensors"
    save(path, network, network.state_dict(), TASK, FeatureConfig(), "zero", {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not a whole checkpoint of exvo"):
        load(path)
    with pytest.raises(InputError, match="is not a whole checkpoint of exvo"):
        load(tmp_path / "absent.safetensors")


def test_a_full_disk_keeps_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network("cnn10", TASK.outputs, 0.1)
    path = tmp_path / "best.safetensors"
    save(path, network, network.state_dict(), TASK, FeatureConfig(), "zero", {"epoch": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"can't be written .No space left on device"):
        save(path, network, network.state_dict(), TASK, FeatureConfig(), "zero", {"epoch": 2})
    assert load(path).notes == {"epoch": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_parents_weights() -> None:
    make = ("cnn14", 3, 0.05, 0.2, "cnn5", "conditioning", False)
    parent, network = (Network(*make, heads={"enrolment_emotion": 3}) for _ in range(2))
    shaken(parent)
    load_parent(network, parent, "the run wise-owl")
    for key, tensor in parent.state_dict().items():
        assert torch.equal(network.state_dict()[key], tensor), key
    torch.nn.init.zeros_(network.output.weight)
    assert parent.output.weight.any()  # a copy


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"width": 0.1}, "width is 0.1, not 0.05"),
        ({"fusion": "none"}, "fusion is none, not attention"),
        ({"layer_norm": True}, "layer_norm is True, not False"),
        ({"outputs": 10, "heads": {}}, "outputs is 10, not 3, heads is {}, not {'main_speaker': 7}"),
    ],
)
def test_another_parent_is_refused(changes: dict[str, object], told: str) -> None:
    own = {"encoder": "cnn14", "outputs": 3, "width": 0.05, "enrolment": "cnn10", "fusion": "attention"}
    own |= {"heads": {"main_speaker": 7}}
    network, parent = Network(**own), Network(**(own | changes))
    with pytest.raises(InputError) as caught:
        load_parent(network, parent, "the run wise-owl")
    assert str(caught.value) == (
        f"The weights of the run wise-owl don't fit this network: its {told}. Train both with the same options."
    )
