"""`mlflow run . -e evaluate`; the work is in `exvo/experiments/evaluate.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("evaluate")
