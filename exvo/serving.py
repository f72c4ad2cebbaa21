"""The served model: audio in, emotions out. MLflow runs this file when it loads a logged model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import soundfile
import torch
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from exvo.batches import Clips
from exvo.config import InputError
from exvo.features import log_mel, prepare, read_audio
from exvo.networks import Checkpoint, load
from exvo.tasks import Task
from exvo.training import predict

WEIGHTS = "best.safetensors"


def signature(task: Task) -> ModelSignature:
    """Request: `audio` (a file's bytes), or `waveform` (samples) and `rate` (Hz). Response: a column a target.

    Of a speaker recogniser the one column `speaker`.
    """
    inputs = [
        ColSpec(DataType.binary, "audio", required=False),
        ColSpec(Array(DataType.double), "waveform", required=False),
        ColSpec(DataType.long, "rate", required=False),
    ]
    outputs = [ColSpec(DataType.double, target) for target in task.targets]
    if task.name == "speaker":
        outputs.append(ColSpec(DataType.string, "speaker"))
    if task.name == "multitask":
        outputs += [ColSpec(DataType.double, "age"), ColSpec(DataType.string, "country")]
    return ModelSignature(Schema(inputs), Schema(outputs))


def example() -> pd.DataFrame:
    """A request of one clip: a second of a 220 Hz tone as a WAV file."""
    file = io.BytesIO()
    tone = 0.1 * np.sin(2 * np.pi * 220 * np.arange(16_000) / 16_000)
    soundfile.write(file, tone.astype(np.float32), 16_000, format="WAV", subtype="PCM_16")
    return pd.DataFrame({"audio": [file.getvalue()]})


def recognise(checkpoint: Checkpoint, request: pd.DataFrame) -> pd.DataFrame:
    """The emotions of clips.

    Args:
        checkpoint: the network.
        request: one row a clip, with the columns of `signature`.

    Returns:
        One row a clip: the intensity of each target; for multitask also age (years) and country.

    Raises:
        InputError: a row holds neither audio nor a waveform with its rate, or audio that can't be used.
    """
    features: dict[str, np.ndarray] = {}
    for row, clip in enumerate(request.to_dict("records")):
        audio, waveform, rate = (clip.get(name) for name in ("audio", "waveform", "rate"))
        if isinstance(audio, bytes):
            samples = read_audio(audio, checkpoint.features).waveform
        elif waveform is not None and np.ndim(waveform) >= 1 and rate is not None and rate > 0:
            samples = prepare(np.asarray(waveform, np.float32), int(rate), checkpoint.features)
        else:
            raise InputError(f"Row {row} holds neither `audio` (a file's bytes) nor `waveform` with its `rate` in Hz.")
        features[str(row)] = log_mel(torch.from_numpy(samples), checkpoint.features).numpy()
    task = checkpoint.task
    names = list(features)
    clips = Clips(names, names, features, np.zeros((len(names), 1)), checkpoint.fill)
    return task.answers(predict(checkpoint.network, clips, "cpu"))


class VocalBurstModel(PythonModel):  # type: ignore[misc]
    """What `mlflow.pyfunc.load_model` and `mlflow models serve` run."""

    def load_context(self, context: Any) -> None:
        """Reads the weights beside the model."""
        self.checkpoint = load(Path(context.artifacts["weights"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """See `recognise`."""
        return recognise(self.checkpoint, model_input)


mlflow.models.set_model(VocalBurstModel())
