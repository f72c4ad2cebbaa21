"""The served model: audio in, emotions out. MLflow runs this file when it loads a logged model.

A request is a table with one row a clip and up to three columns:

- `audio`: the clip, a file's bytes or their base64;
- `enrolment`: a list of such clips of the same speaker, or
- `profile`: the list of numbers that `mode=enrol` gave for that speaker.

With the param `mode=predict` (the default) the answer has a row a clip and a column an emotion; a row without enrolment
and profile is recognised with the typical speaker's. With `mode=enrol` the answer is the `profile` of each row's
`enrolment`, and `audio` is not looked at. A model without enrolment ignores both.

There is no input schema: MLflow would drop columns that it doesn't know, and so a misspelt `enrolment` in silence.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import soundfile
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, scoring_server
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from starlette.responses import Response

from exvo.config import InputError
from exvo.networks import Checkpoint, load
from exvo.prediction import enrol, outputs
from exvo.request import MAX_BODY, MODES, Payload, Row, check_body, decode, places, read_rows
from exvo.tasks import Task
from exvo.text import shown
from exvo.training import TrainingError

WEIGHTS = "best.safetensors"


class BadRequest(MlflowException):  # type: ignore[misc]
    """A request that can't be answered: status 400 and one sentence, without the data that MLflow puts before it."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, error_code=INVALID_PARAMETER_VALUE)

    def serialize_as_json(self) -> str:
        """The body of the response."""
        return json.dumps({"error_code": self.error_code, "message": self.args[0]})


def signature(task: Task) -> ModelSignature:
    """Param `mode`. Response: a column a target; for multitask also age (years) and country.

    Of a speaker recogniser the one column `speaker`.
    """
    columns = [ColSpec(DataType.double, target) for target in task.targets]
    if task.name == "speaker":
        columns.append(ColSpec(DataType.string, "speaker"))
    if task.name == "multitask":
        columns += [ColSpec(DataType.double, "age"), ColSpec(DataType.string, "country")]
    return ModelSignature(outputs=Schema(columns), params=ParamSchema([ParamSpec("mode", DataType.string, "predict")]))


def example(checkpoint: Checkpoint) -> pd.DataFrame:
    """A request of one clip, a tone as a WAV file in base64; for a personalised model with two clips that enrol."""
    clips = []
    for pitch in (220, 247, 262):  # Hz
        file = io.BytesIO()
        tone = 0.1 * np.sin(2 * np.pi * pitch * np.arange(2_000) / 8_000)
        soundfile.write(file, tone.astype(np.float32), 8_000, format="WAV", subtype="PCM_16")
        clips.append(base64.b64encode(file.getvalue()).decode())
    request: dict[str, list[Any]] = {"audio": clips[:1]}
    return pd.DataFrame(request | ({"enrolment": [clips[1:]]} if checkpoint.network.personalised else {}))


def answer(checkpoint: Checkpoint, request: Any, mode: str = "predict") -> pd.DataFrame:
    """The emotions of clips, or the profiles of speakers.

    Args:
        checkpoint: the network, on the CPU.
        request: one row a clip (mode predict) or a speaker (mode enrol), see the top of this file.
        mode: predict or enrol.

    Returns:
        For predict one row a clip: the intensity of each target; for multitask also age (years) and country. For enrol
        one row a speaker: `profile`, float32 numbers.

    Raises:
        InputError: names all rows that can't be used, up to `NAMED`, and why.
    """
    network = checkpoint.network
    if mode not in MODES:
        raise InputError(f"The param mode must be {' or '.join(MODES)}.")
    if mode == "enrol" and not network.personalised:
        raise InputError("This model takes no enrolment, so mode=enrol has no profile to give: leave it out.")
    rows = read_rows(request, mode, len(network.typical) if network.personalised else None)
    log_mels = decode(places(rows), checkpoint.features)
    profiles = speakers(rows, log_mels, checkpoint) if network.personalised else None
    if mode == "enrol":
        assert profiles is not None
        return pd.DataFrame({"profile": profiles.tolist()})
    clips = [log_mels[row.audio] for row in rows if row.audio is not None]
    try:
        return checkpoint.task.answers(outputs(checkpoint, clips, profiles))
    except TrainingError:
        raise InputError(
            "The outputs for these clips are not finite; if rows hold a profile, send one that mode=enrol gave."
        ) from None


def speakers(rows: list[Row], log_mels: Mapping[Payload, np.ndarray], checkpoint: Checkpoint) -> np.ndarray:
    """The profile of each row's speaker, (rows, profile): from its enrolment clips, as given, or the typical one."""
    found = np.tile(checkpoint.network.typical.numpy(), (len(rows), 1))
    enrolling = list(dict.fromkeys(clip for row in rows for clip in row.enrolment))
    embeddings = enrol(checkpoint, [log_mels[clip] for clip in enrolling]) if enrolling else None
    for number, row in enumerate(rows):
        if row.profile is not None:
            found[number] = row.profile
        elif row.enrolment:
            assert embeddings is not None
            found[number] = embeddings[[enrolling.index(clip) for clip in row.enrolment]].mean(axis=0)
    return found


def guarded(invocations: Callable[..., Any]) -> Callable[..., Any]:
    """MLflow's function that answers a request, with a sentence and status 400 for whatever it raises.

    By itself (3.17) it answers a request without content type, JSON with a number of more than 4,300 digits or lists
    nested too deep with status 500, and others with a traceback or all of what they sent. CSV and Parquet, which it
    also reads, are refused: a short file of either can ask for any amount of memory.
    """

    @functools.wraps(invocations)
    def answer_or_refuse(data: bytes, content_type: str | None, *others: Any) -> Any:
        kind = (content_type or "").split(";")[0].strip()
        if kind in (scoring_server.CONTENT_TYPE_CSV, scoring_server.CONTENT_TYPE_PARQUET):
            raise BadRequest(f"The request is {kind}: send {scoring_server.CONTENT_TYPE_JSON}.")
        try:
            if kind == scoring_server.CONTENT_TYPE_JSON:
                check_body(data)
            return invocations(data, content_type or "", *others)
        except BadRequest:
            raise
        except InputError as error:
            raise BadRequest(str(error)) from None
        except MlflowException as error:
            sentence = next(iter(error.message.rsplit("\nError: ", 1)[-1].splitlines()), "")
        except Exception as error:
            sentence = f"malformed JSON or table ({type(error).__name__})"
        raise BadRequest(f"The request can't be read: {shown(sentence, 200).rstrip('.')}.")

    return answer_or_refuse


def bounded(handled: Callable[..., Any]) -> Callable[..., Any]:
    """MLflow's wrapper of the function that reads a request, so that a body is read up to `MAX_BODY` bytes.

    A longer one gets status 413 and a sentence. By itself MLflow (3.17) keeps whatever is sent in memory.
    """

    @functools.wraps(handled)
    def wrap(respond: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        @functools.wraps(respond)
        async def read_and_respond(request: Any) -> Any:
            body, promised = bytearray(), request.headers.get("content-length", "0")
            if promised.isdecimal() and int(promised[:20]) <= MAX_BODY:
                async for part in request.stream():
                    body += part
                    if len(body) > MAX_BODY:
                        break
                else:
                    request._body = bytes(body)  # what request.body() then gives
                    return await respond(request)
            told = BadRequest(f"The request is larger than {MAX_BODY // 2**20} MiB: send fewer clips.")
            return Response(told.serialize_as_json(), status_code=413, media_type="application/json")

        wrapped: Callable[[Any], Awaitable[Any]] = handled(read_and_respond)
        return wrapped

    return wrap


class VocalBurstModel(PythonModel):  # type: ignore[misc]
    """What `mlflow.pyfunc.load_model` and `mlflow models serve` run."""

    def load_context(self, context: Any) -> None:
        """Reads the weights beside the model."""
        self.checkpoint = load(Path(context.artifacts["weights"]))
        in_server = scoring_server._SERVER_MODEL_PATH in os.environ
        if in_server and not hasattr(scoring_server.invocations, "__wrapped__"):
            scoring_server.invocations = guarded(scoring_server.invocations)
            scoring_server._async_catch_mlflow_exception = bounded(scoring_server._async_catch_mlflow_exception)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """See `answer`.

        Raises:
            BadRequest: the request can't be answered.
        """
        try:
            return answer(self.checkpoint, model_input, (params or {}).get("mode", "predict"))
        except InputError as error:
            raise BadRequest(str(error)) from None
        except Exception:
            logging.getLogger("exvo").exception("A request failed; this is a mistake in exvo, please report it.")
            raise


mlflow.models.set_model(VocalBurstModel())
