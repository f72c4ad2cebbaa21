"""A trained model in Python: recordings in, a table of emotions out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import TypeGuard, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from exvo.config import MAX_SHOTS
from exvo.errors import InputError, TrainingError
from exvo.evaluation.selective import find_level
from exvo.features.audio import prepare, read_audio
from exvo.features.conditions import find_warnings, is_clipped
from exvo.features.containers import AudioError
from exvo.networks.checkpoint import Checkpoint
from exvo.reports.prediction import reached_line, warning_text
from exvo.serving.prediction import enrol_recordings, predict_recordings, read_features
from exvo.serving.recordings import look_up
from exvo.serving.request import sure_number
from exvo.serving.waveforms import Prepared, audio_config, features_of, prepare_audio
from exvo.text import LONGEST_NAME, listing, printable, writable

Clip = str | os.PathLike[str] | bytes | tuple[npt.ArrayLike, float]
"""A recording, as the path of a file, a file's bytes, or a waveform with its rate in Hz.

A waveform is (samples,) or (samples, channels), floats from -1 to 1, as `soundfile.read` gives it."""

Profile = npt.NDArray[np.float32]
"""What a personalised model knows of a speaker, (profile,), the mean of the embeddings of the clips that enrol."""


class Recogniser:
    """A trained model that recognises emotion in recordings; `exvo.load` makes one.

    Attributes:
        targets: the emotions, in the order of the columns that `predict` gives; empty for a speaker recogniser.
        personalised: whether it adapts to a speaker.
        reaches: how good it is on validation and what chance is, in a line; '' where that is not known.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        """Takes a checkpoint's network to a device, cpu or cuda."""
        self._checkpoint = checkpoint
        self._device = device
        checkpoint.network.to(device)
        self.targets: tuple[str, ...] = checkpoint.task.targets
        self.reaches: str = reached_line(checkpoint.task, checkpoint.notes)
        self.personalised: bool = checkpoint.network.personalised

    def __repr__(self) -> str:
        kind = "personalised" if self.personalised else "not personalised"
        system = self._checkpoint.notes.get("model", "unknown")
        return f"<Recogniser: {printable(str(system))}, {len(self.targets)} targets, {kind}, on {self._device}>"

    def predict(
        self, audio: Clip | Iterable[Clip], enrolment: Clip | Iterable[Clip] | Profile | None = None, sure: float = 0.0
    ) -> pd.DataFrame:
        """What is heard in each clip.

        Args:
            audio: one clip or several, see `Clip`.
            enrolment: of the speaker who is heard in all of them: one clip or several, or what `enrol` gave; None: the
                typical speaker. A model that is not personalised ignores it, with a warning.
            sure: how often an answer must be right to count as sure (0.8: in 80% of such clips on validation);
                0: that is not asked.

        Returns:
            A row a clip, in their order, and a column a target: the intensity of that emotion. With the task multitask
            also `age` (years) and `country`; of a speaker recogniser the one column `speaker`.
            With `sure` also that column, True or False.

        Raises:
            InputError: no clips, some that can't be used (all are named), a profile of another model, or a model that
                is not right so often, or does not know how often it is.
        """
        level = find_level(self._checkpoint.levels, self._checkpoint.task, sure_number(sure)) if sure else None
        profile = None
        if enrolment is not None and not self.personalised:
            warnings.warn("This model takes no enrolment, so the enrolment clips are ignored.", stacklevel=2)
        elif isinstance(enrolment, np.ndarray):
            profile = self._check_profile(enrolment)
        elif enrolment is not None:
            profile = self.enrol(enrolment)
        features = self._read(audio, "audio")
        repeated = None if profile is None else np.repeat(profile[None], len(features), axis=0)
        try:
            outputs = predict_recordings(self._checkpoint, features, repeated, self._device)
        except TrainingError:
            raise InputError(
                "The outputs for these clips are not finite: the weights have diverged, or the profile is not one that "
                "enrol of this model gave."
            ) from None
        return self._checkpoint.task.answers(outputs, self._checkpoint.temperature, level)

    def enrol(self, clips: Clip | Iterable[Clip]) -> Profile:
        """The profile of a speaker, to predict many times without the clips.

        Args:
            clips: one clip of the speaker or several, 16 at most; two are usual. They need no labels.

        Returns:
            float32 (profile,): the numbers that the served model gives with `mode=enrol`.

        Raises:
            InputError: the model is not personalised, there are no clips or too many, or some can't be used.
        """
        if not self.personalised:
            raise InputError("This model takes no enrolment, so it has no profile to give: leave it out.")
        features = self._read(clips, "enrolment", MAX_SHOTS)
        profile: Profile = enrol_recordings(self._checkpoint, features, [np.arange(len(features))], self._device)[0]
        return profile

    def _check_profile(self, profile: np.ndarray) -> Profile:
        """A profile as float32 (profile,), if it can be one of this model."""
        size = len(self._checkpoint.network.typical)
        if profile.shape != (size,) or profile.dtype.kind != "f" or not np.isfinite(profile).all():
            raise InputError(
                f"The enrolment is an array of {profile.dtype} {profile.shape}, but a profile of this model has {size} "
                "finite numbers: give what enrol gave, or a waveform with its rate, as in (samples, 16_000)."
            )
        return profile.astype(np.float32)

    def _read(self, clips: Clip | Iterable[Clip], what: str, most: int | None = None) -> list[np.ndarray]:
        """The features of clips, see `features_of`."""
        listed = as_list(clips)
        if not listed or (most and len(listed) > most):
            raise InputError(f"{what} has {len(listed)} clips; give at least one{f', at most {most}' if most else ''}.")
        features: list[np.ndarray] = []
        problems: list[AudioError] = []
        for number, clip in enumerate(listed, 1):
            name = f"clip {number} of {len(listed)}"
            if isinstance(clip, str | os.PathLike):
                name = printable(writable(os.fspath(clip)), LONGEST_NAME)
            try:
                prepared = self._prepared(clip, f"{what}: {name}")
            except AudioError as error:
                problems.append(AudioError(error.problem, name))
                continue
            for problem in filter(None, (prepared.note, warning_text(prepared.warnings))):
                warnings.warn(f"{name}: {problem}", stacklevel=3)
            features.append(prepared.features)
        refuse(problems, len(listed))
        return features

    def _prepared(self, clip: Clip, name: str) -> Prepared:
        """The features of a clip, with what is to be said of it."""
        config = audio_config(self._checkpoint)
        if is_waveform(clip):
            samples, rate = as_array(clip[0]), float(clip[1])
            waveform = prepare(samples, rate, config)
            mono = samples if samples.ndim == 1 else samples.mean(axis=1)
            length, ranges = len(samples) / rate, self._checkpoint.ranges
            found = find_warnings(waveform, config.sample_rate, rate, length, is_clipped(mono), ranges)
            return Prepared(features_of(waveform, self._checkpoint), found, "")
        if isinstance(clip, bytes):
            return prepare_audio(read_audio(clip, config), self._checkpoint)
        if isinstance(clip, str | os.PathLike):
            path = os.fspath(clip)
            return read_features(Path(look_up(path) or path), self._checkpoint)
        raise InputError(
            f"{name} is of type {type(clip).__name__}: give a path, the bytes of a file, or a waveform with its rate, "
            "as in (samples, 16_000)."
        )


def is_waveform(value: object) -> TypeGuard[tuple[npt.ArrayLike, float]]:
    """Whether it is samples with their rate, and not two clips."""
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Real)


def as_list(clips: Clip | Iterable[Clip]) -> list[Clip]:
    """One clip or several as a list."""
    if isinstance(clips, str | os.PathLike | bytes) or is_waveform(clips) or not isinstance(clips, Iterable):
        return [clips]
    return list(cast("Iterable[Clip]", clips))


def as_array(samples: npt.ArrayLike) -> np.ndarray:
    """The samples of a waveform, also of a tensor on the CPU.

    Raises:
        AudioError: they make no array.
    """
    try:
        return np.asarray(samples)
    except (ValueError, TypeError, RuntimeError):
        raise AudioError("its samples are no array of numbers") from None


def refuse(problems: Sequence[AudioError], count: int) -> None:
    """Raises InputError with the clips that can't be used, if there are any among so many."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        sentences = listing((f"{error.name}: {error.problem}" for error in problems), separator="; ")
        raise InputError(f"{len(problems)} of {count} clips can't be used: {sentences}.")
