"""`mlflow run . -e tune`; the work is in `exvo/experiments/tune.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("tune")
