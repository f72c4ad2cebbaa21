"""Layers as a CPU trains them fast: they compute what PyTorch's own do, there and back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from exvo.networks import layers

Layer = Callable[..., Tensor]


def there_and_back(layer: Layer, *given: Tensor) -> tuple[Tensor, ...]:
    """What a layer gives, and the gradient of each of its inputs, for a gradient that is seeded."""
    leaves = [one.detach().clone().requires_grad_() for one in given]
    found = layer(*leaves)
    gradient = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found.dtype)
    return (found.detach(), *torch.autograd.grad(found, leaves, gradient))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(4, 6), (5, 4), (4, 5), (7, 3), (2, 2)], ids=str)
@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format], ids=str)
def test_rectify_and_pool_is_relu_and_avg_pool_bit_for_bit(
    dtype: torch.dtype, size: tuple[int, int], memory: torch.memory_format
) -> None:
    x = torch.randn(3, 8, *size, generator=torch.Generator().manual_seed(0)).to(dtype).contiguous(memory_format=memory)
    x[0, 0, 0, 0], x[0, 1] = 0.0, -1.0
    ours = there_and_back(layers.rectify_and_pool, x)
    plain = there_and_back(lambda x: functional.avg_pool2d(functional.relu(x), 2), x)
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))


def test_what_is_not_finite_passes_through_rectify_and_pool() -> None:
    x = torch.randn(1, 1, 2, 4)
    x[0, 0, 0, 0] = torch.nan
    assert layers.rectify_and_pool(x)[0, 0, 0].isnan().tolist() == [True, False]


def test_the_first_convolution_is_a_convolution() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 1, 7, 6, dtype=torch.float64), torch.randn(5, 1, 3, 3, dtype=torch.float64)
    ours = there_and_back(layers.first_convolution, x, weight)
    plain = there_and_back(lambda x, weight: functional.conv2d(x, weight, padding=1), x, weight)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_first_convolution_keeps_to_autocast() -> None:
    x, weight = torch.randn(2, 1, 6, 4), torch.randn(5, 1, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        ours = there_and_back(layers.first_convolution, x, weight)
        plain = there_and_back(lambda x, weight: functional.conv2d(x, weight, padding=1), x, weight)
    assert ours[0].dtype == torch.bfloat16
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_dropout(dtype: torch.dtype, probability: float) -> None:
    x = (1 + torch.rand(20, 16, 25, 31)).to(dtype).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    dropped = layers.dropout(x, probability, True)
    assert dropped.dtype == dtype
    assert dropped.stride() == x.stride()
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], (x / (1 - probability))[kept], rtol=0.01, atol=0)
    assert kept.float().mean().item() == pytest.approx(1 - probability, abs=0.005)
    for shifted in (kept.roll(1, dims=axis) for axis in range(4)):  # neighbours are dropped independently
        both = (kept & shifted).float().mean().item()
        assert both == pytest.approx((1 - probability) ** 2, abs=0.01)


def test_dropout_is_seeded_and_its_gradient_its_own_factor() -> None:
    def dropped(seed: int, x: Tensor) -> Tensor:
        torch.manual_seed(seed)
        return layers.dropout(x, 0.2, True)

    x = torch.randn(3, 5, 7, 3).requires_grad_()  # 315 values, no multiple of four
    found = dropped(0, x)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(found, x * gradient)
    assert torch.equal(found, dropped(0, x))
    assert not torch.equal(found, dropped(1, x))
    for probability, training in ((0.0, True), (0.2, False)):
        assert torch.equal(layers.dropout(x, probability, training), x)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_that_is_freed_is_taken_again_without_asking_the_system() -> None:
    program = (
        "import resource, torch\n"
        "from exvo.devices import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(5): torch.empty(50_000_000, dtype=torch.uint8).fill_(1)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "before = faults()\n"
        "keep_freed_memory()\n"
        "for _ in range(5): after = faults()\n"
        "print(before, after)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 100  # of 4 kB: 61,000; of 2 MB: 120
    assert after < 20
