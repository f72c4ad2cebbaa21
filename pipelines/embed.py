"""`mlflow run . -e embed`; the work is in `exvo/experiments/embed.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("embed")
