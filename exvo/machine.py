"""What of a machine and its code decides a result: the processor, the libraries, the Python files of `exvo`."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent

LIBRARIES = ("torch", "torchaudio", "numpy", "scipy", "soundfile", "soxr", "opensmile", "transformers")
"""Those by whose versions the last bits of a result may differ."""


class Machine(NamedTuple):
    """What decides the last bits of a result.

    Attributes:
        processor: its name.
        instructions: those that PyTorch uses of it.
        threads: of PyTorch; 0 where their number does not matter.
        versions: the libraries that are there, and their versions.
    """

    processor: str
    instructions: str
    threads: int
    versions: tuple[tuple[str, str], ...]

    def differences(self, other: Machine) -> list[str]:
        """In what another machine differs; libraries that only one of the two has are left out."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in ("processor", "instructions", "threads")}
        theirs = dict(other.versions)
        pairs |= {name: (own, theirs[name]) for name, own in self.versions if name in theirs}
        return [f"{name} {their}, here {own}" for name, (own, their) in pairs.items() if own != their]


def this_machine(threads: bool) -> Machine:
    """The machine of this process; `threads`: whether their number matters."""
    import torch  # late, so that what needs no PyTorch can read the processor's name

    versions = []
    for library in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append((library, version(library)))
    instructions = torch.backends.cpu.get_cpu_capability()
    return Machine(processor(), instructions, torch.get_num_threads() if threads else 0, tuple(versions))


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def source_digest() -> str:
    """SHA-256, in hexadecimal, of the Python files of `exvo`: their names and contents."""
    total = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        content = path.read_bytes()
        total.update(f"{path.relative_to(PACKAGE.parent).as_posix()} {len(content)}\n".encode() + content)
    return total.hexdigest()
