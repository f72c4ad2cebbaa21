"""Every named system in one table: what it is, its shapes, its size, what a training step changes, a reload."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from exvo.batches.clips import Batch, Clips
from exvo.batches.epoch import training_batches
from exvo.config import FeatureConfig
from exvo.enrolment import Draw
from exvo.errors import InputError
from exvo.features.shards import Features
from exvo.networks.build import build_network
from exvo.networks.checkpoint import load_checkpoint, save_checkpoint
from exvo.networks.network import Network
from exvo.systems import (
    PUBLISHED,
    SYSTEMS,
    SystemConfig,
    find,
    full_name,
    require_fitting,
    require_trainable,
    unfit,
)
from exvo.tasks import Task
from exvo.training.config import TrainingConfig
from exvo.training.loop import train_step
from exvo.training.objectives import gradient_factor
from exvo.training.optimizers import make_optimizer

PERSONALISATION, ATTENTION = "cnn14-random-init-personalisation", "cnn14-attention-cnn10"
PLAIN, CONDITIONED = ("none", "none", False), ("cnn5", "conditioning", False)
ATTENDED, NORMALISED = ("cnn10", "attention", False), ("cnn10", "attention", True)
EMOTION, SPEAKER, MAIN = "enrolment_emotion", "enrolment_speaker", "main_speaker"
LEARN, FORGET = "learn", "forget"

ROWS: list[tuple[str, str, str, tuple[str, str, bool], dict[str, str], int]] = [
    # system, task, start, (enrolment, fusion, LayerNorm), heads, batch: the 23 rows of the paper, by hand
    ("cnn14-random-init", "multitask", "random", PLAIN, {}, 32),
    ("cnn10-random-init", "multitask", "random", PLAIN, {}, 32),
    ("cnn14-audioset", "multitask", "panns", PLAIN, {}, 32),
    ("cnn14-audioset", "fewshot", "panns", PLAIN, {}, 32),
    ("cnn14-random-init", "fewshot", "random", PLAIN, {}, 32),
    ("cnn14-random-init-continued", "fewshot", "cnn14-random-init", PLAIN, {}, 32),
    ("cnn10-random-init", "fewshot", "random", PLAIN, {}, 32),
    ("cnn14-bs8", "fewshot", "random", PLAIN, {}, 8),
    (PERSONALISATION, "fewshot", "random", CONDITIONED, {}, 8),
    (f"{PERSONALISATION}-continued", "fewshot", PERSONALISATION, CONDITIONED, {}, 8),
    (f"{PERSONALISATION}-multitasking", "fewshot", "random", CONDITIONED, {EMOTION: LEARN}, 8),
    (
        f"{PERSONALISATION}-multitasking-continued",
        "fewshot",
        f"{PERSONALISATION}-multitasking",
        CONDITIONED,
        {EMOTION: LEARN},
        8,
    ),
    (f"{ATTENTION}-multitask", "fewshot", "random", ATTENDED, {EMOTION: LEARN}, 8),
    (f"{ATTENTION}-multitask-adversarial", "fewshot", "random", ATTENDED, {EMOTION: FORGET}, 8),
    (f"{ATTENTION}-learn-auxil", "fewshot", "random", ATTENDED, {EMOTION: LEARN, SPEAKER: LEARN}, 8),
    (
        f"{ATTENTION}-learn-auxil-forget-main",
        "fewshot",
        "random",
        ATTENDED,
        {EMOTION: LEARN, SPEAKER: LEARN, MAIN: FORGET},
        8,
    ),
    (f"{ATTENTION}-layernorm-full", "fewshot", "random", NORMALISED, {}, 8),
    (f"{ATTENTION}-layernorm-auxil-learn", "fewshot", "random", NORMALISED, {SPEAKER: LEARN}, 8),
    (f"{ATTENTION}-layernorm-multitask-adversarial", "fewshot", "random", NORMALISED, {EMOTION: FORGET}, 8),
    (
        f"{ATTENTION}-layernorm-auxil-learn-multitask-adversarial",
        "fewshot",
        "random",
        NORMALISED,
        {SPEAKER: LEARN, EMOTION: FORGET},
        8,
    ),
    (
        f"{ATTENTION}-layernorm-auxil-learn-multitask-adversarial-forget-main",
        "fewshot",
        "random",
        NORMALISED,
        {SPEAKER: LEARN, EMOTION: FORGET, MAIN: FORGET},
        8,
    ),
    ("cnn14-speaker-multitasking", "fewshot", "random", PLAIN, {MAIN: LEARN}, 8),
    ("cnn14-speaker-invariant", "fewshot", "random", PLAIN, {MAIN: FORGET}, 8),
]
OURS = {
    "cnn14-relative": ("cnn14", "shared", "relative"),
    "cnn14-film": ("cnn14", "shared", "film"),
    "cnn10-relative": ("cnn10", "shared", "relative"),
    "cnn10-film": ("cnn10", "shared", "film"),
    "cnn5": ("cnn5", "none", "none"),
    "resnet": ("resnet", "none", "none"),
    "resnet-relative": ("resnet", "shared", "relative"),
    "resnet-film": ("resnet", "shared", "film"),
    "frozen": ("frozen", "none", "none"),
    "frozen-relative": ("frozen", "shared", "relative"),
    "frozen-film": ("frozen", "shared", "film"),
    "frozen-chain": ("frozen", "none", "none"),
}
INPUTS = (3, 20)
"""Layers and numbers of a clip's features for frozen systems."""
CASES = [(name, task) for name, task, *_ in ROWS] + [(name, "fewshot") for name in OURS]
TASKS = {
    "fewshot": Task("fewshot", ("Awe", "Fear", "Horror")),
    "multitask": Task("multitask", ("Awe", "Fear", "Horror"), ("Chile", "Kenya")),
}
every_system = pytest.mark.parametrize(("name", "task"), CASES)


def make_clips(task: str, frozen: bool = False) -> Clips:
    """Nine clips of three speakers, noise with random labels."""
    rng = np.random.default_rng(0)
    shapes = [INPUTS if frozen else (45 + 3 * i, 64) for i in range(9)]
    features = {f"c{i}": rng.normal(-40, 15, shape).astype(np.float32) for i, shape in enumerate(shapes)}
    labels = rng.random((9, 3))
    if task == "multitask":
        labels = np.column_stack([labels, rng.uniform(20, 50, 9), np.arange(9) % 2])
    return Clips(list(features), list(features), features, labels, "zero", list("abcabcabc"))


def make(name: str, task: str, width: float = 0.05) -> Network:
    """With its first weights: random ones, whatever the system starts from."""
    system = SystemConfig(**(vars(find(name)) | {"start": "random"}))
    return build_network(system, TASKS[task], width, 0, "", make_clips(task, name.startswith("frozen")))


def make_batch(name: str, task: str) -> Batch:
    system = find(name)
    draw = Draw(2, system.protocol == "published", system.enrolment == "shared")
    frozen = name.startswith("frozen")
    clips = make_clips(task, frozen)
    frames = INPUTS[0] if frozen else 40
    return next(training_batches(clips, 9, 0, 1, None if system.enrolment == "none" else draw, frames=frames))


def noise(name: str, count: int, frames: int) -> Tensor:
    """Features of clips as the system takes them."""
    return 20 * torch.randn(count, *(INPUTS if name.startswith("frozen") else (frames, 64))) - 40


def test_the_table_of_systems() -> None:
    assert len(ROWS) == 23
    by_name = {row[0]: row[2:] for row in ROWS}
    assert set(by_name) == set(PUBLISHED)
    for row in ROWS:
        assert by_name[row[0]] == row[2:]  # the three multitask rows are the systems of the same name
    for name, (start, (enrolment, fusion, layer_norm), heads, batch) in by_name.items():
        assert PUBLISHED[name] == SystemConfig(
            encoder=name[:5],
            start=start,
            batch_size=batch,
            enrolment=enrolment,
            fusion=fusion,
            layer_norm=layer_norm,
            **heads,
            protocol="published",
            objective="ccc",
            dropout=0.2,
        )
        assert find(name).roles == heads
    assert set(SYSTEMS) - set(PUBLISHED) == {*OURS, "prior"}
    for name, (encoder, enrolment, fusion) in OURS.items():
        found = SYSTEMS[name]
        assert (found.encoder, found.enrolment, found.fusion) == (encoder, enrolment, fusion)
        if encoder.startswith("cnn"):
            protocol = "strict" if fusion != "none" else "published"
            assert found == SystemConfig(encoder=encoder, enrolment=enrolment, fusion=fusion, protocol=protocol)
        else:
            assert (found.protocol, found.objective, found.optimizer) == ("independent", "auto", "adamw")
            assert (found.people, found.typical_clips) == ((8, 1) if fusion != "none" else (0, 0))
            assert (found.head == "chain") == (name == "frozen-chain")


def test_the_published_recipe() -> None:
    """arXiv 2206.06680; what came later is off."""
    for name in PUBLISHED:
        system = find(name)
        assert (system.epochs, system.learning_rate, system.optimizer) == (60, 0.001, "sgd")
        assert (system.schedule, system.objective, system.crop_seconds) == ("plateau", "ccc", 2.5)
        assert (system.label_smoothing, system.spec_augment, system.mixup) == (0, 0, 0)
        assert system.warp == 0
        assert (system.clip_gradient, system.patience, system.people, system.typical_clips) == (0, 0, 0, 0)
        assert unfit(system, "fewshot").keys() <= {"mixup"}


@pytest.mark.parametrize(
    ("name", "features", "sentence"),
    [
        ("resnet", "egemaps", "model=resnet hears log-mels, and features=egemaps are of whole clips: choose frozen"),
        ("cnn14", "./encoder", "model=cnn14 hears log-mels, and features=./encoder are of whole clips"),
        ("frozen-film", "log-mel", "model=frozen-film learns from features of whole clips, not from log-mels: give"),
    ],
)
def test_features_that_a_system_does_not_take(name: str, features: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        require_trainable(name, "fewshot", "auto", features)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("features", ["log-mel", "compare2016"])
def test_the_prior_takes_all_features(features: str) -> None:
    require_trainable("prior", "fewshot", "auto", features)
    require_trainable("frozen" if features != "log-mel" else "resnet", "fewshot", "auto", features)


@pytest.mark.parametrize(
    ("name", "task", "changes", "sentence"),
    [
        ("frozen", "fewshot", {"spec_augment": 0.1}, "spec_augment=0.1 does not fit model=frozen: it has no log-mels"),
        ("frozen-film", "fewshot", {"warp": 0.1}, "warp=0.1 does not fit model=frozen-film: it has no log-mels"),
        (
            "cnn14-attention-cnn10-multitask",
            "fewshot",
            {"mixup": 0.3},
            "a mixture of two people's clips has no speaker",
        ),
        ("cnn14-speaker-invariant", "fewshot", {"mixup": 1.0}, "a mixture of two people's clips has no speaker"),
        ("cnn14", "fewshot", {"members": 2}, "only resnet and frozen and their kin can have several networks side by"),
        ("prior", "fewshot", {"members": 2}, "members=2 does not fit model=prior"),
        ("resnet", "multitask", {"mixup": 1.0}, "task=multitask has classes among its labels, which can't be mixed"),
    ],
)
def test_a_recipe_that_does_not_fit(name: str, task: str, changes: dict[str, float], sentence: str) -> None:
    require_fitting(name, replace(find(name), **dict.fromkeys(changes, 0.0)), task)  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        require_fitting(name, replace(find(name), **changes), task)  # type: ignore[arg-type]
    assert sentence in str(caught.value)


def test_names() -> None:
    assert find("cnn14") is SYSTEMS["cnn14-random-init"]
    assert find("cnn10") is SYSTEMS["cnn10-random-init"]
    assert full_name("cnn14-bs8") == "cnn14-bs8"
    with pytest.raises(InputError, match="model=cnn41 is not a known system; did you mean cnn14"):
        find("cnn41")


def size_by_formula(name: str, task: str, width: float, speakers: int) -> int:
    published = {"cnn5": (64, 256, 1024), "cnn10": (64, 128, 256, 512), "cnn14": (64, 128, 256, 512, 1024, 2048)}
    counts = {encoder: [max(4, round(c * width)) for c in full] for encoder, full in published.items()}

    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    embedding = max(4, round(256 * width))  # of resnet and frozen

    def resnet_size() -> int:
        full = [max(4, round(c * width)) for c in (32, 64, 128, 256)]
        total = 2 * 64 + 9 * full[0] + 2 * full[0]  # the norm of the bands; the first convolution with its norm
        for number, (before, after) in enumerate(zip([full[0], *full], full, strict=False)):
            total += 9 * before * after + 9 * after * after + 4 * after
            total += before * after + 2 * after if number else 0  # the shortcut
        return total + 3 * 4 * full[-1] * embedding + 2 * embedding  # three statistics of four bands

    def encoder_size(encoder: str) -> int:
        if encoder == "resnet":
            return resnet_size()
        if encoder == "frozen":
            return INPUTS[0] + 2 * INPUTS[1] + members * linear(INPUTS[1], embedding)
        pairs = list(zip([1, *counts[encoder]], counts[encoder], strict=False))
        if encoder == "cnn5":  # a 3x5 convolution with its bias, a batch norm
            return sum(15 * before * after + 3 * after for before, after in pairs)
        blocks = sum(9 * before * after + 9 * after * after + 4 * after for before, after in pairs)
        return 2 * 64 + blocks + linear(counts[encoder][-1], counts[encoder][-1])

    rows = {row[0]: row for row in ROWS}
    enrolment, fusion, layer_norm = rows[name][3] if name in rows else (*OURS[name][1:], False)
    heads = rows[name][4] if name in rows else {}
    encoder, members = name.split("-")[0], find(name).members
    own = enrolment in counts
    size = counts[encoder][-1] if encoder in counts else embedding
    profile = counts[enrolment][-1] if own else size
    total = encoder_size(encoder) + (encoder_size(enrolment) if own else 0)
    total += (
        members
        * {
            "none": 0,
            "attention": linear(profile, size) + 4 * size * layer_norm,
            "conditioning": sum(linear(profile, count) for count in counts.get(encoder, [])),
            "relative": linear(2 * size, size),
            "film": linear(profile, 2 * size),
        }[fusion]
    )
    total += members * linear(size, 3 if task == "fewshot" else 3 + 1 + 2)
    total += members * 9 if name == "frozen-chain" else 0  # what each emotion is given
    total += members * profile if find(name).typical_clips else 0  # the typical profile
    for head in heads:
        inputs = size if head == MAIN else profile
        total += linear(inputs, inputs) + linear(inputs, 3 if head == EMOTION else speakers)
    return total


@every_system
def test_number_of_weights(name: str, task: str) -> None:
    system = SystemConfig(**(vars(find(name)) | {"start": "random"}))
    clips = make_clips(task, name.startswith("frozen"))
    for width, speakers in ((0.1, 7), (0.05, 3)):
        clips = replace(clips, speakers=[str(number % speakers) for number in range(9)])
        network = build_network(system, TASKS[task], width, 0, "", clips)
        assert sum(p.numel() for p in network.parameters()) == size_by_formula(name, task, width, speakers)


def test_published_sizes() -> None:
    with torch.device("meta"):  # shapes without numbers
        networks = {encoder: Network(encoder, 527) for encoder in ("cnn10", "cnn14")}
        emotions = Network("cnn14", 10)
    sizes = {encoder: sum(p.numel() for p in network.parameters()) for encoder, network in networks.items()}
    assert sizes == {"cnn10": 5_219_279, "cnn14": 80_753_615}  # arXiv 1912.10211, with AudioSet's 527 outputs
    assert sum(p.numel() for p in emotions.parameters()) == 80_753_615 - 517 * 2049


@every_system
def test_shapes(name: str, task: str) -> None:
    network = make(name, task).eval()
    system = find(name)
    least = {"cnn14": 32, "cnn10": 16, "cnn5": 1, "resnet": 8, "frozen": 1}[system.encoder]
    assert network.min_frames == least
    outputs = 3 if task == "fewshot" else 6
    shots = noise(name, 2, 40)
    profile = network.embed_enrolment(shots).mean(dim=0).expand(2, -1) if network.personalised else None
    for frames in (least, least + 7, 101):
        clips = noise(name, 2, frames)
        assert network.predict(clips, profile).shape == (2, outputs)
        assert network.predict(clips).shape == (2, outputs)
    if least > 1:
        with pytest.raises(RuntimeError):
            network.predict(torch.randn(2, least - 1, 64), profile)


def woken(network: Network) -> Network:
    """With weights in place of the zeros from which gradients don't reach what lies beneath in the first step."""
    for name, weight in network.named_parameters():
        if name.endswith("bn2.weight") or name.startswith("film"):
            torch.nn.init.normal_(weight, std=0.3)
    return network


def modules_reached(found: Tensor, network: Network) -> set[str]:
    """The modules to whose parameters an output has a gradient that is not zero everywhere."""
    named = dict(network.named_parameters())
    grads = torch.autograd.grad(found.square().sum(), list(named.values()), retain_graph=True, allow_unused=True)
    names = [key for key, grad in zip(named, grads, strict=True) if grad is not None and grad.any()]
    return {".".join(key.split(".")[: 2 if key.startswith("heads") else 1]) for key in names}


@every_system
@pytest.mark.parametrize("epoch", [11, 12])
def test_each_head_reaches_what_lies_beneath_it(name: str, task: str, epoch: int) -> None:
    """In epoch 11 every head reaches its encoder; in epoch 12 those that forget have a factor of 0 and reach none."""
    system, network, batch = find(name), woken(make(name, task)), make_batch(name, task)
    factors = {head: gradient_factor(role, epoch) for head, role in system.roles.items()}
    found = network(batch.log_mel, batch.enrolment, batch.enrols, factors)
    assert set(found) == {"main", *system.roles}
    beneath = {"encoder", "output"}
    beneath |= {"enrolment_encoder"} if system.enrolment in ("cnn5", "cnn10") else set()
    beneath |= {
        "attention": {"attention"},
        "conditioning": {"conditions"},
        "film": {"film"},
        "relative": {"relative"},
    }.get(system.fusion, set())
    beneath |= {"typical"} if system.typical_clips else set()
    assert modules_reached(found["main"], network) == beneath
    for head, role in system.roles.items():
        expected = {"encoder" if head == MAIN else "enrolment_encoder", f"heads.{head}"}
        expected |= {"attention"} if head == MAIN and system.layer_norm else set()  # whose LayerNorm it reads
        if role == FORGET and epoch == 12:
            expected = {f"heads.{head}"}
        assert modules_reached(found[head], network) == expected


@every_system
def test_a_training_step_changes_everything_once(name: str, task: str) -> None:
    system, network, batch = find(name), woken(make(name, task)).train(), make_batch(name, task)
    config = TrainingConfig(1, 9, 1.0, "sgd", 0, "cpu", "float32", None, system.roles)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    loss = train_step(network, TASKS[task], make_optimizer(network, config), batch, config, epoch=1)
    assert torch.isfinite(loss)
    after = network.state_dict()
    buffers = {key for key, _ in network.named_buffers() if "running" not in key and "num_batches" not in key}
    fixed = {"encoder.mean", "encoder.scale"} if system.encoder == "frozen" else set()
    fixed |= {f"output.{member}.place" for member in range(system.members)} if system.head == "chain" else set()
    assert {key for key, tensor in after.items() if torch.equal(tensor, before[key])} == fixed
    assert buffers == fixed | ({"typical"} if system.fusion != "none" and not system.typical_clips else set())
    steps = {key: int(after[key]) for key in after if key.endswith("num_batches_tracked")}
    assert set(steps.values()) == (
        {1} if steps else set()
    )  # each encoder saw one batch: a shared one does not run twice


@every_system
def test_save_and_reload(name: str, task: str, tmp_path: Path) -> None:
    system, network, batch = find(name), make(name, task).train(), make_batch(name, task)
    config = TrainingConfig(1, 9, 0.1, "sgd", 0, "cpu", "float32", None, system.roles)
    train_step(network, TASKS[task], make_optimizer(network, config), batch, config, epoch=1)
    network.eval()
    embeddings = Features("states", "0" * 64, "float16", INPUTS, {})
    features = embeddings if name.startswith("frozen") else FeatureConfig()
    save_checkpoint(tmp_path / "best", network, network.state_dict(), TASKS[task], features, "zero", {"epoch": 1})
    checkpoint = load_checkpoint(tmp_path / "best")
    clips = noise(name, 2, 50)
    profile = network.embed_enrolment(clips) if network.personalised else None
    assert torch.equal(checkpoint.network.predict(clips, profile), network.predict(clips, profile))
    assert torch.equal(checkpoint.network.predict(clips), network.predict(clips))  # with the typical profile
    assert checkpoint.network.arguments == network.arguments
    assert checkpoint.task == TASKS[task]


def test_build_is_seeded_and_age_starts_at_its_mean() -> None:
    task = Task("multitask", ("Awe",), ("Chile", "Kenya"))
    labels = np.array([[0.1, 30.0, 0], [0.5, 40.0, 1]])
    first, same, other = (
        build_network(SystemConfig(encoder="cnn10"), task, 0.1, seed, "", Clips([], [], {}, labels))
        for seed in (0, 0, 1)
    )
    assert first.output.bias.tolist() == [0, 35, 0, 0]
    assert torch.equal(first.encoder.fc1.weight, same.encoder.fc1.weight)
    assert not torch.equal(first.encoder.fc1.weight, other.encoder.fc1.weight)


def test_build_with_panns_weights(tmp_path: Path) -> None:
    task, clips, layers = TASKS["fewshot"], make_clips("fewshot"), ("fc_audioset.weight", "fc_audioset.bias")
    with pytest.raises(InputError, match="starts from PANNs weights: download"):
        build_network(find("cnn14-audioset"), task, 1.0, 0, "", clips)
    state = {key: tensor + 1 for key, tensor in make("cnn14", "fewshot").encoder.state_dict().items()}
    torch.save({"model": state | dict.fromkeys(layers, torch.zeros(2))}, tmp_path / "panns.pth")
    network = build_network(find("cnn14-audioset"), task, 0.05, 0, str(tmp_path / "panns.pth"), clips)
    assert all(torch.equal(network.encoder.state_dict()[key], tensor) for key, tensor in state.items())
    with pytest.raises(InputError, match="PANNs weights are for cnn14 and cnn10, not for cnn5"):
        build_network(find("cnn5"), task, 0.05, 0, str(tmp_path / "panns.pth"), clips)
