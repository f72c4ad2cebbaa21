"""The clips of a request to the served model, decoded within limits."""

from __future__ import annotations

import base64
import string
from collections.abc import Callable, Mapping
from typing import TypeVar

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.audio import Audio, audio_header, read_audio
from exvo.features.containers import AudioError
from exvo.serving.request import NAMED, Payload, raise_if_given_up, refuse_problems

Made = TypeVar("Made")

MAX_SECONDS = 300.0
"""Seconds of all clips of a request together: CNN14 needs half a minute for them on two busy cores, and MLflow's time
limit is one minute."""

MAX_SAMPLES = 300 * 2 * 48_000
"""Samples over all channels of all clips of a request, by their headers, before any is decoded: `MAX_SECONDS` of stereo
at 48 kHz. To decode so many takes some seconds at most in any format, and to resample them 0.1 s from any rate."""


def decode_clips(
    clips: Mapping[Payload, str], config: FeatureConfig, compute: Callable[[Audio], Made]
) -> dict[Payload, Made]:
    """What is computed from each clip.

    Args:
        clips: with the place of each, from `distinct_clips`.
        config: of the audio: sampling rate and limits of length.
        compute: from a decoded clip to its features, say; raises AudioError where it can't be used.

    Raises:
        InputError: clips are not base64 or not audio that can be used, or all of them together are too long.
        GivenUp: see `raise_if_given_up`.
    """
    contents = {clip: from_base64(clip) if isinstance(clip, str) else clip for clip in clips}
    check_lengths([content for content in contents.values() if content is not None], config)
    made: dict[Payload, Made] = {}
    problems: list[str] = []
    seconds = 0.0
    for clip, place in clips.items():
        if len(problems) == NAMED:
            break
        raise_if_given_up()
        content = contents.pop(clip)
        if content is None:
            problems.append(f"{place} is not base64")
            continue
        try:
            audio = read_audio(content, config)
            seconds += audio.seconds
            check_seconds(seconds)
            made[clip] = compute(audio)
        except AudioError as error:
            problems.append(f"{place} can't be used: {error.problem}")
    refuse_problems(problems)
    return made


def from_base64(text: str) -> bytes | None:
    """The bytes that base64, with or without line breaks, stands for; None if the text is not base64."""
    try:
        return base64.b64decode(text.encode("ascii").translate(None, string.whitespace.encode()), validate=True)
    except ValueError:
        return None


def check_lengths(contents: list[bytes], config: FeatureConfig) -> None:
    """Refuses clips whose headers promise too much audio together, whether or not the clips can be used.

    A clip that promises more than `FeatureConfig.max_seconds` is not counted: it is refused by itself later.

    Raises:
        InputError: they promise more than `MAX_SECONDS`, or than `MAX_SAMPLES`.
        GivenUp: see `raise_if_given_up`.
    """
    seconds, samples = 0.0, 0
    for content in contents:
        raise_if_given_up()
        frames, channels, rate = audio_header(content)
        if rate > 0 and frames <= config.max_seconds * rate:
            seconds += frames / rate
            samples += frames * channels
    check_seconds(seconds)
    if samples > MAX_SAMPLES:
        raise InputError(
            f"The clips of the request hold {samples:,} samples over all channels, more than {MAX_SAMPLES:,}: send "
            "fewer, mono, or at a lower sampling rate."
        )


def check_seconds(seconds: float) -> None:
    """Refuses clips that together last longer than `MAX_SECONDS`.

    Raises:
        InputError: they do.
    """
    if seconds > MAX_SECONDS:
        raise InputError(f"The clips of the request last longer than {MAX_SECONDS:g} s together: send fewer.")
