"""`mlflow run . -e predict`; the work is in `exvo/experiments/predict.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("predict")
