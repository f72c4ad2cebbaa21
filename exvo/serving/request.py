"""What a request to the served model may hold: checked before anything is decoded, then decoded within limits."""

from __future__ import annotations

import base64
import json
import string
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from exvo.config import MAX_SHOTS, FeatureConfig
from exvo.errors import InputError
from exvo.features.audio import audio_header, read_audio
from exvo.features.containers import AudioError
from exvo.features.log_mel import log_mel
from exvo.text import printable

COLUMNS = ("audio", "enrolment", "profile")
MODES = ("predict", "enrol")

MAX_CLIPS = 64
"""Different clips in a request, those that enrol among them."""

MAX_CLIP_BYTES = 32 * 2**20
"""Of a clip's file: 60 s of stereo at 48 kHz with 32 bits are 23 million. How long it may be, `FeatureConfig` says."""

MAX_SECONDS = 300.0
"""Of all clips of a request together: half a minute for CNN14 on two busy cores, where MLflow gives up after one."""

MAX_BODY = 192 * 2**20
"""Bytes of a request: 300 s of stereo at 48 kHz with 32 bits are 115 million, 154 million in base64."""

MAX_SAMPLES = 300 * 2 * 48_000
"""Over all channels of all clips of a request, by their headers, before one is decoded: `MAX_SECONDS` of stereo at
48 kHz. To decode so many takes seconds at most in any format, to resample them 0.1 s from any rate."""

MAX_OPENED = 512
"""Brackets and braces that a body opens: 64 rows that enrol and hold a profile open 198. Nothing is nested deeper."""

MAX_VALUES = 64 * 4_096
"""Commas in a body: as many numbers as 64 profiles of CNN14 at twice its width hold."""

MAX_UNICODE = 2**20
"""Bytes of a body that is not ASCII: one letter beyond it makes four bytes of each. Base64 is ASCII."""

NAMED = 10
"""Bad clips in a sentence; with so many, decoding ends."""

NO_TABLE = 'The request is no table: send {"dataframe_records": [{"audio": "<base64>"}]}; in Python a DataFrame.'

Payload = str | bytes


class GivenUp(Exception):
    """Nobody waits for the answer to a request any more."""


def always() -> None:
    """What `still_wanted` asks outside of the server."""


still_wanted: ContextVar[Callable[[], None]] = ContextVar("still_wanted", default=always)
"""Called between clips and batches; raises `GivenUp`. Of the thread that works on a request."""


@dataclass(frozen=True)
class Row:
    """A row of a request, checked but not decoded: its clip (none where it only enrols), and its speaker's."""

    audio: Payload | None
    enrolment: tuple[Payload, ...]
    profile: np.ndarray | None


def check_body(body: bytes | bytearray | str) -> dict[str, Any]:
    """The JSON object of a request.

    Refuses structure that no request needs, from counts over the bytes before they are parsed: memory is bounded by
    four times the body and a little. Also params that are not known, and JSON from which pandas would make far more
    cells than were sent. Whether it holds a table is left to MLflow and to `read_rows`.

    Raises:
        InputError: no JSON object, too much structure, a name twice in an object, an unknown param, too many rows, or a
            row with too many columns.
    """
    raw = body.encode(errors="surrogatepass") if isinstance(body, str) else body
    opened, values = raw.count(b"[") + raw.count(b"{"), raw.count(b",")
    if opened > MAX_OPENED or values > MAX_VALUES:
        raise InputError(
            f"The request has {opened:,} lists and objects and {values:,} commas: send at most {MAX_OPENED} and "
            f"{MAX_VALUES:,}, audio in base64."
        )
    if len(raw) > MAX_UNICODE and not raw.isascii():
        raise InputError(f"The request is not ASCII and larger than {MAX_UNICODE // 2**20} MiB: send audio in base64.")
    try:
        request = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=unique)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"The request can't be read: malformed JSON ({type(error).__name__}).") from None
    if not isinstance(request, dict):
        raise InputError(f"The request can't be read: {NO_TABLE[0].lower()}{NO_TABLE[1:]}")
    if not request.keys().isdisjoint(("inputs", "instances")):
        raise InputError(NO_TABLE)
    params = request.get("params")
    unknown = sorted(brief(name) for name in params if name != "mode") if isinstance(params, dict) else []
    if unknown:
        raise InputError(f"The request has unknown params ({listed(unknown, ', ')}): send mode.")
    split = request.get("dataframe_split")
    split = split if isinstance(split, dict) else {}
    tables = (request.get("dataframe_records"), split.get("data"), split.get("index"))
    for rows in (table for table in tables if isinstance(table, (list, dict))):
        if len(rows) > MAX_CLIPS:
            raise InputError(f"The request has {len(rows):,} rows: send 1 to {MAX_CLIPS}.")
        own = list(rows.values()) if isinstance(rows, dict) else rows
        for columns in [*own, split.get("columns")]:
            if isinstance(columns, (list, dict)) and len(columns) > 2 * len(COLUMNS):
                raise InputError(f"The request has {len(columns):,} columns: send {', '.join(COLUMNS)}.")
    return request


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; InputError where it has a name twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for name in values if sum(name == other for other, _ in pairs) > 1)
        raise InputError(f"The request holds {brief(twice)} twice in an object: send it once.")
    return values


def read_rows(request: Any, mode: str, size: int | None) -> list[Row]:
    """The rows of a request, checked as far as that goes without decoding.

    Args:
        request: what MLflow made of it.
        mode: predict or enrol.
        size: numbers of a profile; None for a model without enrolment, which ignores it.

    Raises:
        InputError: it is no table, has no rows or too many, has other columns, or its rows hold what they can't.
    """
    if not isinstance(request, pd.DataFrame):
        raise InputError(NO_TABLE)
    if not 1 <= len(request) <= MAX_CLIPS:
        raise InputError(f"The request has {len(request):,} rows: send 1 to {MAX_CLIPS}.")
    names = list(request.columns)
    unknown = sorted({brief(name) for name in names if not isinstance(name, str) or name not in COLUMNS})
    if unknown or len(set(names)) < len(names):
        found = f"unknown columns ({listed(unknown, ', ')})" if unknown else "a column twice"
        raise InputError(f"The request has {found}: send {', '.join(COLUMNS)}.")
    rows, problems = [], []
    for number, values in enumerate(request.to_dict("records")):
        try:
            rows.append(read_row(values, mode, size))
        except InputError as error:
            problems.append(f"row {number}: {error}")
    refuse(problems)
    return rows


def read_row(values: Mapping[Any, Any], mode: str, size: int | None) -> Row:
    """A row of a request, checked; for the arguments see `read_rows`.

    Raises:
        InputError: what is wrong with it, without a full stop.
    """
    given = {name: value for name, value in values.items() if not (pd.api.types.is_scalar(value) and pd.isna(value))}
    if mode == "predict" and "audio" not in given:
        raise InputError("audio is missing")
    audio = payload(given["audio"], "audio") if mode == "predict" else None
    if size is None:
        return Row(audio, (), None)
    if mode == "enrol" and "enrolment" not in given:
        raise InputError("enrolment is missing; mode=enrol takes a list of clips of the speaker")
    if mode == "predict" and {"enrolment", "profile"} <= set(given):
        raise InputError("holds both enrolment and profile; send one of them")
    if "enrolment" in given:
        return Row(audio, read_enrolment(given["enrolment"]), None)
    return Row(audio, (), read_profile(given["profile"], size) if "profile" in given else None)


def read_enrolment(value: Any) -> tuple[Payload, ...]:
    """The clips that enrol a speaker, as they came.

    Raises:
        InputError: they are no list, too many or none, or one is no clip.
    """
    clips = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(clips, (list, tuple)) or not 1 <= len(clips) <= MAX_SHOTS:
        raise InputError(f"enrolment must be a list of 1 to {MAX_SHOTS} clips")
    return tuple(payload(clip, f"enrolment clip {place}") for place, clip in enumerate(clips, start=1))


def payload(value: Any, name: str) -> Payload:
    """A clip as it came, bytes or base64, if it is no larger than `MAX_CLIP_BYTES`.

    Raises:
        InputError: it is neither, or too large.
    """
    if not isinstance(value, (str, bytes)):
        raise InputError(f"{name} is neither base64 text nor bytes")
    if len(value) > (MAX_CLIP_BYTES if isinstance(value, bytes) else MAX_CLIP_BYTES * 3 // 2):
        raise InputError(f"{name} is larger than {MAX_CLIP_BYTES // 2**20} MiB")
    return value


def read_profile(value: Any, size: int) -> np.ndarray:
    """A profile: float32 (size,).

    Raises:
        InputError: it is no list of so many finite numbers.
    """
    try:
        numbers = np.asarray(value)
    except ValueError:  # lists of different lengths
        numbers = np.empty(0, object)
    if numbers.ndim != 1 or numbers.dtype.kind not in "fiu" or len(numbers) != size:
        found = f", found {len(numbers)}" if numbers.ndim == 1 and numbers.dtype.kind in "fiu" else ""
        raise InputError(
            f"profile must be a list of {size} numbers{found}; send one that mode=enrol of this model gave"
        )
    with np.errstate(over="ignore"):
        vector: np.ndarray = numbers.astype(np.float32)
    if not np.isfinite(vector).all():
        raise InputError("profile holds a number that is not finite")
    return vector


def places(rows: list[Row]) -> dict[Payload, str]:
    """The different clips of a request, and where each occurs first.

    Raises:
        InputError: there are too many.
    """
    found: dict[Payload, str] = {}
    for number, row in enumerate(rows):
        if row.audio is not None:
            found.setdefault(row.audio, f"row {number}: audio")
        for place, clip in enumerate(row.enrolment, start=1):
            found.setdefault(clip, f"row {number}: enrolment clip {place}")
    if len(found) > MAX_CLIPS:
        raise InputError(f"The request holds {len(found):,} different clips: send at most {MAX_CLIPS}.")
    return found


def decode(clips: Mapping[Payload, str], config: FeatureConfig) -> dict[Payload, np.ndarray]:
    """The log-mel of each clip, (frames, bands) in dB.

    Args:
        clips: and where each is, for a sentence.
        config: settings of the log-mel.

    Raises:
        InputError: clips are not base64 or not audio that can be used, or all of them are too long together.
        GivenUp: see `still_wanted`.
    """
    contents = {clip: from_base64(clip) if isinstance(clip, str) else clip for clip in clips}
    check_lengths([content for content in contents.values() if content is not None], config)
    log_mels: dict[Payload, np.ndarray] = {}
    problems: list[str] = []
    seconds = 0.0
    for clip, place in clips.items():
        if len(problems) == NAMED:
            break
        still_wanted.get()()
        content = contents.pop(clip)
        if content is None:
            problems.append(f"{place} is not base64")
            continue
        try:
            audio = read_audio(content, config)
        except AudioError as error:
            problems.append(f"{place} can't be used: {error.problem}")
            continue
        seconds += audio.seconds
        check_seconds(seconds)
        log_mels[clip] = log_mel(torch.from_numpy(audio.waveform), config).numpy()
    refuse(problems)
    return log_mels


def from_base64(text: str) -> bytes | None:
    """The bytes of base64 with or without line breaks; None where it is none."""
    try:
        return base64.b64decode(text.encode("ascii").translate(None, string.whitespace.encode()), validate=True)
    except ValueError:
        return None


def check_lengths(contents: list[bytes], config: FeatureConfig) -> None:
    """Refuses clips that are too much together, by their headers, whether or not they can be used.

    One that promises more than a clip may last is left out: it is refused by itself before it is decoded.

    Raises:
        InputError: more than `MAX_SECONDS`, or than `MAX_SAMPLES`.
    """
    seconds, samples = 0.0, 0
    for content in contents:
        still_wanted.get()()
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
    """Raises InputError where all clips of a request together last too long."""
    if seconds > MAX_SECONDS:
        raise InputError(f"The clips of the request last longer than {MAX_SECONDS:g} s together: send fewer.")


def refuse(problems: list[str]) -> None:
    """Raises InputError with the problems as one sentence, if there are any."""
    if problems:
        raise InputError(f"{listed(problems, '; ')}.")


def listed(items: list[str], separator: str) -> str:
    """The first `NAMED` items, and how many more there are."""
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return separator.join(items[:NAMED]) + more


def brief(value: object) -> str:
    """What a request holds, fit to repeat."""
    return printable(str(value))
