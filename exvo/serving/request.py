"""Requests to the served model, checked before anything is decoded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from exvo.config import MAX_SHOTS
from exvo.errors import InputError
from exvo.text import listing, printable

COLUMNS = ("audio", "enrolment", "profile")
MODES = ("predict", "enrol")
PARAMS = ("mode", "sure")

MAX_CLIPS = 64
"""Different clips in a request, those that enrol among them."""

MAX_CLIP_BYTES = 32 * 2**20
"""Bytes of a clip's file: 60 s of stereo at 48 kHz with 32 bits are 23 million. `FeatureConfig` limits its length."""

MAX_BODY = 192 * 2**20
"""Bytes of a request: 300 s of stereo at 48 kHz with 32 bits are 115 million, 154 million in base64."""

MAX_OPENED = 512
"""Opening brackets and braces in a body: 64 rows that enrol and hold a profile have 198."""

MAX_VALUES = 64 * 4_096
"""Commas in a body: 64 profiles of CNN14 at twice its width hold so many numbers."""

MAX_UNICODE = 2**20
"""Bytes of a body that is not ASCII: one letter beyond ASCII makes Python store each letter in up to four bytes. Base64
is ASCII."""

NAMED = 10
"""Bad clips that a sentence names; after so many, decoding ends."""

NO_TABLE = 'The request is no table: send {"dataframe_records": [{"audio": "<base64>"}]}; in Python a DataFrame.'

Payload = str | bytes


class GivenUp(Exception):
    """Nobody waits for the answer to a request any more."""


def never_given_up() -> None:
    """The check outside of the server, where no request is given up."""


given_up_check: ContextVar[Callable[[], None]] = ContextVar("given_up_check", default=never_given_up)
"""The check of the request that this thread works on: raises `GivenUp` if nobody waits for its answer any more."""


def raise_if_given_up() -> None:
    """Ends the work on this thread's request if nobody waits for its answer; called between clips and batches.

    Raises:
        GivenUp: nobody waits.
    """
    given_up_check.get()()


@dataclass(frozen=True)
class Row:
    """A row of a request, checked but not decoded.

    Attributes:
        audio: the clip; None in a row that only enrols.
        enrolment: the clips that enrol its speaker; empty where there are none.
        profile: (profile,), of its speaker; None where the row has none.
    """

    audio: Payload | None
    enrolment: tuple[Payload, ...]
    profile: np.ndarray | None


def check_body(body: bytes | bytearray | str) -> dict[str, Any]:
    """The JSON object of a request.

    Refuses more structure than a request needs by counting bytes before they are parsed, so that parsing takes hardly
    more memory than four times the body. Also refuses unknown params, and JSON from which pandas would make far more
    cells than were sent. MLflow and `read_rows` check whether it holds a table.

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
        request = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=object_of_pairs)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"The request can't be read: malformed JSON ({type(error).__name__}).") from None
    if not isinstance(request, dict):
        raise InputError(f"The request can't be read: {NO_TABLE[0].lower()}{NO_TABLE[1:]}")
    if not request.keys().isdisjoint(("inputs", "instances")):
        raise InputError(NO_TABLE)
    params = request.get("params")
    unknown = sorted(printable(str(name)) for name in params if name not in PARAMS) if isinstance(params, dict) else []
    if unknown:
        raise InputError(f"The request has unknown params ({listing(unknown, NAMED)}): send {' or '.join(PARAMS)}.")
    split = request.get("dataframe_split")
    split = split if isinstance(split, dict) else {}
    tables = (request.get("dataframe_records"), split.get("data"), split.get("index"))
    for rows in (table for table in tables if isinstance(table, (list, dict))):
        if len(rows) > MAX_CLIPS:
            raise InputError(f"The request has {len(rows):,} rows: send 1 to {MAX_CLIPS}.")
        each = list(rows.values()) if isinstance(rows, dict) else rows
        for columns in [*each, split.get("columns")]:
            if isinstance(columns, (list, dict)) and len(columns) > 2 * len(COLUMNS):
                raise InputError(f"The request has {len(columns):,} columns: send {', '.join(COLUMNS)}.")
    return request


def sure_number(value: Any) -> float:
    """How often an answer must be right to count as sure; 0: that is not asked.

    Raises:
        InputError: it is no number from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError("sure must be a number from 0 (not asked) to 1, such as 0.8.")
    return float(value)


def object_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its names and values.

    Raises:
        InputError: it has a name twice.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = next(name for name in values if sum(name == other for other, _ in pairs) > 1)
        raise InputError(f"The request holds {printable(repeated)} twice in an object: send it once.")
    return values


def read_rows(request: Any, mode: str, size: int | None) -> list[Row]:
    """The rows of a request, checked as far as possible without decoding.

    Args:
        request: as MLflow has parsed it; should be a DataFrame.
        mode: predict or enrol.
        size: numbers of a profile; None for a model without enrolment, which ignores profiles.

    Raises:
        InputError: it is no table, has no rows or too many, has other columns, or a row holds a wrong value.
    """
    if not isinstance(request, pd.DataFrame):
        raise InputError(NO_TABLE)
    if not 1 <= len(request) <= MAX_CLIPS:
        raise InputError(f"The request has {len(request):,} rows: send 1 to {MAX_CLIPS}.")
    names = list(request.columns)
    unknown = sorted({printable(str(name)) for name in names if not isinstance(name, str) or name not in COLUMNS})
    if unknown or len(set(names)) < len(names):
        problem = f"unknown columns ({listing(unknown, NAMED)})" if unknown else "a column twice"
        raise InputError(f"The request has {problem}: send {', '.join(COLUMNS)}.")
    rows, problems = [], []
    for number, values in enumerate(request.to_dict("records")):
        try:
            rows.append(read_row(values, mode, size))
        except InputError as error:
            problems.append(f"row {number}: {error}")
    refuse_problems(problems)
    return rows


def read_row(values: Mapping[Any, Any], mode: str, size: int | None) -> Row:
    """A row of a request, checked.

    Args:
        values: of the row, by column; missing where they are None or NaN.
        mode: predict or enrol.
        size: numbers of a profile; None for a model without enrolment.

    Raises:
        InputError: what is wrong with it, without a full stop.
    """
    cells = {name: value for name, value in values.items() if not (pd.api.types.is_scalar(value) and pd.isna(value))}
    if mode == "predict" and "audio" not in cells:
        raise InputError("audio is missing")
    audio = read_clip(cells["audio"], "audio") if mode == "predict" else None
    if size is None:
        return Row(audio, (), None)
    if mode == "enrol" and "enrolment" not in cells:
        raise InputError("enrolment is missing; mode=enrol takes a list of clips of the speaker")
    if mode == "predict" and {"enrolment", "profile"} <= set(cells):
        raise InputError("holds both enrolment and profile; send one of them")
    if "enrolment" in cells:
        return Row(audio, read_enrolment(cells["enrolment"]), None)
    return Row(audio, (), read_profile(cells["profile"], size) if "profile" in cells else None)


def read_enrolment(value: Any) -> tuple[Payload, ...]:
    """The clips that enrol a speaker, still encoded.

    Raises:
        InputError: the value is no list, holds too many clips or none, or one is no clip.
    """
    clips = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(clips, (list, tuple)) or not 1 <= len(clips) <= MAX_SHOTS:
        raise InputError(f"enrolment must be a list of 1 to {MAX_SHOTS} clips")
    return tuple(read_clip(clip, f"enrolment clip {number}") for number, clip in enumerate(clips, start=1))


def read_clip(value: Any, name: str) -> Payload:
    """A clip, still encoded: the bytes of a file, or their base64.

    Raises:
        InputError: the value is neither, or larger than `MAX_CLIP_BYTES`.
    """
    if not isinstance(value, (str, bytes)):
        raise InputError(f"{name} is neither base64 text nor bytes")
    if len(value) > (MAX_CLIP_BYTES if isinstance(value, bytes) else MAX_CLIP_BYTES * 3 // 2):
        raise InputError(f"{name} is larger than {MAX_CLIP_BYTES // 2**20} MiB")
    return value


def read_profile(value: Any, size: int) -> np.ndarray:
    """A profile in float32, (size,).

    Raises:
        InputError: the value is no list of so many finite numbers.
    """
    try:
        numbers = np.asarray(value)
    except ValueError:  # lists of different lengths
        numbers = np.empty(0, object)
    if numbers.ndim != 1 or numbers.dtype.kind not in "fiu" or len(numbers) != size:
        count = f", found {len(numbers)}" if numbers.ndim == 1 and numbers.dtype.kind in "fiu" else ""
        raise InputError(
            f"profile must be a list of {size} numbers{count}; send one that mode=enrol of this model gave"
        )
    with np.errstate(over="ignore"):
        vector: np.ndarray = numbers.astype(np.float32)
    if not np.isfinite(vector).all():
        raise InputError("profile holds a number that is not finite")
    return vector


def distinct_clips(rows: list[Row]) -> dict[Payload, str]:
    """The different clips of a request, and the place where each occurs first, for a sentence.

    Raises:
        InputError: there are too many.
    """
    places: dict[Payload, str] = {}
    for number, row in enumerate(rows):
        if row.audio is not None:
            places.setdefault(row.audio, f"row {number}: audio")
        for shot, clip in enumerate(row.enrolment, start=1):
            places.setdefault(clip, f"row {number}: enrolment clip {shot}")
    if len(places) > MAX_CLIPS:
        raise InputError(f"The request holds {len(places):,} different clips: send at most {MAX_CLIPS}.")
    return places


def refuse_problems(problems: list[str]) -> None:
    """Refuses a request that has problems.

    Raises:
        InputError: there are any; one sentence names them.
    """
    if problems:
        raise InputError(f"{listing(problems, NAMED, '; ')}.")
