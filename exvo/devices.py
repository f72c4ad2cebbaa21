"""Where work runs: the device, its precision, and the processor's memory."""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache

import torch

from exvo.errors import InputError


def resolve_device(device: str) -> str:
    """`auto` is cuda where there is one.

    Raises:
        InputError: cuda is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda, but PyTorch finds no CUDA device here; use device=cpu or auto.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def resolve_precision(precision: str, device: str) -> str:
    """`auto` is bf16 where the processor has instructions for it (AVX512-BF16, CUDA from Ampere on), else float32."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "float32"


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST = 2**31 - 1  # bytes


@cache
def keep_freed_memory() -> None:
    """Has malloc keep what is freed until the process ends, instead of giving large blocks back to the system at once.

    Each training step frees and takes the same blocks of up to 100 MB and more, and the system hands out every page of
    them anew, with zeros. Does nothing where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(MMAP_THRESHOLD, LARGEST)
    mallopt(TRIM_THRESHOLD, LARGEST)


def return_freed_memory() -> None:
    """Has malloc give all that is free back to the system: of large blocks it may keep a gigabyte between requests.

    Does nothing where the C library is not glibc.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
