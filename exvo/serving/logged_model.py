"""The file that MLflow runs when it loads a logged model: it names the served model of the installed exvo."""

import mlflow

from exvo.serving import VocalBurstModel

mlflow.models.set_model(VocalBurstModel())
