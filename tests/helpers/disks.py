"""Small disks that can be filled."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class Disk:
    """A file system of its own, in memory."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"a file system can't be mounted here: {done.stderr.strip()}")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)

    def fill(self, left: int = 0) -> None:
        """Takes all of the space but some bytes (in whole pages)."""
        with (self.folder / "filler").open("wb") as file:
            file.write(b"\0" * (shutil.disk_usage(self.folder).free - left))

    def free(self) -> None:
        """Gives the space back."""
        (self.folder / "filler").unlink()
