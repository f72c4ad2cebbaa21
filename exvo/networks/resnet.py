"""An encoder of our own: a small residual network (He et al., arXiv 1512.03385) that learns from scratch in minutes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from exvo.networks.cnn import BANDS

CHANNELS = (32, 64, 128, 256)
"""Of each residual block at width 1."""

EMBEDDING = 256
"""Numbers of an embedding at width 1."""

VARIANCE_FLOOR = 1e-5
"""Added to a variance before its root is taken, whose slope at 0 has no end."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a shortcut; ReLU after the first and after the sum.

    Where the shape changes, the shortcut is average pooling, a 1x1 convolution and batch norm. The weight of the second
    norm starts at 0, so that the block starts as its shortcut (Goyal et al., arXiv 1706.02677).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        nn.init.zeros_(self.bn2.weight)
        self.shortcut = nn.Sequential()
        if (in_channels, 1) != (out_channels, stride):
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """The block's maps: (batch, in_channels, frames, bands) -> (batch, out_channels, frames, bands).

        With a stride of 2 half of the frames and bands, rounded up.
        """
        change = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        change = self.bn2(self.conv2(change))
        return functional.relu(change + self.shortcut(x))


class ResNet(nn.Module):
    """Four residual blocks on half of the frames, and statistics over time for each channel and remaining band.

    Args:
        width: multiplier of the channels and of the embedding.
        dropout: probability before the layer that gives the embedding.
    """

    frame_step = 8
    """Frames taken at a time: fewer at a clip's end (up to 70 ms) are left out, so that many clips have the same
    length and share a batch."""

    min_frames = frame_step
    """Frames that a clip needs."""

    def __init__(self, width: float = 1.0, dropout: float = 0.3) -> None:
        super().__init__()
        channels = [max(4, round(count * width)) for count in CHANNELS]
        self.size = max(4, round(EMBEDDING * width))
        self.dropout = dropout
        self.bn0 = nn.BatchNorm2d(BANDS)
        self.conv = nn.Conv2d(1, channels[0], 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels[0])
        pairs = zip((channels[0], *channels), channels, strict=False)
        blocks = [ResidualBlock(before, after, 1 + (number > 0)) for number, (before, after) in enumerate(pairs)]
        self.blocks = nn.Sequential(*blocks)
        bands = -(-BANDS // 2 ** len(CHANNELS))  # halved by the first convolution and by all blocks but the first
        self.fc = nn.Linear(3 * channels[-1] * bands, self.size, bias=False)
        self.fc_bn = nn.BatchNorm1d(self.size)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, log_mel: Tensor) -> Tensor:
        """The embedding of whole clips of equal length.

        Args:
            log_mel: (batch, frames, bands), dB.

        Returns:
            (batch, embedding): 256 numbers at width 1.
        """
        log_mel = log_mel[:, : log_mel.shape[1] // self.frame_step * self.frame_step]
        x = self.bn0(log_mel.unsqueeze(1).transpose(1, 3)).transpose(1, 3)  # (batch, 1, frames, bands)
        x = functional.avg_pool2d(x, (2, 1)).contiguous(memory_format=torch.channels_last)  # a frame every 20 ms
        x = functional.relu(self.bn(self.conv(x)), inplace=True)
        x = self.blocks(x).float()
        deviation = (x.var(dim=2, unbiased=False) + VARIANCE_FLOOR).sqrt()
        x = torch.cat([x.mean(dim=2), x.amax(dim=2), deviation], dim=1).flatten(1)  # over time; channels x bands stay
        x = functional.dropout(x, self.dropout, self.training)
        return functional.relu(self.fc_bn(self.fc(x)))
