"""Where work runs: the device, its precision, and the processor's memory."""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache

import torch

from exvo.errors import InputError


def resolve_device(device: str) -> str:
    """The device that an option names, cpu or cuda; `auto` is cuda where PyTorch finds a CUDA device.

    Raises:
        InputError: cuda is asked for and PyTorch finds none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda, but PyTorch finds no CUDA device here; use device=cpu or auto.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def resolve_precision(precision: str, device: str) -> str:
    """The precision that an option names, float32 or bf16.

    `auto` is bf16 where the processor has instructions for it (AVX512-BF16, CUDA from Ampere on), else float32.
    """
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "float32"


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
MAX_THRESHOLD = 2**31 - 1  # bytes


@cache
def keep_freed_memory() -> None:
    """Makes malloc keep freed memory until the process ends, instead of returning large blocks to the system at once.

    Each training step frees and allocates the same blocks, some of 100 MB and more, and the system fills every page of
    them with zeros before it gives them out. Does nothing where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(MMAP_THRESHOLD, MAX_THRESHOLD)
    mallopt(TRIM_THRESHOLD, MAX_THRESHOLD)


def return_freed_memory() -> None:
    """Makes malloc return freed memory to the system; otherwise it may keep a gigabyte between requests.

    Does nothing where the C library is not glibc.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
