"""`mlflow run . -e demo`; the work is in `exvo/experiments/demo.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("demo")
