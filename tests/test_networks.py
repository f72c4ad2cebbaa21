"""Networks: encoders and fusions against plain formulas, gradients of the heads, weights from files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.networks.checkpoint import load_checkpoint, load_parent, save_checkpoint
from exvo.networks.cnn import PANN, channels
from exvo.networks.network import Network
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


def test_film_starts_as_the_identity() -> None:
    film = Network("cnn10", 3, 0.05, enrolment="shared", fusion="film").eval()
    clips = 20 * torch.randn(3, 40, 64)
    assert torch.equal(film.predict(clips, torch.randn(3, 26)), film.output(film.encoder(clips)))


@pytest.mark.parametrize(
    ("encoder", "fusion", "blocks"), [("cnn14", "none", 6), ("cnn10", "none", 4), ("cnn14", "conditioning", 6)]
)
def test_dropout_after_each_block(encoder: str, fusion: str, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training 0.2 of the numbers, under conditioning first 0.2 of the channels as a whole."""
    network = Network(encoder, 3, 0.25, enrolment="cnn5", fusion=fusion).train()
    torch.nn.init.constant_(network.encoder.conv_block1.bn2.bias, 20.0)  # so that ReLU leaves no zeros
    seen: list[Tensor] = []
    network.encoder.conv_block2.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    calls: list[tuple[str, float]] = []
    for kind in ("dropout2d", "dropout"):
        applied = getattr(functional, kind)
        monkeypatch.setattr(
            functional,
            kind,
            lambda x, p, training, kind=kind, applied=applied: calls.append((kind, p)) or applied(x, p, training),
        )
    with torch.no_grad():
        network.embed(torch.randn(80, 32, 64), torch.zeros(80, 256))
    conditioned = fusion == "conditioning"
    assert calls == ([("dropout2d", 0.2)] * conditioned + [("dropout", 0.2)]) * blocks
    zero = (seen[0] == 0).float().mean(dim=(2, 3))  # (batch, channels)
    whole = zero == 1
    assert whole.float().mean().item() == pytest.approx(0.2 * conditioned, abs=0.04)
    assert zero[~whole].mean().item() == pytest.approx(0.2, abs=0.04)
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


@pytest.mark.parametrize("typical_clips", [0, 1, 3])
def test_a_profile_is_the_mean_over_the_clips_and_the_typical_ones(typical_clips: int) -> None:
    network = Network("cnn5", 2, 0.05, enrolment="shared", fusion="relative")
    network.arguments["typical_clips"] = typical_clips  # type: ignore[typeddict-unknown-key]
    network.typical.normal_()
    clips = torch.randn(5, len(network.typical))
    means = torch.stack([clips[:1].mean(dim=0), clips.mean(dim=0), torch.zeros_like(clips[0])])
    found = network.profile(means, torch.tensor([1, 5, 0]))
    for count, profile in zip((1, 5, 0), found, strict=True):
        every = [*clips[:count], *[network.typical] * typical_clips] or [network.typical]
        torch.testing.assert_close(profile, torch.stack(every).mean(dim=0))


def test_in_training_a_profile_is_of_the_clips_that_enrol() -> None:
    network = Network("cnn5", 2, 0.05, enrolment="shared", fusion="relative").eval()
    network.typical.normal_()
    typical, clips = network.typical.clone(), 20 * torch.randn(4, 40, 64) - 40
    enrols = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=torch.float32)
    found = network(clips, None, enrols, {})["main"]
    embeddings = network.embed(clips)
    profiles = [embeddings[row == 1].mean(dim=0) if row.any() else typical for row in enrols]
    torch.testing.assert_close(found, network.predict(clips, torch.stack(profiles)))


def gradients(network: Network, name: str, factor: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a head's output, with that factor, in each parameter that it reaches."""
    factors = dict.fromkeys(network.heads, 1.0) | {name: factor}
    network.zero_grad()
    found = network(tensors["log_mel"], tensors.get("enrolment"), None, factors)
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


def test_a_file_that_holds_no_weights_is_said_in_words(tmp_path: Path) -> None:
    path = tmp_path / "one.mp3"
    contents = [
        b"",
        b"hello",
        b"12",
        b"ID3\4" + bytes(60),
        b"\xff\xfb\x90d" + bytes(400),
        b"I5x\n.",
        b"PK\3\4" + bytes(30),
    ]
    generator = np.random.default_rng(0)
    contents += [generator.integers(0, 256, 200, np.uint8).tobytes() for _ in range(50)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "hello")
    contents += [buffer.getvalue(), safetensors.torch.save({"x": torch.ones(2)})]
    for value in ([torch.ones(1)], {"model": {}}, {"epoch": 3}, "text"):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        contents += [buffer.getvalue(), buffer.getvalue()[:-30]]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(InputError, match="is no file of PANNs weights") as caught:
            load_panns(PANN("cnn14", 0.05), path)
        assert "Error" not in str(caught.value)


def test_save_and_load(tmp_path: Path) -> None:
    network = Network("cnn10", TASK.outputs, 0.1).eval()
    path = tmp_path / "new" / "best.safetensors"
    save_checkpoint(path, network, network.state_dict(), TASK, FeatureConfig(), "floor", {"epoch": 3})
    checkpoint = load_checkpoint(path)
    clip = torch.randn(2, 60, 64)
    assert torch.equal(checkpoint.network.predict(clip), network.predict(clip))
    assert (checkpoint.task, checkpoint.features) == (TASK, FeatureConfig())
    assert (checkpoint.fill, checkpoint.notes) == ("floor", {"epoch": 3})
    assert [file.name for file in path.parent.iterdir()] == ["best.safetensors"]


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    network = Network("cnn10", TASK.outputs, 0.1)
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, network, network.state_dict(), TASK, FeatureConfig(), "zero", {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not a whole checkpoint of exvo"):
        load_checkpoint(path)
    with pytest.raises(InputError, match="is not a whole checkpoint of exvo"):
        load_checkpoint(tmp_path / "absent.safetensors")


def test_a_full_disk_keeps_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network("cnn10", TASK.outputs, 0.1)
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, network, network.state_dict(), TASK, FeatureConfig(), "zero", {"epoch": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"can't be written .No space left on device"):
        save_checkpoint(path, network, network.state_dict(), TASK, FeatureConfig(), "zero", {"epoch": 2})
    assert load_checkpoint(path).notes == {"epoch": 1}
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
