"""Encoders: CNN10 and CNN14, the PANNs (Kong et al., arXiv 1912.10211) without their waveform front end, and CNN5."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from exvo.config import FeatureConfig

CHANNELS = {
    "cnn5": (64, 256, 1024),
    "cnn10": (64, 128, 256, 512),
    "cnn14": (64, 128, 256, 512, 1024, 2048),
}
BANDS = FeatureConfig().bands


def channels(encoder: str, width: float) -> tuple[int, ...]:
    """Channels of each block at that width, at least 4; the last is the embedding's size.

    >>> channels("cnn10", 1.0), channels("cnn10", 0.25)
    ((64, 128, 256, 512), (16, 32, 64, 128))
    """
    return tuple(max(4, round(count * width)) for count in CHANNELS[encoder])


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm and ReLU. Submodules carry the names of the PANNs' weights."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        for convolution in (self.conv1, self.conv2):
            nn.init.xavier_uniform_(convolution.weight)

    def forward(self, x: Tensor, pool: bool) -> Tensor:
        """The block's maps: (batch, in_channels, frames, bands) -> (batch, out_channels, frames, bands).

        With pooling, half of the frames and bands.
        """
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = functional.relu(self.bn2(self.conv2(x)), inplace=True)
        return functional.avg_pool2d(x, 2) if pool else x


class PANN(nn.Module):
    """CNN10 (4 blocks) or CNN14 (6 blocks), up to the embedding. Weights carry the names of the published files.

    Args:
        encoder: cnn10 or cnn14.
        width: multiplier of the channels; 1 is the paper's.
        dropout: probability after each block.
    """

    def __init__(self, encoder: str, width: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        self.channels = channels(encoder, width)
        self.size = self.channels[-1]
        self.poolings = min(len(self.channels), 5)
        self.dropout = dropout
        self.bn0 = nn.BatchNorm2d(BANDS)
        for number, (before, after) in enumerate(zip((1, *self.channels), self.channels, strict=False), start=1):
            self.add_module(f"conv_block{number}", ConvBlock(before, after))
        self.fc1 = make_linear(self.channels[-1], self.channels[-1])
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    frame_step = 1

    @property
    def min_frames(self) -> int:
        """Frames that the poolings need at least: 32 for CNN14, 16 for CNN10. The caller fills a shorter clip."""
        return int(2**self.poolings)

    def refine(self, x: Tensor) -> Tensor:
        """The fully connected layer with its ReLU: (batch, channels) -> (batch, channels)."""
        return functional.relu(self.fc1(x))

    def forward(self, log_mel: Tensor, condition: Callable[[int, Tensor], Tensor] | None = None) -> Tensor:
        """The embedding of whole clips of equal length.

        Args:
            log_mel: (batch, frames, bands), dB.
            condition: computed after each block's pooling and before its dropout, from the block's number, which
                starts at 0, and (batch, channels, frames, bands); None: nothing.

        Returns:
            (batch, embedding): 2,048 numbers for CNN14 and 512 for CNN10 at width 1.
        """
        x = self.bn0(log_mel.unsqueeze(1).transpose(1, 3)).transpose(1, 3)  # (batch, 1, frames, bands)
        x = x.contiguous(memory_format=torch.channels_last)
        for number in range(len(self.channels)):
            x = self.get_submodule(f"conv_block{number + 1}")(x, pool=number < self.poolings)
            x = condition(number, x) if condition else x
            x = functional.dropout(x, self.dropout, self.training)
        x = x.mean(dim=3)  # over bands: (batch, channels, frames)
        return self.refine(x.amax(dim=2) + x.mean(dim=2))


class CNN5(nn.Module):
    """Three 3x5 convolutions (frames x bands), each with batch norm, ReLU and channel dropout; global average pooling.

    The convolutions have biases and PyTorch's first weights, unlike those of the PANNs. Nothing is pooled between them,
    as published (arXiv 2206.06680): at width 1 it takes many times the computation of CNN14.
    """

    frame_step = 1

    def __init__(self, width: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        self.channels = channels("cnn5", width)
        self.size = self.channels[-1]
        self.min_frames = 1
        layers: list[nn.Module] = []
        for before, after in zip((1, *self.channels), self.channels, strict=False):
            convolution = nn.Conv2d(before, after, (3, 5), padding=(1, 2))
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.Dropout2d(dropout)]
        self.layers = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, log_mel: Tensor) -> Tensor:
        """The embedding of whole clips of equal length.

        Args:
            log_mel: (batch, frames, bands), dB.

        Returns:
            (batch, embedding): 1,024 numbers at width 1.
        """
        x = log_mel.unsqueeze(1).contiguous(memory_format=torch.channels_last)
        embedding: Tensor = self.layers(x).mean(dim=(2, 3))
        return embedding


def make_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with first weights as in the PANNs: Xavier's, and biases of zero."""
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
