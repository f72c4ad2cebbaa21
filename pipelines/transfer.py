"""`mlflow run . -e transfer`; the work is in `exvo/experiments/transfer.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("transfer")
