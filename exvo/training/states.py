"""States of training on disk: after each epoch, all that the next depends on, so that a killed run can be resumed."""

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
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from exvo import ranks
from exvo.errors import InputError
from exvo.files import plain_path, write_atomically
from exvo.text import reason

KEPT = 2
"""States on disk: the last one, and the one before it in case the last one is damaged."""


@dataclass(frozen=True)
class Epoch:
    """The result of an epoch.

    Attributes:
        number: 1 is the first.
        loss: mean over the training clips of their batch's objective; NaN where nothing is trained.
        learning_rate: of the epoch's first step.
        seconds: of training alone.
        score: on validation clips, by which the best epoch is chosen; NaN where it is undefined.
        best: whether its score is better than those of all epochs before it.
        scores: others on the validation clips, by name.
        validation_seconds: of the validation.
    """

    number: int
    loss: float
    learning_rate: float
    seconds: float
    score: float
    best: bool
    scores: Mapping[str, float] = field(default_factory=dict)
    validation_seconds: float = 0.0


@dataclass(frozen=True)
class State:
    """All that the next epoch depends on.

    No generator is part of it: orders, crops, enrolment draws and dropout are drawn from seed and epoch alone.

    Attributes:
        epoch: number of the last finished epoch.
        best: the best epoch so far.
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

    A state is the file `epoch-<number>-<SHA-256 of the file>.safetensors`. Its best weights are
    `best-<number>.safetensors`, a hard link to `best_file` as it was after that epoch, which later epochs don't change.

    Attributes:
        best_file: where training writes the weights of an epoch that is the best so far.
        epoch: of the last state that was written or read; 0: there is none.
    """

    def __init__(self, best_file: Path, settings: str, tell: Callable[[str], None] = print) -> None:
        """States of which nothing is read yet.

        Args:
            best_file: as above.
            settings: a digest of what the run computes; a state of other settings is not used.
            tell: called with a sentence about the states on disk.
        """
        self.best_file, self.epoch = best_file, 0
        self._settings, self._tell = settings, tell
        self._best_digest = ""
        self._kept: list[tuple[Path, Path]] = []  # states and their best weights, the newest first

    def write(self, state: State) -> None:
        """Writes a state, and removes those before the last two.

        Best weights of this epoch must be in `best_file`. If somebody has removed the best weights of an earlier epoch,
        no state could be resumed, and none is written.

        Raises:
            InputError: the disk is full or the folder can't be written to.
        """
        best = self._best(state.best.number)
        if state.best.number == state.epoch:
            _link(self.best_file, best)
            self._best_digest = _digest(best)
        if not best.exists():
            return
        header = {"settings": self._settings, "best_sha256": self._best_digest} | _header(state)
        content = to_bytes(_tensors(state), metadata={"exvo": json.dumps(header)})
        path = self._folder / f"epoch-{state.epoch:06d}-{hashlib.sha256(content).hexdigest()}.safetensors"
        write_atomically(path, content)
        self.epoch = state.epoch
        self._kept = [(path, best), *(pair for pair in self._kept if pair[0] != path)][:KEPT]
        self._remove(keep={file for pair in self._kept for file in pair})

    def latest(self) -> State | None:
        """The newest undamaged state, whose best weights it puts into `best_file`; None where there is none."""
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
            self._tell(f"training resumes after epoch {state.epoch}")
            return state
        if paths:
            self._tell("no state of the run can be used, so it begins again with epoch 1")
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
        with plain_path(path) as plain, safe_open(plain, framework="pt") as file:
            header = json.loads(file.metadata()["exvo"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["settings"] != self._settings:
            raise ValueError("its settings are others")
        state = _state(header, tensors)
        best = self._best(state.best.number)
        if _digest(best) != header["best_sha256"]:
            raise ValueError(f"the checksum of {best.name} is another")
        self._best_digest = header["best_sha256"]
        return state

    def _remove(self, keep: set[Path]) -> None:
        """Removes all states, best weights and half-written files of killed processes, except those to keep."""
        for pattern in ("epoch-*.safetensors", "best-*.safetensors", ".*.tmp"):
            for path in self._folder.glob(pattern):
                if path not in keep:
                    path.unlink(missing_ok=True)


def from_first_rank(state: State | None) -> State | None:
    """The state that the first rank has read, on all ranks; None where it has read none."""
    if ranks.count() == 1:
        return state
    header = ranks.from_first(None if state is None else _header(state))
    if header is None:
        return None
    return _state(header, from_bytes(ranks.bytes_from_first(b"" if state is None else to_bytes(_tensors(state)))))


def _header(state: State) -> dict[str, Any]:
    """What JSON can hold of a state."""
    return {
        "epoch": state.epoch,
        "best": asdict(state.best),
        "groups": state.optimizer["param_groups"],
        "scheduler": state.scheduler,
    }


def _tensors(state: State) -> dict[str, Tensor]:
    """The tensors of a state by their names in its file."""
    tensors = {f"weights/{name}": tensor for name, tensor in state.weights.items()}
    for number, values in state.optimizer["state"].items():
        tensors |= {f"optimizer/{number}/{name}": tensor for name, tensor in values.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _state(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> State:
    """The state of which `_header` and `_tensors` have given these."""
    weights: dict[str, Tensor] = {}
    optimizer: dict[int, dict[str, Tensor]] = {}
    for place, tensor in tensors.items():
        kind, _, name = place.partition("/")
        if kind == "weights":
            weights[name] = tensor
        else:
            number, _, name = name.partition("/")
            optimizer.setdefault(int(number), {})[name] = tensor
    optimizer_state = {"state": optimizer, "param_groups": header["groups"]}
    return State(header["epoch"], Epoch(**header["best"]), weights, optimizer_state, header["scheduler"])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the file system has no hard links.

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
