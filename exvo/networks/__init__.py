"""Networks: log-mel spectrograms in, numbers out. The two names here are for models that MLflow logged before."""

from exvo.networks.checkpoint import Checkpoint
from exvo.networks.checkpoint import load_checkpoint as load

__all__ = ["Checkpoint", "load"]
