"""Memory that training frees stays with the process; what a large request frees goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache

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
