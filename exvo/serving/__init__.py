"""The served model, and predictions for recordings that are in no corpus."""

from typing import Any


def __getattr__(name: str) -> Any:
    """The served model. Logged models import it from here; it is imported late because it imports MLflow."""
    if name == "VocalBurstModel":
        from exvo.serving.model import VocalBurstModel

        return VocalBurstModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
