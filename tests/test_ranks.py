"""Several ranks train as one does: shared batches, gathered objectives, resumed states, shared validation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from exvo import ranks
from exvo.enrolment import Draw
from exvo.training.augmentation import Augment
from exvo.training.config import TrainingConfig
from exvo.training.loop import Validation, fit
from exvo.training.states import States

from helpers.networks import TASK, config, make_clips, make_network
from helpers.ranks import on_ranks

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
}


def fix_statistics(network: nn.Module) -> None:
    """Has batch norms use their running statistics in training too, as they are."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]


def trained(name: str, folder: str, epochs: int = 1, fixed: bool = True, states: str = "") -> list[str]:
    """Trains one of `TRAININGS` in these ranks, writes its weights and gives their file and what was validated."""
    options, given = TRAININGS[name]
    given = TrainingConfig(**vars(given) | {"epochs": epochs, "learning_rate": 0.05})
    network = make_network(ranks.rank(), **{"width": 0.05, "dropout": 0.0} | options)  # the first rank's are taken
    if fixed:
        fix_statistics(network)
    clips = make_clips(13, (40, 60, 300))
    kept = None
    if states and ranks.rank() == 0:
        kept = States(Path(states) / "best.safetensors", "settings", lambda text: None)

    def save_best(weights: object, epoch: object) -> None:
        if ranks.rank() == 0 and states:
            Path(states).mkdir(exist_ok=True)
            save_file({"none": torch.zeros(1)}, Path(states) / "best.safetensors")

    seen: list[int] = []

    def on_epoch(epoch: object) -> None:
        seen.append(epoch.number)  # type: ignore[attr-defined]

    score = 1.0 + ranks.rank()  # the first rank's counts
    fit(network, TASK, clips, given, lambda network: Validation(score), save_best, on_epoch, kept)
    file = Path(folder) / f"{name}-{ranks.count()}-{ranks.rank()}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, file)
    return [str(file), str(seen)]


def all_trained(folder: str) -> list[str]:
    return [trained(name, folder)[0] for name in TRAININGS]


def difference(first: str, second: str) -> float:
    """The largest difference of a weight, as a share of the largest weight."""
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    largest = max(float(tensor.abs().max()) for tensor in one.values())
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one) / largest


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The weights of each training: of one rank, and of each of two."""
    folder = tmp_path_factory.mktemp("ranks")
    return [all_trained(str(folder)), *on_ranks(2, all_trained, str(folder), folder=folder)]


@pytest.mark.parametrize("number", range(len(TRAININGS)), ids=list(TRAININGS))
def test_two_ranks_train_as_one_does(number: int, files: list[list[str]], tmp_path: Path) -> None:
    one, first, second = (each[number] for each in files)
    options, _ = list(TRAININGS.values())[number]
    before = make_network(0, **{"width": 0.05, "dropout": 0.0} | options).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in before.items()}, tmp_path / "before")
    assert difference(one, str(tmp_path / "before")) > 1e-3  # it has learnt
    assert difference(one, first) < 1e-5
    assert difference(first, second) == 0
