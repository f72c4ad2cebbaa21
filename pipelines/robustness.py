"""`mlflow run . -e robustness`; the work is in `exvo/experiments/robustness.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("robustness")
