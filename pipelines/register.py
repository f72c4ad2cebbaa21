"""`mlflow run . -e register`; the work is in `exvo/experiments/register.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("register")
