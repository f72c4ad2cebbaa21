"""What MLflow runs when it loads a logged model: the served model of the exvo that is imported, and nothing else."""

import mlflow

from exvo.serving import VocalBurstModel

mlflow.models.set_model(VocalBurstModel())
