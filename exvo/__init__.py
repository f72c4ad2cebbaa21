"""exvo: few-shot recognition of emotion in vocal bursts, as an experiment-tracked project.

The library in Python is `load`, `scores` and `compare`, see `exvo.api`; what they need is imported when they are first
asked for. To import exvo turns MLflow's telemetry off, here and in the processes that this one starts, unless the
variable is set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from exvo.errors import InputError

__all__ = ["InputError", "Recogniser", "__version__", "compare", "load", "scores"]
__version__ = "0.1.0"

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
__path__.append(str(Path(__file__).with_name("former")))

if TYPE_CHECKING:
    from exvo.api import compare, load, scores
    from exvo.serving.recogniser import Recogniser
else:
    _HOMES = {
        "Recogniser": "exvo.serving.recogniser",
        "compare": "exvo.api",
        "load": "exvo.api",
        "scores": "exvo.api",
    }

    def __getattr__(name):
        """A part of the library, imported when it is first asked for: PyTorch and pandas take seconds."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)

    def __dir__():
        return sorted({*globals(), *_HOMES})
