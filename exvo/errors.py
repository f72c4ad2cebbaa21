"""What a command turns into a sentence: a user's mistake, and a training that can't go on."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake in what the user gave: one sentence that names the file, row or option, what was found, what to do."""


class TrainingError(RuntimeError):
    """Training can't go on: one sentence that names the clips and says what is kept."""
