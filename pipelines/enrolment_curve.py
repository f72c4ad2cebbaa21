"""`mlflow run . -e enrolment-curve`; the work is in `exvo/experiments/enrolment_curve.py`."""

from exvo.__main__ import launch

if __name__ == "__main__":
    launch("enrolment-curve")
