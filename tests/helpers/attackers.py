"""Readers that break each promise the fuzzer watches, to see that it sees."""

from __future__ import annotations

import os
import signal
import time
import warnings
from pathlib import Path
from random import Random


class Attacker:
    """The input with number 2 does harm, the others nothing."""

    memory = 2**30

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drawn = -1

    def draw(self, random: Random) -> None:
        (self.folder / "input").write_text("x")

    def run(self) -> bool:
        self.drawn += 1
        if self.drawn == 32:  # 30 to warm up, then 0, 1, 2
            self.harm()
        return True

    def harm(self) -> None:
        raise NotImplementedError


class Raises(Attacker):
    def harm(self) -> None:
        raise KeyError("surprise")


class Crashes(Attacker):
    def harm(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Hangs(Attacker):
    def harm(self) -> None:
        time.sleep(1_000)


class Greedy(Attacker):
    def harm(self) -> None:
        bytes(3 * 2**30)


class Prints(Attacker):
    def harm(self) -> None:
        for number in range(1_000):
            warnings.warn(f"warning {number}", stacklevel=1)
