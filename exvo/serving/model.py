"""The served model: audio in, emotions out. A logged model holds `exvo/tracking/logged_model.py`, which imports it.

A request is a table with one row a clip and up to three columns:

- `audio`: the clip, a file's bytes or their base64;
- `enrolment`: a list of such clips of the same speaker, or
- `profile`: the list of numbers that `mode=enrol` gave for that speaker.

With the param `mode=predict` (the default) the answer has a row a clip and a column an emotion; a row without enrolment
and profile is recognised with the typical speaker's. With `mode=enrol` the answer is the `profile` of each row's
`enrolment`, and `audio` is ignored. A model without enrolment ignores `enrolment` and `profile`.

With the param `sure` (0.8, say) the answer has a column more, `sure`: whether the first category of the clip has so
large a share that on validation it was right so often (in 80% of such clips).

The column `warnings` lists what of the clip the model may not have heard in training, in words: see `find_warnings`.

There is no input schema: with one, MLflow would drop unknown columns, for example a misspelt `enrolment`, in silence.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, scoring_server
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

from exvo.errors import InputError, TrainingError
from exvo.evaluation.selective import find_level
from exvo.networks.carried import ENCODER, Kept, with_encoder
from exvo.networks.checkpoint import Checkpoint, load_checkpoint
from exvo.reports.prediction import WARNINGS, with_warnings
from exvo.serving import installation
from exvo.serving.decoding import decode_clips
from exvo.serving.prediction import enrol_recordings, predict_recordings
from exvo.serving.request import (
    MODES,
    NO_TABLE,
    Payload,
    Row,
    check_body,
    distinct_clips,
    raise_if_given_up,
    read_rows,
    sure_number,
)
from exvo.serving.waveforms import audio_config, features_of, prepare_audio
from exvo.tasks import Task
from exvo.text import reason

MAX_PROFILE_RATIO = 1_000.0
"""A profile's largest number over `profile_extent`: clips differ by a factor of ten at most, mistakes by many powers of
ten."""

TABLES = ("dataframe_records", "dataframe_split")  # as MLflow's scoring server names them


class BadRequest(MlflowException):  # type: ignore[misc]
    """A request that can't be answered: status 400 and one sentence, without the request's data, which MLflow adds."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, error_code=INVALID_PARAMETER_VALUE)

    def serialize_as_json(self) -> str:
        """The body of the response."""
        return json.dumps({"error_code": self.error_code, "message": self.args[0]})


def signature(task: Task) -> ModelSignature:
    """The signature of a logged model: the params, and the columns of the response, see `answer_request`."""
    columns = [ColSpec(DataType.double, target) for target in task.targets]
    if task.name == "speaker":
        columns.append(ColSpec(DataType.string, "speaker"))
    if task.name == "multitask":
        columns += [ColSpec(DataType.double, "age"), ColSpec(DataType.string, "country")]
    if WARNINGS not in task.targets:
        columns.append(ColSpec(Array(DataType.string), WARNINGS))
    params = [ParamSpec("mode", DataType.string, "predict"), ParamSpec("sure", DataType.double, 0.0)]
    return ModelSignature(outputs=Schema(columns), params=ParamSchema(params))


def example_request(checkpoint: Checkpoint) -> pd.DataFrame:
    """A request of one clip, a tone as a WAV file in base64; for a personalised model also two clips that enrol."""
    clips = []
    for pitch in (220, 247, 262):  # Hz
        file = io.BytesIO()
        tone = 0.1 * np.sin(2 * np.pi * pitch * np.arange(2_000) / 8_000)
        soundfile.write(file, tone.astype(np.float32), 8_000, format="WAV", subtype="PCM_16")
        clips.append(base64.b64encode(file.getvalue()).decode())
    request: dict[str, list[Any]] = {"audio": clips[:1]}
    return pd.DataFrame(request | ({"enrolment": [clips[1:]]} if checkpoint.network.personalised else {}))


def answer_request(checkpoint: Checkpoint, request: Any, mode: str = "predict", sure: Any = 0.0) -> pd.DataFrame:
    """The emotions of clips, or the profiles of speakers.

    Args:
        checkpoint: the network, on the CPU.
        request: one row a clip (mode predict) or a speaker (mode enrol), see the top of this file.
        mode: predict or enrol.
        sure: how often an answer must be right to count as sure; 0: that is not asked.

    Returns:
        For predict one row a clip, as `Task.answers` gives it, and its `warnings`, a list of words. For enrol one row a
        speaker: `profile`, a list of numbers.

    Raises:
        InputError: the request can't be answered; names up to `NAMED` rows that can't be used, and why.
        GivenUp: nobody waits for the answer any more.
    """
    network = checkpoint.network
    if mode not in MODES:
        raise InputError(f"The param mode must be {' or '.join(MODES)}.")
    if mode == "enrol" and not network.personalised:
        raise InputError("This model takes no enrolment, so mode=enrol has no profile to give: leave it out.")
    wished = sure_number(sure)
    if mode == "enrol" and wished:
        raise InputError("mode=enrol gives profiles, which are not sure or unsure: leave the param sure out.")
    level = find_level(checkpoint.levels, checkpoint.task, wished) if wished else None
    rows = read_rows(request, mode, len(network.typical) if network.personalised else None)
    check_profiles(rows, checkpoint)
    compute = functools.partial(prepare_audio, checkpoint=checkpoint)
    prepared = decode_clips(distinct_clips(rows), audio_config(checkpoint), compute)
    features = {clip: each.features for clip, each in prepared.items()}
    profiles = row_profiles(rows, features, checkpoint) if network.personalised else None
    if mode == "enrol":
        assert profiles is not None
        return pd.DataFrame({"profile": profiles.tolist()})
    clips = [features[row.audio] for row in rows if row.audio is not None]
    try:
        outputs = predict_recordings(checkpoint, clips, profiles)
    except TrainingError:
        raise InputError(
            "The outputs for these clips are not finite; if rows hold a profile, send one that mode=enrol gave."
        ) from None
    answers = checkpoint.task.answers(outputs, checkpoint.temperature, level)
    words = [list(prepared[row.audio].warnings) for row in rows if row.audio is not None]
    return with_warnings(answers, words)


def check_profiles(rows: list[Row], checkpoint: Checkpoint) -> None:
    """Refuses profiles with numbers so large that no clip can have given them.

    Raises:
        InputError: names the first row whose profile exceeds `profile_extent` by more than `MAX_PROFILE_RATIO`.
    """
    for number, row in enumerate(rows):
        largest = 0.0 if row.profile is None else float(np.abs(row.profile).max())
        if largest <= MAX_PROFILE_RATIO:  # an extent is at least 1, and takes time
            continue
        usual = profile_extent(checkpoint)
        if largest > MAX_PROFILE_RATIO * usual:
            raise InputError(
                f"row {number}: profile holds numbers up to {largest:.3g}, where this model's lie around {usual:.3g}; "
                "send one that mode=enrol of this model gave."
            )


@functools.lru_cache(maxsize=4)
def profile_extent(checkpoint: Checkpoint) -> float:
    """The largest number of the profiles of noise, of a tone and of the typical speaker; at least 1."""
    rate = audio_config(checkpoint).sample_rate
    time = np.arange(rate) / rate  # s
    probes = np.random.default_rng(0).uniform(-1, 1, len(time)), np.sin(2 * np.pi * 440 * time)
    features = [features_of(probe.astype(np.float32), checkpoint) for probe in probes]
    profiles = enrol_recordings(checkpoint, features, [np.array([number]) for number in range(len(features))])
    return max(1.0, float(np.abs(profiles).max()), float(checkpoint.network.typical.abs().max()))


def row_profiles(rows: list[Row], features: Mapping[Payload, np.ndarray], checkpoint: Checkpoint) -> np.ndarray:
    """The profile of each row's speaker: from its enrolment clips, as sent, or the typical one.

    Args:
        rows: of the request.
        features: of each clip, see `features_of`.
        checkpoint: of a personalised network.

    Returns:
        (rows, profile).
    """
    enrolling = list(dict.fromkeys(clip for row in rows for clip in row.enrolment))
    lists = [np.array([enrolling.index(clip) for clip in row.enrolment], np.int64) for row in rows]
    profiles = enrol_recordings(checkpoint, [features[clip] for clip in enrolling], lists)
    for number, row in enumerate(rows):
        if row.profile is not None:
            profiles[number] = row.profile
    return profiles


def answer_body(checkpoint: Checkpoint, body: bytearray) -> str:
    """The answer to a request's body, both in the JSON of MLflow's scoring server. Empties the body to free its memory.

    Raises:
        InputError: the request can't be read or answered.
        GivenUp: nobody waits for the answer any more.
    """
    request = check_body(body)
    body.clear()
    params = request.get("params") or {}
    if not isinstance(params, dict):
        raise InputError("The request's params are no object: send mode or sure in one.")
    tables = {name: request[name] for name in TABLES if name in request}
    if len(tables) != 1:
        raise InputError(NO_TABLE)
    try:
        table = scoring_server.infer_and_parse_data(tables)
    except Exception as error:
        raise InputError(f"The request can't be read: {reason(error)}.") from None
    content = io.StringIO()
    answer = answer_request(checkpoint, table, params.get("mode", "predict"), params.get("sure", 0.0))
    scoring_server.predictions_to_json(answer, content)
    return content.getvalue()


class VocalBurstModel(PythonModel):  # type: ignore[misc]
    """The model that `mlflow.pyfunc.load_model` and `mlflow models serve` run.

    Args:
        kept: gives the encoder of a model that does not carry it.
    """

    def __init__(self, kept: Kept | None = None) -> None:
        self._kept = kept

    def load_context(self, context: Any) -> None:
        """Reads the weights beside the model, and in MLflow's scoring server installs the service."""
        weights = Path(context.artifacts["weights"])
        self.checkpoint = with_encoder(load_checkpoint(weights), weights.parent / ENCODER, "cpu", self._kept)
        network = self.checkpoint.network
        for encoder in filter(None, (network.encoder, network.enrolment_encoder)):
            encoder.register_forward_pre_hook(lambda *_: raise_if_given_up())
        if scoring_server._SERVER_MODEL_PATH in os.environ:
            seconds = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
            installation.install(functools.partial(answer_body, self.checkpoint), seconds)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The answer to a request, see `answer_request`.

        Raises:
            BadRequest: the request can't be answered.
        """
        try:
            mode, sure = (params or {}).get("mode", "predict"), (params or {}).get("sure", 0.0)
            return answer_request(self.checkpoint, model_input, mode, sure)
        except InputError as error:
            raise BadRequest(str(error)) from None
        except Exception:
            logging.getLogger("exvo").exception("A request failed; this is a mistake in exvo, please report it.")
            raise
