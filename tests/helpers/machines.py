"""Machines of their own on this one: network, host name, home and folder, by Linux' namespaces."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.commands import ROOT
from helpers.processes import arguments, environment
from helpers.servers import Gate

PROGRAM = """
import sys
from exvo.tuning import study
study.HEARTBEAT, study.DEAD_AFTER = 1.0, 8.0
from exvo.__main__ import command
command(sys.argv[1], sys.argv[2:])
"""
"""A command for which another machine's trial counts as dead after seconds, not minutes."""


class Machine:
    """A machine that reaches this one alone, at ports that are opened for it.

    Attributes:
        name: its host name.
        folder: in which its commands run, and its home.
        address: of this machine, for it.
    """

    def __init__(self, number: int, folder: Path) -> None:
        """Makes it; the test is skipped where that is not allowed.

        Args:
            number: 1 to 254, of no other machine.
            folder: for its files.
        """
        self.name = f"exvo-{os.getpid()}-{number}"
        self.address, its_address = f"10.213.{number}.1", f"10.213.{number}.2"
        self.folder = folder / self.name
        self.folder.mkdir()
        self._gates: list[Gate] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        ends = (f"exvo{number}a", f"exvo{number}b")
        if not shutil.which("ip") or not shutil.which("unshare"):
            pytest.skip("there is no ip or no unshare, Debian's iproute2 and util-linux")
        made = subprocess.run(["ip", "netns", "add", self.name], capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"a network namespace can't be made here: {made.stderr.strip()}")
        self._ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", self.name)
        self._ip("address", "add", f"{self.address}/24", "dev", ends[0])
        self._ip("link", "set", ends[0], "up")
        self._ip("-n", self.name, "address", "add", f"{its_address}/24", "dev", ends[1])
        self._ip("-n", self.name, "link", "set", ends[1], "up")

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    def reach(self, uri: str, port: int) -> str:
        """Opens a port of this machine for it; the address with which it gets there."""
        gate = Gate(port, self.address)
        self._gates.append(gate)
        return uri.replace(f"127.0.0.1:{port}", f"{self.address}:{gate.port}")

    def start(self, entry_point: str, options: dict[str, str], tracking_uri: str) -> subprocess.Popen[bytes]:
        """Types a command there; what it prints, errors too, is in the file `printed` of its folder."""
        inside = f'hostname {self.name}; exec "$@"'
        words = ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", inside, "sh"]
        words += [sys.executable, "-c", PROGRAM, *arguments(entry_point, options)]
        variables = environment(tracking_uri) | {"HOME": str(self.folder), "PYTHONPATH": path()}
        with (self.folder / "printed").open("wb") as file:
            process = subprocess.Popen(
                words,
                cwd=self.folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def printed(self) -> str:
        """What its last command has printed."""
        return (self.folder / "printed").read_text(encoding="utf-8")

    def stop(self) -> None:
        """Ends all that runs there, at once, and takes it away."""
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)
        for gate in self._gates:
            gate.close()
        self._gates = []
        subprocess.run(["ip", "netns", "delete", self.name], stderr=subprocess.DEVNULL)


def path() -> str:
    """Where a command there finds exvo."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
