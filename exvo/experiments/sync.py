"""Delivers what the tracking server missed.

It is what the runs of an output folder could not log while the server was away.
"""

from __future__ import annotations

from pathlib import Path

from exvo.errors import InputError
from exvo.settings import SyncSettings
from exvo.text import printable


def run(settings: SyncSettings) -> None:
    """Delivers in no run of its own.

    Raises:
        InputError: the folder is not there, or something could not be delivered; it is still kept.
    """
    if not Path(settings.output).is_dir():
        what = "is not a folder" if Path(settings.output).exists() else "is not there"
        raise InputError(f"output={printable(settings.output, 200)} {what}; give the output folder of the runs.")
    folder = Path(settings.output) / "runs"
    journals, problems = list(folder.glob("*/journal")), list[str]()
    if journals or any(folder.glob("*/epoch-*.safetensors")):
        from exvo.experiments.resume import deliver_journals  # and with it MLflow and PyTorch

        problems = deliver_journals(settings.output)
    delivered = len(journals) - len(problems)
    print(f"runs in {settings.output} with something to deliver: {len(journals)}; delivered: {delivered}")
    if problems:
        raise InputError(" ".join(problems))
