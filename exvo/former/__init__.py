"""Modules of before, under the names by which models that MLflow logged before import them (`exvo.prediction`, ...).

`exvo/__init__.py` has Python look for submodules of `exvo` here too. Nothing else imports them.
"""
