"""Training: objectives, the loop over epochs, and the states from which an interrupted run resumes."""

from exvo.errors import TrainingError  # for models that MLflow logged before, which import it from here

__all__ = ["TrainingError"]
