"""Audio encoders of Hugging Face: a waveform -> hidden states of all layers, pooled over time.

Each clip gets the numbers that it has alone, whatever else is in its batch. So a clip is prepared alone; convolutions
over the waveform see it alone, since group norm (WavLM, HuBERT, wav2vec 2.0 of base size) would take in the padding;
and only transformers see clips padded to one length, with a mask.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.containers import AudioError
from exvo.features.encoder_files import PREPROCESSING, WEIGHTS, Loaded, digest, folder_of, load
from exvo.features.shards import Features
from exvo.text import reason

KIND = "states"
RATE = FeatureConfig.sample_rate
POOLING = 1  # version of the pooling; part of the key
MAX_FRAMES = {"cpu": 4_000, "cuda": 16_000}  # in a batch, padding included: bounds the memory
WINDOW, HOP = 400, 160  # samples, of the log-mels that w2v-BERT and AST are given

_SAMPLES: ContextVar[Sequence[int]] = ContextVar("samples")  # of each clip of the batch that this thread computes


def load_encoder(source: str, device: str) -> AudioEncoder:
    """An encoder by its folder, or by its name on the hub of Hugging Face, `<owner>/<name>[@<revision>]`.

    Args:
        source: the folder or the name.
        device: cpu or cuda.

    Raises:
        InputError: it can't be had, is no audio encoder, lacks its preprocessing, or its weights are damaged, pickles,
            or do not fit its settings.
    """
    folder = folder_of(source)
    encoder = AudioEncoder(load(folder), source, device)
    try:
        encoder.pooled([np.zeros(RATE, np.float32)])
    except Exception as error:  # sizes of others fit each other or fail in any way
        raise InputError(
            f"{folder}: {PREPROCESSING} does not fit the encoder ({reason(error)}); copy both from the same place."
        ) from None
    return encoder


def _of_files(files: dict[str, bytes], source: str, device: str) -> AudioEncoder:
    """An encoder from the names and contents of its files, see `load_encoder`."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        return AudioEncoder(load(Path(folder)), source, device)


class AudioEncoder:
    """An encoder whose hidden states are features.

    Attributes:
        source: the folder or the name from which it was loaded.
        device: cpu or cuda.
        key: SHA-256 of weights, settings, preprocessing and pooling; the same wherever the encoder comes from.
        features: what `states` gives: float16 (layers, numbers); layers are the input's and each layer's hidden
            states, numbers their means, then their standard deviations over time.
        longest: the most samples of a clip; None: any number.
    """

    def __init__(self, loaded: Loaded, source: str, device: str) -> None:
        self.source, self.device = source, device
        self._model, self._extractor, self._kind = loaded
        self.key = digest(loaded, POOLING)
        config = self._model.config
        self._shortest, self.longest = _limits(loaded)
        if hasattr(self._model, "feature_extractor"):
            _convolve_each_alone(self._model.feature_extractor)
        self._model.to(device)
        warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")  # of PyTorch, for WavLM's masks
        layers, size = config.num_hidden_layers + 1, config.hidden_size
        settings = {
            "type": self._kind,
            "layers": layers,
            "size": size,
            "rate": RATE,
            "pooling": "mean, standard deviation",
            "version": POOLING,
        }
        self.features = Features(KIND, self.key, "float16", (layers, 2 * size), settings)

    def states(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray | AudioError]:
        """The states of clips, in their order.

        A clip shorter than what gives one frame (25 ms, for w2v-BERT 35 ms) is repeated until it is as long. Means and
        standard deviations (ddof 0) are over the clip's own frames; of AST's patches those whose time begins within
        the clip count, over all frequencies, and its two class tokens don't.

        Args:
            waveforms: float32 (samples,) at 16 kHz each.

        Returns:
            Of each clip float16 (layers, numbers), as `features` says; or why it has none: it is longer than what the
            encoder takes (Whisper 30 s, AST 10 s), or its states exceed what float16 holds.
        """
        found: dict[int, np.ndarray | AudioError] = {}
        fitting = []
        for number, waveform in enumerate(waveforms):
            if self.longest and len(waveform) > self.longest:
                found[number] = AudioError(f"longer than the {self.longest / RATE:.1f} s that {self._kind} takes")
            else:
                fitting.append(number)
        for batch in self._batches(fitting, [len(waveform) for waveform in waveforms]):
            clips = [np.resize(clip, max(len(clip), self._shortest)) for clip in (waveforms[n] for n in batch)]
            for number, states in zip(batch, self.pooled(clips), strict=True):
                found[number] = _half(states)
        return [found[number] for number in range(len(waveforms))]

    def pooled(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The states of a batch as float32; each clip is long enough and none too long, see `states`."""
        inputs = self._inputs([self._prepared(clip) for clip in clips], [len(clip) for clip in clips])
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            _SAMPLES.set([len(clip) for clip in clips])
            output = self._model(**inputs, output_hidden_states=True)
            pooled = []
            for place, clip in enumerate(clips):
                hidden = torch.stack([layer[place] for layer in output.hidden_states])  # (layers, frames, size)
                own = self._own_frames(hidden, len(clip))
                deviation, mean = torch.std_mean(own, dim=1, correction=0)
                pooled.append(torch.cat([mean, deviation], dim=1).cpu().numpy())
        return pooled

    def save(self, folder: str | Path) -> None:
        """Writes what `load_encoder` needs to give the same encoder without the hub; no head and no decoder.

        Args:
            folder: into which config.json, preprocessor_config.json and model.safetensors are written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.cpu().contiguous() for name, tensor in self._model.state_dict().items()}
        save_file(weights, folder / WEIGHTS, {"format": "pt"})
        self._model.config.save_pretrained(folder)
        (folder / PREPROCESSING).write_text(self._extractor.to_json_string(), encoding="utf-8")

    def __reduce__(self) -> tuple[Callable[..., AudioEncoder], tuple[dict[str, bytes], str, str]]:
        """How it is pickled: as the files that `save` writes."""
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        return _of_files, (files, self.source, self.device)

    def _batches(self, numbers: Sequence[int], samples: Sequence[int]) -> Iterator[list[int]]:
        """The clips in batches of similar length.

        The positional convolutions of data2vec, several one after the other, carry padding into a clip: its batches
        are of equal length.
        """
        tokens = {number: self._tokens(max(samples[number], self._shortest)) for number in numbers}
        batch: list[int] = []
        for number in sorted(numbers, key=tokens.__getitem__):
            full = tokens[number] * (len(batch) + 1) > MAX_FRAMES[self.device]
            other = self._kind == "data2vec-audio" and tokens[number] != tokens[(batch or [number])[0]]
            if batch and (full or other):
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _prepared(self, clip: np.ndarray) -> Tensor:
        """What the encoder is given of a clip, on its device: waveform (samples,) or (frames, bands) or, for Whisper,
        (bands, frames)."""
        prepared = self._extractor(clip, sampling_rate=RATE, return_tensors="np")
        values = prepared[self._model.main_input_name][0]
        return torch.from_numpy(np.asarray(values, np.float32)).to(self.device)

    def _inputs(self, prepared: Sequence[Tensor], samples: Sequence[int]) -> dict[str, Tensor]:
        """The encoder's arguments: the clips padded to one length and, where lengths may differ, a mask."""
        batch = pad_sequence(list(prepared), batch_first=True)
        inputs = {self._model.main_input_name: batch}
        if self._kind not in ("whisper", "audio-spectrogram-transformer"):
            lengths = [self._tokens(n) for n in samples] if self._kind == "wav2vec2-bert" else list(samples)
            places = torch.arange(batch.shape[1], device=batch.device)
            inputs["attention_mask"] = (places < torch.tensor(lengths, device=batch.device)[:, None]).long()
        return inputs

    def _tokens(self, samples: int) -> int:
        """The frames that the transformer computes for a clip of so many samples; for AST all patches, class tokens
        left out."""
        config = self._model.config
        if self._kind == "whisper":
            return int(config.max_source_positions)
        if self._kind == "audio-spectrogram-transformer":
            return math.prod(_patches(config))
        if self._kind == "wav2vec2-bert":
            return _mel_frames(samples) // int(self._extractor.stride)
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def _own_frames(self, hidden: Tensor, samples: int) -> Tensor:
        """Those of the hidden states of a clip, (layers, frames, size), that stand for its samples, not for filling."""
        if self._kind == "whisper":
            return hidden[:, : math.ceil(samples / (2 * self._extractor.hop_length))]
        if self._kind == "audio-spectrogram-transformer":
            bands, times = _patches(self._model.config)
            own = math.ceil(_mel_frames(samples) / self._model.config.time_stride)
            grid = hidden[:, -bands * times :].reshape(len(hidden), bands, times, -1)
            return grid[:, :, :own].flatten(1, 2)
        return hidden[:, : self._tokens(samples)]


def _convolve_each_alone(convolutions: Any) -> None:
    """Has a module convolve each waveform of a batch without its padding: (batch, samples) -> (batch, channels,
    frames), padded with zeros."""
    forward: Callable[[Tensor], Tensor] = convolutions.forward

    def each_alone(waveforms: Tensor) -> Tensor:
        each = [forward(waveform[None, :n])[0].T for waveform, n in zip(waveforms, _SAMPLES.get(), strict=True)]
        return pad_sequence(each, batch_first=True).transpose(1, 2)

    convolutions.forward = each_alone


def _limits(loaded: Loaded) -> tuple[int, int | None]:
    """The fewest samples that give a frame, and the most that the encoder takes."""
    config, extractor = loaded.model.config, loaded.extractor
    if loaded.kind == "whisper":
        return 1, int(extractor.n_samples)
    if loaded.kind == "audio-spectrogram-transformer":
        return WINDOW, WINDOW + (int(extractor.max_length) - 1) * HOP
    if loaded.kind == "wav2vec2-bert":
        return WINDOW + (int(extractor.stride) - 1) * HOP, None
    fewest = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        fewest = (fewest - 1) * stride + kernel
    return fewest, None


def _mel_frames(samples: int) -> int:
    """The frames of the log-mel that w2v-BERT and AST are given."""
    return 1 + (samples - WINDOW) // HOP


def _patches(config: Any) -> tuple[int, int]:
    """How many patches AST cuts its log-mel into: over frequency, over time."""
    bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    return bands, (config.max_length - config.patch_size) // config.time_stride + 1


def _half(states: np.ndarray) -> np.ndarray | AudioError:
    """States as float16, or what is wrong with them."""
    largest = np.abs(states).max()
    if not largest <= np.finfo(np.float16).max:  # NaN too
        return AudioError(f"its states in the encoder reach {largest:.3g}, more than float16 holds")
    return states.astype(np.float16)
