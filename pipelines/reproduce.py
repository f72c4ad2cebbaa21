"""`mlflow run . -e reproduce`; the work is in `exvo/experiments/reproduce.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("reproduce")
