"""`mlflow run . -e extract`; the work is in `exvo/experiments/extract.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("extract")
