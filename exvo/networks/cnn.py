"""CNN10 and CNN14: the PANNs (Kong et al., arXiv 1912.10211) without their waveform front end."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from exvo.config import FeatureConfig

BLOCKS = {"cnn10": 4, "cnn14": 6}
CHANNELS = (64, 128, 256, 512, 1024, 2048)
BANDS = FeatureConfig().bands


def channels(encoder: str, width: float) -> tuple[int, ...]:
    """Channels of each block at that width, at least 4.

    >>> channels("cnn10", 1.0), channels("cnn10", 0.25)
    ((64, 128, 256, 512), (16, 32, 64, 128))
    """
    return tuple(max(4, round(count * width)) for count in CHANNELS[: BLOCKS[encoder]])


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

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, frames, bands) -> (batch, out_channels, frames, bands)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)))


class CNN(nn.Module):
    """CNN10 (4 blocks) or CNN14 (6 blocks) with a linear output.

    Args:
        encoder: cnn10 or cnn14.
        outputs: numbers of the linear output.
        width: multiplier of the channels; 1 is the paper's.
        dropout: probability after each block.
    """

    def __init__(self, encoder: str, outputs: int, width: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        self.arguments = {"encoder": encoder, "outputs": outputs, "width": width, "dropout": dropout}
        counts = channels(encoder, width)
        self.blocks = len(counts)
        self.poolings = min(self.blocks, 5)
        self.dropout = dropout
        self.bn0 = nn.BatchNorm2d(BANDS)
        for number, (before, after) in enumerate(zip((1, *counts), counts, strict=False), start=1):
            self.add_module(f"conv_block{number}", ConvBlock(before, after))
        self.fc1 = nn.Linear(counts[-1], counts[-1])
        self.output = nn.Linear(counts[-1], outputs)
        for linear in (self.fc1, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def min_frames(self) -> int:
        """Frames that the poolings need: 32 for CNN14, 16 for CNN10. A shorter clip is filled by the caller."""
        return int(2**self.poolings)

    def embed(self, log_mel: Tensor) -> Tensor:
        """The embedding of whole clips of equal length.

        Args:
            log_mel: (batch, frames, bands), dB.

        Returns:
            (batch, embedding): 2,048 numbers for CNN14 and 512 for CNN10 at width 1.
        """
        x = self.bn0(log_mel.unsqueeze(1).transpose(1, 3)).transpose(1, 3)  # (batch, 1, frames, bands)
        x = x.contiguous(memory_format=torch.channels_last)
        for number in range(1, self.blocks + 1):
            x = self.get_submodule(f"conv_block{number}")(x)
            if number <= self.poolings:
                x = functional.avg_pool2d(x, 2)
            x = functional.dropout(x, self.dropout, self.training)
        x = x.mean(dim=3)  # over bands: (batch, channels, frames)
        x = x.amax(dim=2) + x.mean(dim=2)
        return functional.relu(self.fc1(x))

    def forward(self, log_mel: Tensor) -> Tensor:
        """(batch, frames, bands) in dB -> (batch, outputs)."""
        outputs: Tensor = self.output(self.embed(log_mel))
        return outputs
