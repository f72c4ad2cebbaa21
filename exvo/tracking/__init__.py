"""Runs and models on the tracking server. With `serving/model.py` the only home of MLflow."""
