"""The file that MLflow runs when it loads a logged model: it names the served model of the installed exvo."""

import mlflow

from exvo.serving import VocalBurstModel
from exvo.tracking.encoders import load_kept

mlflow.models.set_model(VocalBurstModel(load_kept))
