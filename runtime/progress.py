"""How long work says where it is: one line at a time, to whoever wants to hear it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str], None]


def no_progress(_: str) -> None:
    """Nobody wants to hear it."""
