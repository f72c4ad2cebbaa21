"""`mlflow run . -e submit`; the work is in `exvo/experiments/submit.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("submit")
