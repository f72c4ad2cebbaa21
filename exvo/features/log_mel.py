"""Waveform -> log-mel spectrogram in dB: `log_mel` in PyTorch, for serving; `LogMel` in NumPy, for extraction.

Both use the same settings, window and mel filterbank, and a Fourier transform in float64; their results agree within
1e-4 dB, which the tests check. The rest is written twice, since each side needs what the other can't give:

- Extraction runs in forked processes, where PyTorch's threads may hang, and computes thousands of clips one after the
  other. `LogMel` uses NumPy alone, keeps its buffers from clip to clip, writes straight into the shard that will be
  stored, and skips the zeros of the filterbank.
- Serving answers in several threads at once, on whatever device, and for a batch at a time. `log_mel` keeps nothing
  between calls and leaves the work to PyTorch.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from exvo.config import FeatureConfig
from exvo.features.containers import AudioError
from exvo.features.shards import Features

GROUP = 16  # neighbouring bands computed in one product, of the frequencies that they use: the others weigh 0
FRAMES = 256  # transformed at a time: their spectra fit into a core's cache


def log_mel(waveform: Tensor, config: FeatureConfig) -> Tensor:
    """The log-mel spectrogram in dB, as the 16 kHz PANNs had it (arXiv 1912.10211); on the waveform's device.

    A Hann window of `config.window` samples, centred with reflect padding; power; Slaney mel bands;
    10 log10(max(power, floor)). It computes in float64: in float32 a band 60 dB below the frame's loudest is off by
    up to 0.04 dB in real clips. Autocast and TF32 don't touch float64.

    Args:
        waveform: (samples,) or (batch, samples) at `config.sample_rate`.
        config: feature settings.

    Returns:
        float32 (frames, bands) or (batch, frames, bands), dB; `config.frames` gives the number of frames.

    Raises:
        AudioError: fewer than `config.min_samples` samples.
    """
    if waveform.shape[-1] < config.min_samples:
        raise AudioError(f"shorter than {config.min_samples / config.sample_rate:.3f} s")
    window, filterbank = _tables(config, waveform.device)
    half = config.window // 2
    batch = waveform.double().reshape(-1, waveform.shape[-1])
    padded = torch.nn.functional.pad(batch, (half, half), mode="reflect")
    spectrum = torch.fft.rfft(padded.unfold(-1, config.window, config.hop) * window)  # (batch, frames, bins)
    power = spectrum.real.square() + spectrum.imag.square()
    decibels: Tensor = (power @ filterbank).float().clamp(min=config.floor).log10() * 10.0
    return decibels.reshape(*waveform.shape[:-1], *decibels.shape[-2:])


class LogMel:
    """Log-mel spectrograms of one clip after the other, on the CPU, in NumPy; equal to `log_mel` within 1e-4 dB.

    The transform is in float64, as in `log_mel`; the powers, which are sums of squares, are in float32. It keeps its
    buffers, so each thread needs an instance of its own.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self.features = Features.of_log_mel(config)
        self._window, self._groups = _tables(config, torch.device("cpu"))[0].numpy(), _groups(config)
        bins = config.window // 2 + 1
        self._windowed = np.empty((FRAMES, config.window))
        self._spectrum = np.empty((FRAMES, bins), np.complex128)
        self._squares = np.empty((FRAMES, 2 * bins), np.float32)  # of real and imaginary parts, alternating
        self._power = np.empty((FRAMES, bins), np.float32)

    def __reduce__(self) -> tuple[type[LogMel], tuple[FeatureConfig]]:
        """How it is pickled: without its buffers."""
        return LogMel, (self.config,)

    @property
    def most(self) -> int:
        """The numbers of the longest clip's log-mel."""
        return (
            self.config.frames(math.ceil(self.config.max_seconds * self.config.sample_rate)) + 1
        ) * self.config.bands

    def shape(self, samples: int) -> tuple[int, int]:
        """(frames, bands) of a clip of so many samples."""
        return self.config.frames(samples), self.config.bands

    def __call__(self, waveform: np.ndarray, decibels: np.ndarray) -> None:
        """Computes the log-mel of a clip into an array.

        Args:
            waveform: float32 (samples,) at `config.sample_rate`, as `read_audio` gives it.
            decibels: float32 (frames, bands), which is overwritten; `config.frames` gives the number of frames.
        """
        half, hop = self.config.window // 2, self.config.hop
        padded = np.empty(len(waveform) + 2 * half)
        padded[:half], padded[half:-half], padded[-half:] = waveform[half:0:-1], waveform, waveform[-2 : -half - 2 : -1]
        shape = len(decibels), self.config.window
        framed = np.ndarray(shape, padded.dtype, padded, strides=(hop * padded.itemsize, padded.itemsize))
        for first in range(0, len(framed), FRAMES):
            block = slice(first, first + FRAMES)
            self._mel(framed[block], decibels[block])
        np.log10(np.maximum(decibels, np.float32(self.config.floor), out=decibels), out=decibels)
        decibels *= np.float32(10.0)

    def _mel(self, framed: np.ndarray, mel: np.ndarray) -> None:
        """Computes the power of each band of at most `FRAMES` frames, (frames, window), into `mel`, (frames, bands)."""
        count = len(framed)
        windowed, spectrum = self._windowed[:count], self._spectrum[:count]
        np.fft.rfft(np.multiply(framed, self._window, out=windowed), out=spectrum)
        squares = self._squares[:count]
        squares[:] = spectrum.view(np.float64)
        np.square(squares, out=squares)
        power = np.add(squares[:, ::2], squares[:, 1::2], out=self._power[:count])
        for bins, bands, weights in self._groups:
            np.matmul(power[:, bins], weights, out=mel[:, bands])


@lru_cache(maxsize=8)
def _groups(config: FeatureConfig) -> list[tuple[slice, slice, np.ndarray]]:
    """The filterbank in groups of neighbouring bands: the bins that they use, the bands, the weights (bins, bands)."""
    groups = []
    for first in range(0, config.bands, GROUP):
        weights = mel_filterbank(config)[:, first : first + GROUP].astype(np.float32)
        used = np.flatnonzero(weights.any(axis=1))
        bins = slice(used[0], used[-1] + 1) if len(used) else slice(0, 1)
        groups.append((bins, slice(first, first + weights.shape[1]), np.ascontiguousarray(weights[bins])))
    return groups


def mel_filterbank(config: FeatureConfig) -> np.ndarray:
    """The weights of the mel bands, float64 (bins, bands): triangles of equal area, evenly spaced on the Slaney scale.

    torchaudio.functional.melscale_fbanks computes them in float32, where the smallest are wrong by up to 0.3%.
    """
    mels = np.linspace(_hz_to_mel(config.fmin), _hz_to_mel(config.fmax), config.bands + 2)
    edges = np.where(mels < 15.0, mels * 200 / 3, 1000.0 * 6.4 ** ((mels - 15.0) / 27.0))  # Hz
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.fft.rfftfreq(config.window, 1 / config.sample_rate)[:, None]
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    weights: np.ndarray = np.maximum(triangles, 0.0) * 2.0 / (high - low)
    return weights


def _hz_to_mel(hertz: float) -> float:
    """A frequency on Slaney's mel scale: linear up to 1 kHz (15 mel), above it 27 mel for each factor of 6.4."""
    return hertz * 3 / 200 if hertz < 1000.0 else 15.0 + 27.0 * math.log(hertz / 1000.0, 6.4)


@lru_cache(maxsize=8)
def _tables(config: FeatureConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """The window (window,) and the filterbank (bins, bands), float64."""
    window = torch.hann_window(config.window, dtype=torch.float64, device=device)
    return window, torch.from_numpy(mel_filterbank(config)).to(device)
