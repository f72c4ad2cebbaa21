"""Waveform -> log-mel spectrogram in dB."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from exvo.config import FeatureConfig
from exvo.features.containers import AudioError

GROUP = 16  # bands weighted at a time: most of the filterbank is zeros
FRAMES = 256  # transformed at a time: their spectra fit a core's cache


def log_mel(waveform: Tensor, config: FeatureConfig) -> Tensor:
    """Log-mel spectrogram in dB, as the 16 kHz PANNs had it (arXiv 1912.10211); on the waveform's device.

    A Hann window of `config.window` samples, centred with reflect padding; power; Slaney mel bands;
    10 log10(max(power, floor)). It computes in float64: in float32 a band 60 dB below the frame's loudest is off by
    up to 0.04 dB in real clips. Float64 is also out of reach of autocast and TF32.

    Args:
        waveform: (samples,) or (batch, samples) at `config.sample_rate`.

    Returns:
        float32 (frames, bands) or (batch, frames, bands), with frames = 1 + samples // hop.

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
    """`log_mel` of one clip after the other on the CPU, in NumPy alone, which a forked process may use.

    The transform is float64 as there; the powers, which are sums of squares, are float32. It gives what `log_mel` does
    within 1e-4 dB. It keeps its buffers, so each thread needs its own.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self._window, self._groups = _tables(config, torch.device("cpu"))[0].numpy(), _groups(config)
        bins = config.window // 2 + 1
        self._windowed = np.empty((FRAMES, config.window))
        self._spectrum = np.empty((FRAMES, bins), np.complex128)
        self._squares = np.empty((FRAMES, 2 * bins), np.float32)  # of real and imaginary parts in turn
        self._power = np.empty((FRAMES, bins), np.float32)

    def frames(self, samples: int) -> int:
        """Of a clip's log-mel."""
        return 1 + (samples + 2 * (self.config.window // 2) - self.config.window) // self.config.hop

    def __call__(self, waveform: np.ndarray, decibels: np.ndarray) -> None:
        """float32 (samples,) at `config.sample_rate`, as `read_audio` gives it -> into float32 (frames, bands), dB."""
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
        """(frames, window) -> the power of each band, into `mel` (frames, bands); at most `FRAMES`."""
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
    """The filterbank in groups of neighbouring bands: the bins that they use, the bands, float32 (bins, bands)."""
    groups = []
    for first in range(0, config.bands, GROUP):
        weights = mel_filterbank(config)[:, first : first + GROUP].astype(np.float32)
        used = np.flatnonzero(weights.any(axis=1))
        bins = slice(used[0], used[-1] + 1) if len(used) else slice(0, 1)
        groups.append((bins, slice(first, first + weights.shape[1]), np.ascontiguousarray(weights[bins])))
    return groups


def mel_filterbank(config: FeatureConfig) -> np.ndarray:
    """Triangles of equal area, evenly spaced on the Slaney mel scale: float64 (bins, bands).

    torchaudio.functional.melscale_fbanks computes it in float32, where the smallest weights are wrong by up to 0.3%.
    """
    mels = np.linspace(_hz_to_mel(config.fmin), _hz_to_mel(config.fmax), config.bands + 2)
    edges = np.where(mels < 15.0, mels * 200 / 3, 1000.0 * 6.4 ** ((mels - 15.0) / 27.0))  # Hz
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.fft.rfftfreq(config.window, 1 / config.sample_rate)[:, None]
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    weights: np.ndarray = np.maximum(triangles, 0.0) * 2.0 / (high - low)
    return weights


def _hz_to_mel(hertz: float) -> float:
    """Slaney's scale: linear below 1 kHz (15 mel), 27 mel for each factor of 6.4 above."""
    return hertz * 3 / 200 if hertz < 1000.0 else 15.0 + 27.0 * math.log(hertz / 1000.0, 6.4)


@lru_cache(maxsize=8)
def _tables(config: FeatureConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """The window (window,) and the filterbank (bins, bands), float64."""
    window = torch.hann_window(config.window, dtype=torch.float64, device=device)
    return window, torch.from_numpy(mel_filterbank(config)).to(device)
