"""Give memory that was freed back to the system; the C library keeps it otherwise, in case it is asked for again."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys


def release_freed_memory() -> None:
    """What opening a network took and no longer needs: 11 MB after a ViT-S in INT8. Nothing happens without glibc."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError, OSError):  # another C library has no such function
        ctypes.CDLL(None).malloc_trim(0)


def release_unused_memory() -> None:
    """`release_freed_memory` after Python's own collection, which alone finds a graph whose nodes know each other.

    Some 70 ms; without it the weights of a graph that is done with stay until Python collects by itself.
    """
    gc.collect()
    release_freed_memory()
