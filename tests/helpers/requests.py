"""Requests to the served model."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import soundfile
import torch

from exvo.batches.clips import Clips
from exvo.config import FeatureConfig
from exvo.features.audio import read_audio
from exvo.features.log_mel import log_mel
from exvo.networks.checkpoint import Checkpoint
from exvo.networks.inference import predict_clips

TARGETS = ["High", "Loud"]
FEATURES = FeatureConfig()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def tone(pitch: float, seconds: float = 0.4, kind: str = "WAV", **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(
        file, 0.3 * np.sin(np.arange(int(16_000 * seconds)) * pitch / 2_546), 16_000, format=kind, **options
    )
    return file.getvalue()


TONES = [tone(200 + 50 * number, 0.4 + 0.05 * (number % 3)) for number in range(8)]


def evaluated(checkpoint: Checkpoint, clips: list[bytes], enrolment: list[list[int]] | None) -> np.ndarray:
    """The outputs as `evaluate` computes them, from clips and the indices of those that enrol each."""
    mels = [log_mel(torch.from_numpy(read_audio(clip, FEATURES).waveform), FEATURES).numpy() for clip in clips]
    names = [str(number) for number in range(len(clips))]
    table = Clips(names, names, dict(zip(names, mels, strict=True)), np.zeros((len(names), 2)), "repeat")
    who = None if enrolment is None else [np.array(own, np.int64) for own in enrolment]
    return predict_clips(checkpoint.network, table, "cpu", who, protocol=checkpoint.protocol)


GOOD = text(TONES[0])
FAST = TONES[0][:24] + (2**31 - 1).to_bytes(4, "little") + TONES[0][28:]  # a header that promises 2 GHz
BAD_ROWS: list[tuple[list[dict[str, Any]], str]] = [
    ([{"audio": GOOD}, {"audio": "not base64!"}], r"^row 1: audio is not base64\.$"),
    ([{"audio": "é"}], "row 0: audio is not base64"),
    ([{"audio": GOOD[:-3]}], "row 0: audio is not base64"),
    ([{"audio": text(b"hello, this is no audio")}], r"row 0: audio can't be used: not audio \("),
    ([{"audio": text(TONES[0][:-900])}], "row 0: audio can't be used: truncated"),
    ([{"audio": ""}], "row 0: audio can't be used: empty file"),
    ([{"audio": text(tone(300, 61))}], "row 0: audio can't be used: longer than 60 s"),
    ([{"audio": text(tone(300, 0.01))}], "row 0: audio can't be used: shorter than"),
    ([{"audio": text(tone(0))}], "row 0: audio can't be used: silent"),
    ([{"audio": text(FAST)}], "row 0: audio can't be used: its sampling rate is 2,147,483,647 Hz"),
    (
        [{"audio": text(b"no %d" % number)} for number in range(64)],
        r"^(row \d: audio can't be used: [^;]*; ){9}row 9: [^;]*\.$",
    ),
    ([{"audio": 5}], "row 0: audio is neither base64 text nor bytes"),
    ([{"audio": [GOOD]}], "row 0: audio is neither base64 text nor bytes"),
    ([{"audio": None}], "row 0: audio is missing"),
    ([{"enrolment": [GOOD]}], "row 0: audio is missing"),
    ([{"audio": "?"}, {"audio": "!"}], r"^row 0: audio is not base64; row 1: audio is not base64\.$"),
    ([{"audio": GOOD, "enrolment": [GOOD, "?"]}], "row 0: enrolment clip 2 is not base64"),
    ([{"audio": GOOD, "enrolment": GOOD}], "row 0: enrolment must be a list of 1 to 16 clips"),
    ([{"audio": GOOD, "enrolment": []}], "row 0: enrolment must be a list of 1 to 16 clips"),
    ([{"audio": GOOD, "enrolment": [GOOD] * 17}], "row 0: enrolment must be a list of 1 to 16 clips"),
    ([{"audio": GOOD, "enrolment": [7]}], "row 0: enrolment clip 1 is neither base64 text nor bytes"),
    ([{"audio": GOOD, "enrolment": [GOOD], "profile": [0.0] * 26}], "row 0: holds both enrolment and profile"),
    ([{"audio": GOOD, "profile": [0.0] * 7}], "row 0: profile must be a list of 26 numbers, found 7"),
    ([{"audio": GOOD, "profile": ["0"] * 26}], "row 0: profile must be a list of 26 numbers;"),
    ([{"audio": GOOD, "profile": [[0.0], [0.0, 1.0]]}], "row 0: profile must be a list of 26 numbers;"),
    ([{"audio": GOOD, "profile": "x"}], "row 0: profile must be a list of 26 numbers;"),
    ([{"audio": GOOD, "profile": [10**400] * 26}], "row 0: profile must be a list of 26 numbers;"),
    ([{"audio": GOOD, "profile": [1e300] * 26}], "row 0: profile holds a number that is not finite"),
    ([{"audio": GOOD, "profile": [float("nan")] * 26}], "row 0: profile holds a number that is not finite"),
    ([{"audio": GOOD, "profile": [3e38] * 26}], r"row 0: profile holds numbers up to 3e\+38, where this model's lie"),
    ([{"audio": GOOD, "profile": [0.0] * 25 + [-1e18]}], r"row 0: profile holds numbers up to 1e\+18, where"),
    ([{"audio": GOOD, "enrollment": [GOOD]}], r"unknown columns \(enrollment\): send audio, enrolment, profile\."),
    ([{"audio": GOOD, "x" * 5000: 1}], r"unknown columns \(x{40}\.\.\.\)"),
    ([], "The request has 0 rows: send 1 to 64"),
    ([{"audio": GOOD}] * 1000, "The request has 1,000 rows: send 1 to 64"),
]
