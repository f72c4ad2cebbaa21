"""The obvious way of doing what exvo does: what `make bench` measures it against."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.files import Files
from exvo.config import CROP_FRAMES, FeatureConfig
from exvo.evaluation.metrics import ccc
from exvo.networks.cnn import channels
from exvo.training.objectives import ccc_loss

FEATURES = FeatureConfig()


def mel_spectrogram() -> torchaudio.transforms.MelSpectrogram:
    """torchaudio's, with the settings of the 16 kHz PANNs."""
    return torchaudio.transforms.MelSpectrogram(
        FEATURES.sample_rate,
        n_fft=FEATURES.window,
        hop_length=FEATURES.hop,
        f_min=FEATURES.fmin,
        f_max=FEATURES.fmax,
        n_mels=FEATURES.bands,
        norm="slaney",
        mel_scale="slaney",
    )


def extract(folder: Path, files: Sequence[str], target: Path) -> None:
    """One clip at a time: soundfile, torchaudio's resampler and MelSpectrogram, one `.npy` a clip."""
    mel = mel_spectrogram()
    for number, file in enumerate(files):
        samples, rate = soundfile.read(folder / file, dtype="float32", always_2d=True)
        waveform = torchaudio.functional.resample(torch.from_numpy(samples.mean(axis=1)), rate, FEATURES.sample_rate)
        np.save(target / f"{number}.npy", 10 * mel(waveform).clamp(min=FEATURES.floor).log10().T.numpy())


def transform(path: Path) -> None:
    """Decoding and one FFT a frame, float64 as in `exvo.features.log_mel`: the least that a log-mel costs."""
    padded = np.pad(soundfile.read(path)[0], FEATURES.window // 2, mode="reflect")
    np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, FEATURES.window)[:: FEATURES.hop])


class CNN(nn.Module):
    """CNN10 or CNN14 as one would write it down: float32, channels first."""

    def __init__(self, encoder: str, outputs: int) -> None:
        super().__init__()
        blocks, before = [], 1
        for after in channels(encoder, 1.0):
            block: list[nn.Module] = []
            for inputs in (before, after):
                block += [nn.Conv2d(inputs, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            blocks.append(nn.Sequential(*block))
            before = after
        self.bn0, self.blocks = nn.BatchNorm2d(FEATURES.bands), nn.ModuleList(blocks)
        self.fc, self.output = nn.Linear(before, before), nn.Linear(before, outputs)

    def forward(self, log_mel: Tensor) -> Tensor:
        """(batch, frames, bands) -> (batch, outputs)."""
        x = self.bn0(log_mel.unsqueeze(1).transpose(1, 3)).transpose(1, 3)
        for number, block in enumerate(self.blocks):
            x = block(x)
            x = functional.dropout(functional.avg_pool2d(x, 2) if number < 5 else x, 0.2, self.training)
        x = x.mean(dim=3)
        answer: Tensor = self.output(functional.relu(self.fc(x.amax(dim=2) + x.mean(dim=2))))
        return answer


def epoch(network: CNN, files: Files, training: Sequence[str], held_out: Sequence[str], labels: Tensor) -> None:
    """Training in batches of 32 random crops, then validation, one clip at a time."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9)
    network.train()
    generator = np.random.default_rng(0)
    order = generator.permutation(len(training))
    for start in range(0, len(order), 32):
        chosen = order[start : start + 32]
        crops = []
        for clip in chosen:
            log_mel = files[training[clip]]
            first = generator.integers(max(len(log_mel) - CROP_FRAMES, 0) + 1)
            crops.append(np.resize(log_mel[first:], (CROP_FRAMES, FEATURES.bands)))
        loss = ccc_loss(labels[chosen], network(torch.from_numpy(np.stack(crops)))).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.eval()
    with torch.no_grad():
        for content in held_out:
            network(torch.from_numpy(files[content])[None])


def loop(
    encoder: str, folder: Path, training: Sequence[str], held_out: Sequence[str], labels: np.ndarray
) -> Callable[[], None]:
    """`epoch` of a new network on one `.npy` a clip, to be called again and again."""
    network, files, truth = CNN(encoder, labels.shape[1]), Files(folder), torch.from_numpy(labels).float()
    return lambda: epoch(network, files, training, held_out, truth)


def interval(truth: np.ndarray, prediction: np.ndarray, resamples: Sequence[np.ndarray]) -> np.ndarray:
    """The 95% interval of the mean CCC from a loop over resamples, each the indices of its clips."""
    means = [np.mean(ccc(truth[rows], prediction[rows])) for rows in resamples]
    ends: np.ndarray = np.percentile(means, [2.5, 97.5])
    return ends


def wav(seconds: float) -> str:
    """A clip of noise in base64, as a request holds it."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, int(seconds * FEATURES.sample_rate))
    soundfile.write(file, noise, FEATURES.sample_rate, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()
