"""`mlflow run . -e main`; the work is in `exvo/experiments/main.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("main")
