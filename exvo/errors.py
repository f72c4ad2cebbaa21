"""The errors that a command shows as a sentence, without a traceback."""

from __future__ import annotations


class InputError(ValueError):
    """A user's mistake, in one sentence: the file, row or option, what is wrong with it, and what to do."""


class TrainingError(RuntimeError):
    """A training that can't go on, in one sentence: the clips at fault, and what is kept."""
