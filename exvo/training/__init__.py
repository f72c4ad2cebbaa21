"""Training: what is minimised, the loop over epochs, and the states from which it goes on."""

from exvo.errors import TrainingError  # models that MLflow logged before look for it here

__all__ = ["TrainingError"]
