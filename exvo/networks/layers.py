"""Layers of the PANNs as a CPU computes them faster in training than PyTorch's own, to which other devices keep.

What is computed is the same, the pooling even bit for bit. A step of training on a CPU is bound by its convolutions and
by memory: all else reads and writes blocks of up to 65 MB (bf16, batch 32), so what counts is how often it does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def first_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """A 3x3 convolution of one channel, in channels_last, as a product of matrices.

    A convolution's kernels work on 16 channels at once; that of one channel takes several times as long to
    differentiate.

    Args:
        x: (batch, 1, frames, bands).
        weight: (channels, 1, 3, 3).

    Returns:
        (batch, channels, frames, bands).
    """
    if x.device.type != "cpu":
        return functional.conv2d(x, weight, padding=1)
    frames, bands = x.shape[2:]
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    padded = functional.pad(x[:, 0].to(dtype), (1, 1, 1, 1))
    around = [padded[:, row : row + frames, column : column + bands] for row in range(3) for column in range(3)]
    product: Tensor = torch.stack(around, dim=-1) @ weight.flatten(1).t()  # (batch, frames, bands, channels)
    return product.permute(0, 3, 1, 2)


class _RectifyAndPool(torch.autograd.Function):
    """Keeps the input alone, and goes back through ReLU and pooling in one pass over it."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        """(batch, channels, frames, bands) -> (batch, channels, frames // 2, bands // 2)."""
        context.save_for_backward(x)
        return functional.avg_pool2d(functional.relu(x), 2)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        """A quarter of it to each of the four values that are above zero; none to an odd last frame or band."""
        (x,) = context.saved_tensors
        frames, bands = gradient.shape[2:]

        def in_fours(whole: Tensor) -> Tensor:  # (batch, channels, frames // 2, 2, bands // 2, 2)
            even = whole[:, :, : 2 * frames, : 2 * bands]
            return even.view(*even.shape[:2], frames, 2, bands, 2)

        found = torch.empty_like(x)
        found[:, :, 2 * frames :] = 0
        found[:, :, :, 2 * bands :] = 0
        quarter = (gradient / 4).contiguous(memory_format=torch.channels_last)[:, :, :, None, :, None]
        given, back = in_fours(x), in_fours(found)
        torch.ops.aten.threshold_backward.grad_input(quarter.expand_as(given), given, 0, grad_input=back)
        return found


def rectify_and_pool(x: Tensor) -> Tensor:
    """ReLU, then the mean of each two frames and two bands.

    (batch, channels, frames, bands) -> (batch, channels, frames // 2, bands // 2).
    """
    if x.device.type != "cpu":
        return functional.avg_pool2d(functional.relu(x), 2)
    pooled: Tensor = _RectifyAndPool.apply(x)  # type: ignore[no-untyped-call]
    return pooled


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """`functional.dropout` of (batch, channels, frames, bands); the probability is a multiple of 2^-16.

    PyTorch draws 53 bits for each value, one after the other; here a draw of 64 bits does for four values.
    """
    if not training or probability == 0 or x.device.type != "cpu":
        return functional.dropout(x, probability, training)
    batch, channels, frames, bands = x.shape
    drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = round(probability * 2**16)
    kept = drawn.view(torch.int16)[: x.numel()] >= dropped - 2**15
    factor = kept.view(torch.uint8).to(x.dtype).mul_(2**16 / (2**16 - dropped))
    return x * factor.view(batch, frames, bands, channels).permute(0, 3, 1, 2)  # in channels_last, as x is
