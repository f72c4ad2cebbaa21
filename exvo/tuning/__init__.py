"""Hyperparameter studies. The only importer of Optuna."""
