"""Constants: of the signal, and of what options may say. The options themselves are in `exvo.settings`.

Imports nothing but the standard library, so that `--help` is instant.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass

from exvo.errors import InputError as InputError  # models that MLflow logged before look for it here

EMOTIONS = (
    "Awe",
    "Excitement",
    "Amusement",
    "Awkwardness",
    "Fear",
    "Horror",
    "Distress",
    "Triumph",
    "Sadness",
    "Surprise",
)
"""The ten emotions of ExVo 2022, in the order of the challenge's files."""

SPLITS = ("train", "val", "test")

TASKS = ("fewshot", "multitask", "speaker")
EMBEDDINGS = ("main", "enrolment")
CORPORA = ("sample", "hume-vb", "emogator", "table")
DEVICES = ("auto", "cpu", "cuda")
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "plateau", "cosine", "one-cycle")
OBJECTIVES = ("ccc", "mse", "cross-entropy")
BALANCES = ("none", "weights", "sampler")
SEARCHED = (
    "batch_size",
    "learning_rate",
    "width",
    "dropout",
    "optimizer",
    "schedule",
    "weight_decay",
    "label_smoothing",
    "warp",
    "spec_augment",
    "mixup",
    "clip_gradient",
)
"""The options that a study may search."""

MOST_MEMBERS = 100
"""Networks side by side: a model file can't ask for more memory than that."""

PROTOCOLS = ("published", "strict", "independent")
FEWEST_FOLDS = 3
"""One tests, one validates, one trains."""

SPEAKERS = "speakers"
"""The value of the option `folds` by which each speaker is a fold: leave one speaker out."""

POOLED = "folds"
"""What stands in the place of a split's name for the test clips of all folds of a cross-validation."""

ELSEWHERE = "elsewhere"
"""What stands in the place of a split's name for clips of another corpus than the one that a model has learnt from."""

MAX_SHOTS = 16
"""The most enrolment clips of a speaker."""

GATES = ("none", "not-worse", "better")

SAMPLE_EPOCHS = 3
"""What `epochs=auto` means for CNNs on the sample corpus: full-width CNN14 ends within five minutes on two cores."""


@dataclass(frozen=True)
class FeatureConfig:
    """Settings of the log-mel: those of the 16 kHz PANNs (Kong et al., arXiv 1912.10211), as in arXiv 2206.06680."""

    sample_rate: int = 16_000  # Hz
    window: int = 512  # samples of the Hann window, which is also the FFT's length
    hop: int = sample_rate // 100  # samples from a frame to the next: 10 ms
    bands: int = 64  # mel bands
    fmin: float = 50.0  # Hz
    fmax: float = sample_rate / 2  # Hz
    floor: float = 1e-10  # power below which a band counts as silent: -100 dB
    min_samples: int = window // 2 + 1  # the fewest for a centred window with reflect padding
    max_seconds: float = 60.0  # a longer file is not a vocal burst

    def frames(self, samples: int) -> int:
        """The frames of a clip: 1 + samples // hop for an even window."""
        return 1 + (samples + 2 * (self.window // 2) - self.window) // self.hop

    def seconds(self, frames: int) -> float:
        """The duration of so many frames."""
        return frames * self.hop / self.sample_rate

    @property
    def floor_db(self) -> float:
        """The floor in dB."""
        return 10.0 * math.log10(self.floor)

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with any setting."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


CROP_SECONDS = 2.5
"""The length of a training crop (arXiv 2206.06680)."""

CROP_FRAMES = round(CROP_SECONDS * FeatureConfig.sample_rate / FeatureConfig.hop)
"""The same in frames: 250."""

CNN14_FRAMES = 2**5
"""The fewest frames that CNN14 can take, since five poolings halve them; a shorter clip is filled."""
