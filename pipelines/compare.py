"""`mlflow run . -e compare`; the work is in `exvo/experiments/compare.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("compare")
