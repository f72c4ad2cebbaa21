"""`mlflow run . -e train`; the work is in `exvo/experiments/train.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("train")
