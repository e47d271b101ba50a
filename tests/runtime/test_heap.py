"""Freed memory goes back to the system, where the C library can be told to."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import weakref

import pytest

from medfm_compress.runtime.heap import release_freed_memory, release_unused_memory

# Many small blocks and one above them that stays: freed, they are the C library's own until it is told otherwise.
PROGRAM = """
import numpy as np
from medfm_compress.runtime.heap import release_freed_memory
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
blocks = [np.ones(2_000) for _ in range(4_000)]
top = [np.ones(1_000) for _ in range(64)]
del blocks
before = resident()
release_freed_memory()
print(before - resident())
"""


def test_freed_memory_is_given_back() -> None:
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this C library gives nothing back on request")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 4_000  # pages of 4 kB or more: a quarter of what was freed


def test_another_system_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    release_freed_memory()


def test_another_c_library_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    release_freed_memory()


def test_what_only_knows_itself_is_collected_first() -> None:
    class Node:
        def __init__(self) -> None:
            self.me = self

    gc.disable()
    try:
        left = weakref.ref(Node())
        assert left() is not None
        release_unused_memory()
        assert left() is None
    finally:
        gc.enable()
