"""`mlflow run . -e sync`; the work is in `exvo/experiments/sync.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("sync")
