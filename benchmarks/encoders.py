"""An audio encoder of Hugging Face of WavLM-base's size, with random weights: clips in batches, and one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import transformers

from benchmarks.timing import Row, compare
from exvo.devices import resolve_device
from exvo.features.encoders import load_encoder

CLIPS = {"cpu": 16, "cuda": 400}


def rows(waveforms: Sequence[np.ndarray], scratch: Path) -> Iterator[Row]:
    """The states of clips in batches, against those of one clip at a time on the same device.

    Args:
        waveforms: float32 (samples,) at 16 kHz each.
        scratch: a folder, for the encoder.
    """
    transformers.WavLMModel(transformers.WavLMConfig()).save_pretrained(scratch / "wavlm")
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(scratch / "wavlm")
    encoder = load_encoder(str(scratch / "wavlm"), resolve_device("auto"))
    clips = waveforms[: CLIPS[encoder.device]]

    def one_at_a_time() -> None:
        for clip in clips:
            encoder.states([clip])

    what = f"states of an encoder of WavLM-base's size, random weights, {len(clips)} clips, {encoder.device}"
    result = compare(what, lambda: encoder.states(clips), one_at_a_time, "one clip at a time")
    seconds = result["also"]["seconds"]  # type: ignore[index]
    yield result | {"also": {"clips a second": len(clips) / seconds, "seconds": seconds}}
