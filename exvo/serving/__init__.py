"""The served model, and predictions for recordings that are in no corpus."""

from typing import Any


def __getattr__(name: str) -> Any:
    """The served model, which models that MLflow logged before look for here; to import it takes MLflow."""
    if name == "VocalBurstModel":
        from exvo.serving.model import VocalBurstModel

        return VocalBurstModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
