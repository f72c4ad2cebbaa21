"""States of a training on disk: what the next epoch depends on, kept after each, so that a killed run can go on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from exvo.errors import InputError
from exvo.files import plain_path, write_atomically
from exvo.text import reason

KEPT = 2
"""States on disk: the last one, and the one before for the case that the last one is damaged."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave.

    Attributes:
        number: 1 is the first.
        loss: mean over the training clips of their batch's objective.
        learning_rate: of the epoch's steps.
        seconds: of training alone.
        score: that chooses the best epoch, on validation clips; NaN where it is undefined.
        best: whether no epoch before it had a better score.
        scores: others on the validation clips, by name.
    """

    number: int
    loss: float
    learning_rate: float
    seconds: float
    score: float
    best: bool
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """All that the next epoch depends on.

    No generator is part of it: orders, crops, enrolment draws and dropout are drawn from seed and epoch alone.

    Attributes:
        epoch: the last one that is done.
        best: the best one so far.
        weights: of the network.
        optimizer: its state dict.
        scheduler: its state dict.
    """

    epoch: int
    best: Epoch
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scheduler: Mapping[str, Any]


class States:
    """The states of one run, in the folder of its best weights.

    A state is `epoch-<number>-<SHA-256 of the file>.safetensors`; the best weights that belong to it are a second name
    (a hard link) of theirs, `best-<number>.safetensors`, which later epochs don't touch.

    Attributes:
        best_file: where the training writes the weights of an epoch that is the best so far.
        epoch: of the last state that was written or read; 0: there is none.
    """

    def __init__(self, best_file: Path, settings: str, tell: Callable[[str], None] = print) -> None:
        """Nothing is read yet.

        Args:
            best_file: as above.
            settings: a digest of what the run computes; a state of other settings is not used.
            tell: given a sentence about what was found.
        """
        self.best_file, self.epoch = best_file, 0
        self._settings, self._tell = settings, tell
        self._best_digest = ""
        self._kept: list[tuple[Path, Path]] = []  # states and their best weights, the newest first

    def write(self, state: State) -> None:
        """Keeps a state, and removes those before the last two.

        Best weights that are new must be in `best_file`. Where somebody has removed older ones there is nothing to
        go on with, and nothing is written.

        Raises:
            InputError: the disk is full or the folder can't be written to.
        """
        best = self._best(state.best.number)
        if state.best.number == state.epoch:
            _link(self.best_file, best)
            self._best_digest = _digest(best)
        if not best.exists():
            return
        about = {
            "settings": self._settings,
            "epoch": state.epoch,
            "best": asdict(state.best),
            "best_sha256": self._best_digest,
            "groups": state.optimizer["param_groups"],
            "scheduler": state.scheduler,
        }
        tensors = {f"weights/{name}": tensor for name, tensor in state.weights.items()}
        for number, own in state.optimizer["state"].items():
            tensors |= {f"optimizer/{number}/{name}": tensor for name, tensor in own.items()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = to_bytes(tensors, metadata={"exvo": json.dumps(about)})
        path = self._folder / f"epoch-{state.epoch:06d}-{hashlib.sha256(content).hexdigest()}.safetensors"
        write_atomically(path, content)
        self.epoch = state.epoch
        self._kept = [(path, best), *(pair for pair in self._kept if pair[0] != path)][:KEPT]
        self._remove(keep={one for pair in self._kept for one in pair})

    def latest(self) -> State | None:
        """The newest state that is whole; its best weights are then those in `best_file`. None where there is none."""
        paths = sorted(self._folder.glob("epoch-*.safetensors"), reverse=True)
        for path in paths:
            try:
                state = self._read(path)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                self._tell(f"{path} is not used, because it is damaged or of another training ({reason(error)})")
                continue
            self.epoch = state.epoch
            self._kept = [(path, self._best(state.best.number))]
            _link(self._best(state.best.number), self.best_file)
            self._tell(f"goes on after epoch {state.epoch}")
            return state
        if paths:
            self._tell("no state of the run is whole, so it begins again with epoch 1")
        return None

    def clear(self) -> None:
        """Removes all states: the run has finished."""
        self._remove(keep=set())

    @property
    def _folder(self) -> Path:
        return self.best_file.parent

    def _best(self, epoch: int) -> Path:
        return self.best_file.with_name(f"best-{epoch:06d}.safetensors")

    def _read(self, path: Path) -> State:
        if _digest(path) != path.stem.rpartition("-")[2]:
            raise ValueError("its checksum is another")
        weights: dict[str, Tensor] = {}
        optimizer: dict[int, dict[str, Tensor]] = {}
        with plain_path(path) as plain, safe_open(plain, framework="pt") as file:
            about = json.loads(file.metadata()["exvo"])
            for name in file.keys():  # noqa: SIM118
                kind, _, rest = name.partition("/")
                if kind == "weights":
                    weights[rest] = file.get_tensor(name)
                else:
                    number, _, own = rest.partition("/")
                    optimizer.setdefault(int(number), {})[own] = file.get_tensor(name)
        if about["settings"] != self._settings:
            raise ValueError("its settings are others")
        best = Epoch(**about["best"])
        if _digest(self._best(best.number)) != about["best_sha256"]:
            raise ValueError(f"the checksum of {self._best(best.number).name} is another")
        self._best_digest = about["best_sha256"]
        given = {"state": optimizer, "param_groups": about["groups"]}
        return State(about["epoch"], best, weights, given, about["scheduler"])

    def _remove(self, keep: set[Path]) -> None:
        """Removes states, their best weights and what killed processes left half-written, but for those to keep."""
        for pattern in ("epoch-*.safetensors", "best-*.safetensors", ".*.tmp"):
            for path in self._folder.glob(pattern):
                if path not in keep:
                    path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name, or a copy where the file system knows no links.

    Raises:
        InputError: the disk is full or the folder can't be written to.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    except OSError as error:
        raise InputError(
            f"{target} can't be written ({error.strerror}); free space or choose another output folder."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)  # a rename to another name of the same file leaves both
