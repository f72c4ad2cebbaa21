"""See `exvo.serving.prediction`."""

from exvo.serving.prediction import enrol, outputs

__all__ = ["enrol", "outputs"]
