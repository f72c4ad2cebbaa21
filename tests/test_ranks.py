"""Several ranks train as one does: shared batches, gathered objectives, resumed states, shared validation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import load_file, save_file
from torch import nn

from exvo import ranks, systems
from exvo.batches.clips import Batch, Clips
from exvo.batches.epoch import training_batches
from exvo.batches.shares import share_counts, share_of
from exvo.config import FeatureConfig
from exvo.enrolment import Draw
from exvo.errors import InputError, TrainingError
from exvo.experiments.several import require_same, require_shares
from exvo.experiments.train import resolve
from exvo.features.signals import SIGNALS, Worse
from exvo.features.store import Store
from exvo.networks.inference import predict_clips
from exvo.settings import TrainSettings
from exvo.training import along
from exvo.training.along import Work, send, train_along
from exvo.training.augmentation import Augment
from exvo.training.config import TrainingConfig
from exvo.training.loop import Validation, fit
from exvo.training.states import Epoch, States

from helpers.networks import TASK, config, make_clips, make_network
from helpers.ranks import on_ranks

WITHOUT_DROPOUT: dict[str, object] = {"width": 0.05, "dropout": 0.0}
PLAIN: dict[str, object] = {"encoder": "cnn10"}
RELATIVE: dict[str, object] = {"encoder": "cnn10", "enrolment": "shared", "fusion": "relative"}
ATTENTION: dict[str, object] = {"encoder": "cnn10", "enrolment": "cnn10", "fusion": "attention"}
ATTENTION |= {"heads": {"enrolment_emotion": 2, "enrolment_speaker": 3, "main_speaker": 3}}
ROLES = {"enrolment_emotion": "learn", "enrolment_speaker": "forget", "main_speaker": "learn"}
PEOPLE: dict[str, object] = {"encoder": "resnet", "enrolment": "shared", "fusion": "relative", "typical_clips": 1}
CHANGES: dict[str, object] = {"augment": Augment(0.1, 0.2, 0.4), "clip_gradient": 1.0}

TRAININGS: dict[str, tuple[dict[str, object], TrainingConfig]] = {
    "plain": (PLAIN, config(batch_size=5)),
    "relative": (RELATIVE, config(batch_size=9, draw=Draw(2, itself=False, shared=True))),
    "attention": (ATTENTION, config(batch_size=5, draw=Draw(2, itself=True, shared=False), roles=ROLES)),
    "people": (PEOPLE, config(batch_size=8, draw=Draw(2, False, True, people=4), **CHANGES)),
    "changed": (PLAIN, config(batch_size=6, **CHANGES)),
    "film": (PEOPLE | {"fusion": "film"}, config(batch_size=8, draw=Draw(2, False, True, people=4), optimizer="adamw")),
}

CONDITIONING: dict[str, object] = {"encoder": "cnn10", "enrolment": "cnn5", "fusion": "conditioning"}
DRAWN = {"conditioning": (CONDITIONING, config(batch_size=6, draw=Draw(2, itself=True, shared=False)))}
"""Trainings with dropout that can't be left out, so that two ranks do not train as one does."""


def fix_statistics(network: nn.Module) -> None:
    """Has batch norms use their running statistics in training too, as they are."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]


def trained(name: str, folder: str, epochs: int = 1, states: str = "") -> tuple[str, list[int]]:
    """Trains one of `TRAININGS` in these ranks, with fixed batch statistics and without dropout.

    Gives the file of this rank's weights, and the numbers of the epochs that it has trained.
    """
    options, given = (TRAININGS | DRAWN)[name]
    network = make_network(ranks.rank(), **WITHOUT_DROPOUT | options)  # the first rank's weights are those that count
    fix_statistics(network)
    kept = None
    if states and ranks.rank() == 0:
        kept = States(Path(states) / "best.safetensors", "settings", lambda text: None)

    def save_best(weights: Mapping[str, torch.Tensor], epoch: Epoch) -> None:
        if ranks.rank() == 0 and states:
            save_file({"none": torch.zeros(1)}, Path(states) / "best.safetensors")

    numbers: list[int] = []
    score = 1.0 + ranks.rank()  # the first rank's counts
    fit(
        network,
        TASK,
        make_clips(13, (40, 60, 300)),
        replace(given, epochs=epochs, learning_rate=0.05),
        lambda network: Validation(score),
        save_best,
        lambda epoch: numbers.append(epoch.number),
        kept,
    )
    file = Path(folder) / f"{name}-{epochs}-{ranks.count()}-{ranks.rank()}{'-resumed' * bool(states)}.safetensors"
    save_file(contiguous(network.state_dict()), file)
    return str(file), numbers


def contiguous(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in weights.items()}


def difference(first: str | Path, second: str | Path) -> float:
    """The largest difference of a weight, as a share of the largest weight."""
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    largest = max(float(tensor.abs().max()) for tensor in one.values())
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one) / largest


def in_ranks(folder: str) -> dict[str, Any]:
    """All that the tests of this file want from two ranks, which take seconds to start."""
    given: dict[str, Any] = {"trained": {name: trained(name, folder)[0] for name in TRAININGS | DRAWN}}
    given["begun"] = trained("relative", folder, 1, f"{folder}/two")
    given["resumed"] = trained("relative", folder, 2, f"{folder}/one")
    clips, relative = make_clips(7), make_network(0, **RELATIVE)
    enrolment = [np.array([(clip + 1) % 7]) for clip in range(7)]
    own = ranks.own_clips(clips.frames())
    assert own is not None
    outputs = predict_clips(relative, clips, "cpu", enrolment, rows=own)
    given["outputs"] = ranks.collect(outputs, own, 7).tolist()
    given["own"] = len(own)
    settings, _ = resolve(TrainSettings(model="cnn10", precision="float32", batch_size=8))
    given["refused"] = [
        sentence_of(lambda: require_same(settings)),
        sentence_of(lambda: require_same(replace(settings, seed=ranks.rank()))),
        sentence_of(lambda: ranks.together(lambda: refuse(1))),
        sentence_of(lambda: ranks.together(lambda: refuse(0))),
    ]
    given["texts"] = ranks.texts_of_all("é" * ranks.rank())
    given["first"] = ranks.from_first({"number": ranks.rank(), "none": None})
    work = Work(relative, TASK, TRAININGS["relative"][1], clips, clips, enrolment, "strict")
    given["sent"] = sentence_of(lambda: send(store_work(work, folder)) if ranks.rank() == 0 else train_along())
    return given


def store_work(work: Work, folder: str) -> Work:
    """The same training, of clips that are in no store."""
    empty = replace(work.clips, features=Store(f"{folder}/nowhere", FeatureConfig()))
    return replace(work, clips=empty, held_out=empty)


def refuse(number: int) -> None:
    if ranks.rank() == number:
        raise (InputError if number else TrainingError)(f"rank {number} can't")


def sentence_of(work: Callable[[], object]) -> list[str]:
    """The type and the text of the error that something raises; empty where it raises none."""
    try:
        work()
    except (InputError, TrainingError) as error:
        return [type(error).__name__, str(error)]
    return []


@dataclass(frozen=True)
class Given:
    """What one rank has given, which these tests have run themselves, and what each of two has."""

    folder: Path
    one: dict[str, str]
    two: list[dict[str, Any]]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    one = {name: trained(name, str(folder))[0] for name in TRAININGS}
    trained("relative", str(folder), 1, f"{folder}/one")
    return Given(folder, one, on_ranks(2, in_ranks, str(folder), folder=folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TRAININGS))
def test_two_ranks_train_as_one_does(name: str, given: Given) -> None:
    before = given.folder / "before.safetensors"
    save_file(contiguous(make_network(0, **WITHOUT_DROPOUT | TRAININGS[name][0]).state_dict()), before)
    assert difference(given.one[name], before) > 1e-3  # it has learnt
    first, second = (rank["trained"][name] for rank in given.two)
    if TRAININGS[name][1].optimizer == "sgd":  # adaptive steps magnify rounding
        assert difference(given.one[name], first) < 1e-5
    assert difference(first, second) == 0


def test_what_a_rank_is_sent_is_what_the_first_one_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[Any] = []
    arrays: list[bytes] = []
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "from_first", texts.append)
    monkeypatch.setattr(ranks, "bytes_from_first", arrays.append)
    monkeypatch.setattr(ranks, "together", lambda work: work())
    monkeypatch.setattr(along, "require_features", lambda store, contents: None)
    given = replace(TRAININGS["people"][1], category_weights=(0.5, 1.5))
    clips = replace(make_clips(7), balanced=2)
    work = Work(make_network(0, **PEOPLE), TASK, given, clips, make_clips(5), [np.arange(2)] * 5, "strict")
    work = store_work(work, str(tmp_path))
    store = work.clips.features
    assert isinstance(store, Store)
    worse = Store(store.root, Worse(SIGNALS[0]).features(store.features))
    work = replace(work, clips=replace(work.clips, versions=(worse,)))
    send(work)
    sent = along.receive(json.loads(json.dumps(texts[0])), load_bytes(arrays[0]))
    assert (sent.config, sent.task, sent.protocol) == (work.config, work.task, work.protocol)
    for part, own in ((sent.clips, work.clips), (sent.held_out, work.held_out)):
        for field in fields(Clips):
            if field.name not in ("features", "labels", "versions"):
                assert getattr(part, field.name) == getattr(own, field.name)
        np.testing.assert_array_equal(part.labels, own.labels)
    np.testing.assert_array_equal(np.array(sent.enrolment), np.array(work.enrolment))
    (version,) = sent.clips.versions
    assert isinstance(version, Store)
    assert (version.folder, version.features) == (worse.folder, worse.features)
    assert sent.held_out.versions == ()


@pytest.mark.slow
def test_all_ranks_have_the_same_weights_with_dropout(given: Given) -> None:
    first, second = (rank["trained"]["conditioning"] for rank in given.two)
    assert difference(first, second) == 0


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_ranks(given: Given) -> None:
    whole, _ = trained("relative", str(given.folder), 2)
    assert given.two[0]["resumed"][1] == [2]  # one rank has trained the first epoch
    assert difference(whole, given.two[0]["resumed"][0]) < 1e-5
    assert given.two[1]["begun"][1] == [1]
    file, numbers = trained("relative", str(given.folder), 2, f"{given.folder}/two")
    assert numbers == [2]
    assert difference(whole, file) < 1e-5


@pytest.mark.slow
def test_validation_is_shared_out(given: Given) -> None:
    clips, enrolment = make_clips(7), [np.array([(clip + 1) % 7]) for clip in range(7)]
    whole = predict_clips(make_network(0, **RELATIVE), clips, "cpu", enrolment)
    assert sorted(rank["own"] for rank in given.two) == [3, 4]
    for rank in given.two:
        np.testing.assert_allclose(rank["outputs"], whole, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_what_is_refused_on_one_rank_is_refused_on_all(given: Given) -> None:
    for rank in given.two:
        same, seeds, second, first = rank["refused"]
        assert same == []
        assert seeds[0] == "InputError"
        assert seeds[1].startswith("Rank 1 has seed=1, but the first rank has seed=0")
        assert second == ["InputError", "On rank 1: rank 1 can't"]
        assert first == ["TrainingError", "rank 0 can't"]
        assert rank["texts"] == ["", "é"]
        assert rank["first"] == {"number": 0, "none": None}


@pytest.mark.slow
def test_a_folder_that_is_not_shared(given: Given) -> None:
    assert given.two[0]["sent"] == given.two[1]["sent"]
    kind, sentence = given.two[0]["sent"]
    assert kind == "InputError"
    assert sentence.startswith("On rank 1: ")
    assert "lacks the features of 7 clips that the first rank has; output must be a folder" in sentence


def test_groups_stay_whole() -> None:
    batch = Batch(torch.arange(9.0).view(9, 1, 1), torch.zeros(9, 1), np.arange(9), groups=(2, 4, 3))
    assert share_counts(batch, 2) == [6, 3]
    assert share_counts(batch, 3) == [2, 4, 3]
    assert share_counts(batch, 4) is None  # there are three groups
    assert share_counts(replace(batch, groups=()), 4) == [2, 2, 3, 2]
    assert share_counts(replace(batch, groups=()), 5) is None  # one would have a single clip
    parts = [share_of(batch, [6, 3], number) for number in range(2)]
    assert [part.log_mel.flatten().tolist() for part in parts] == [[0, 1, 2, 3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("draw", [Draw(2, False, True), Draw(2, False, True, people=4), Draw(2, True, False), None])
def test_no_clip_enrols_one_of_another_rank(draw: Draw | None) -> None:
    batches = [batch for batch in training_batches(make_clips(30), 12, 0, 1, draw) if share_counts(batch, 2)]
    assert len(batches) > 1  # the last one may be a single group
    for batch in batches:
        counts = share_counts(batch, 2) or []
        parts = [share_of(batch, counts, number) for number in range(2)]
        for name in ("log_mel", "labels", "enrolment", "speakers"):
            values = [getattr(part, name) for part in parts]
            if getattr(batch, name) is not None:
                assert torch.equal(torch.cat(values), getattr(batch, name))
        if batch.enrols is not None:
            assert sum(float(part.enrols.sum()) for part in parts) == float(batch.enrols.sum())  # type: ignore[union-attr]


def test_the_option_devices_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ranks.resolve_devices(1, "cpu") == 1
    assert ranks.resolve_devices(2, "cpu") == 2
    with pytest.raises(InputError, match=r"devices=1000: 1000 ranks on a machine with \d+ cores would wait"):
        ranks.resolve_devices(1000, "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="devices=4: 4 ranks on a machine with 2 GPUs that PyTorch finds"):
        ranks.resolve_devices(4, "cuda")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ranks.resolve_devices(1, "cpu") == 2
    with pytest.raises(InputError, match="devices=4, but torchrun has started 2 ranks; leave devices out"):
        ranks.resolve_devices(4, "cpu")


@pytest.mark.parametrize(
    ("model", "batch_size", "least"), [("cnn10", 7, 8), ("cnn10-relative", 11, 12), ("resnet-relative", 31, 32)]
)
def test_batches_that_are_too_small_are_refused(model: str, batch_size: int, least: int) -> None:
    settings, system = TrainSettings(model=model, devices=4, batch_size=batch_size), systems.find(model)
    with pytest.raises(InputError, match=f"too small for devices=4, .*: give batch_size={least}, or fewer devices"):
        require_shares(settings, system)
    require_shares(replace(settings, batch_size=least), system)
