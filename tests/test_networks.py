"""Networks: shapes, numbers of weights, poolings, PANNs weights by name, saving and loading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from exvo.config import FeatureConfig, InputError, SystemConfig
from exvo.networks import load, load_panns, save
from exvo.networks.cnn import CNN, channels
from exvo.systems import SYSTEMS, build, find
from exvo.tasks import Task

TASK = Task("fewshot", ("Awe", "Fear", "Horror"))


def weights_by_formula(counts: tuple[int, ...], outputs: int) -> int:
    """Batch norm over 64 bands; two 3x3 convolutions without bias and two batch norms a block; two linear layers."""
    total = 2 * 64
    for before, after in zip((1, *counts[:-1]), counts, strict=True):
        total += 9 * before * after + 9 * after * after + 4 * after
    return total + (counts[-1] + 1) * (counts[-1] + outputs)


@pytest.mark.parametrize("width", [0.1, 0.25, 1.0])
@pytest.mark.parametrize("encoder", ["cnn10", "cnn14"])
def test_number_of_weights(encoder: str, width: float) -> None:
    counts = tuple(max(4, round(c * width)) for c in (64, 128, 256, 512, 1024, 2048)[: 4 if encoder == "cnn10" else 6])
    assert channels(encoder, width) == counts
    network = CNN(encoder, 10, width)
    assert sum(p.numel() for p in network.parameters()) == weights_by_formula(counts, 10)


def test_published_sizes() -> None:
    assert weights_by_formula(channels("cnn14", 1.0), 0) + 2048 * 527 + 527 == 80_753_615  # PANNs' CNN14, as published
    assert channels("cnn10", 1.0)[-1] == 512


@pytest.mark.parametrize(("encoder", "least"), [("cnn10", 16), ("cnn14", 32)])
def test_shapes_and_least_frames(encoder: str, least: int) -> None:
    network = CNN(encoder, 3, 0.1).eval()
    assert network.min_frames == least
    for frames in (least, least + 7, 250):
        assert network(torch.randn(2, frames, 64)).shape == (2, 3)
    assert network.embed(torch.randn(2, 40, 64)).shape == (2, channels(encoder, 0.1)[-1])
    with pytest.raises(RuntimeError):
        network(torch.randn(2, least - 1, 64))


def test_forward_is_the_panns_formula() -> None:
    """Against the same network written out plainly: pooling, mean over bands, max plus mean over time."""
    network = CNN("cnn10", 3, 0.1).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
    clip = torch.randn(1, 53, 64)

    def norm(x: torch.Tensor, bn: torch.nn.BatchNorm2d, shape: tuple[int, ...]) -> torch.Tensor:
        mean, var = bn.running_mean.view(shape), bn.running_var.view(shape)
        return (x - mean) / torch.sqrt(var + bn.eps) * bn.weight.view(shape) + bn.bias.view(shape)

    x = norm(clip[:, None], network.bn0, (1, 1, 1, 64))
    for block in (network.conv_block1, network.conv_block2, network.conv_block3, network.conv_block4):
        for convolution, bn in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
            x = torch.relu(norm(torch.conv2d(x, convolution.weight, padding=1), bn, (1, -1, 1, 1)))
        frames, bands = x.shape[2] // 2, x.shape[3] // 2
        x = x[:, :, : 2 * frames, : 2 * bands].reshape(1, x.shape[1], frames, 2, bands, 2).mean(dim=(3, 5))
    x = x.mean(dim=3)
    x = x.max(dim=2).values + x.mean(dim=2)
    expected = network.output(torch.relu(network.fc1(x)))
    torch.testing.assert_close(network(clip), expected, rtol=1e-4, atol=1e-5)


def panns_file(path: Path, network: CNN, **changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """A file with the key layout of the published PANNs weights, random numbers in it, and a NumPy sampler state."""
    state = {k: torch.randn_like(v.float()).to(v.dtype) for k, v in network.state_dict().items() if "output" not in k}
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


def test_panns_weights_load_by_name(tmp_path: Path) -> None:
    network = CNN("cnn14", 3, 0.05)
    output = network.output.weight.clone()
    state = panns_file(tmp_path / "panns.pth", network)
    load_panns(network, tmp_path / "panns.pth")
    for key, tensor in network.state_dict().items():
        if not key.startswith("output."):
            assert torch.equal(tensor, state[key]), key
    assert torch.equal(network.output.weight, output)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"conv_block6.conv2.weight": None}, r"it lacks 1 of \d+ \(conv_block6.conv2.weight\) and has 0 unknown"),
        ({"classifier.weight": torch.zeros(2)}, r"has 1 unknown ones \(classifier.weight\)"),
        ({"fc1.weight": torch.zeros(2, 2)}, r"fc1.weight is \(2, 2\), this network needs \(102, 102\)"),
    ],
)
def test_other_weights_are_refused(tmp_path: Path, changes: dict[str, torch.Tensor | None], sentence: str) -> None:
    network = CNN("cnn14", 3, 0.05)
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
        load_panns(CNN("cnn14", 3, 0.05), tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match="can't be read as a file of weights"):
        load_panns(CNN("cnn14", 3, 0.05), tmp_path / "text.pth")
    with pytest.raises(InputError, match="is not a file; download"):
        load_panns(CNN("cnn14", 3, 0.05), tmp_path / "absent.pth")


def test_save_and_load(tmp_path: Path) -> None:
    network = CNN("cnn10", TASK.outputs, 0.1).eval()
    path = tmp_path / "new" / "best.safetensors"
    save(path, network, network.state_dict(), TASK, FeatureConfig(), "floor", {"epoch": 3})
    checkpoint = load(path)
    clip = torch.randn(2, 60, 64)
    assert torch.equal(checkpoint.network(clip), network(clip))
    assert (checkpoint.task, checkpoint.features) == (TASK, FeatureConfig())
    assert (checkpoint.fill, checkpoint.notes) == ("floor", {"epoch": 3})
    assert [file.name for file in path.parent.iterdir()] == ["best.safetensors"]


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    network = CNN("cnn10", TASK.outputs, 0.1)
    path = tmp_path / "best.safetensors"
    save(path, network, network.state_dict(), TASK, FeatureConfig(), "zero", {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not a whole checkpoint of exvo"):
        load(path)
    with pytest.raises(InputError, match="is not a whole checkpoint of exvo"):
        load(tmp_path / "absent.safetensors")


def test_a_full_disk_keeps_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = CNN("cnn10", TASK.outputs, 0.1)
    path = tmp_path / "best.safetensors"
    save(path, network, network.state_dict(), TASK, FeatureConfig(), "zero", {"epoch": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"can't be written .No space left on device"):
        save(path, network, network.state_dict(), TASK, FeatureConfig(), "zero", {"epoch": 2})
    assert load(path).notes == {"epoch": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_systems() -> None:
    assert find("cnn14") is SYSTEMS["cnn14-random-init"]
    assert find("cnn14-bs8").batch_size == 8
    with pytest.raises(InputError, match="model=cnn41 is not a known system; did you mean cnn14"):
        find("cnn41")
    with pytest.raises(InputError, match="starts from PANNs weights: download"):
        build(find("cnn14-audioset"), TASK, 1.0, 0, "", np.zeros((1, 3)))


def test_build_is_seeded_and_age_starts_at_its_mean() -> None:
    task = Task("multitask", ("Awe",), ("Chile", "Kenya"))
    labels = np.array([[0.1, 30.0, 0], [0.5, 40.0, 1]])
    first, same, other = (build(SystemConfig(encoder="cnn10"), task, 0.1, seed, "", labels) for seed in (0, 0, 1))
    assert first.output.bias.tolist() == [0, 35, 0, 0]
    assert torch.equal(first.fc1.weight, same.fc1.weight)
    assert not torch.equal(first.fc1.weight, other.fc1.weight)
