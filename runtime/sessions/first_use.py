"""One thread at a time where an engine is used for the first time.

A C++ binding initialises its local statics on first use, behind a guard of the compiler's that knows nothing of
Python's interpreter lock. Where two threads come first at once, one may hold the interpreter lock and wait for the
guard while the other owns the guard and waits for the interpreter lock, for ever. So whatever is first (importing,
compiling, a session's first run) happens under one lock of the process: an ordinary Python lock, which sets the
interpreter free while it waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")

ALONE = threading.RLock()
"""Held while an engine is imported, opened, or run for the first time."""


@contextmanager
def importing() -> Iterator[None]:
    """Import an engine alone.

    Raises:
        KeyboardInterrupt: the user interrupted it; a C++ binding that was being loaded makes an ImportError of that,
            which would look like an engine that is not installed.
    """
    with ALONE:
        try:
            yield
        except ImportError as exc:
            interrupt = _interrupt_behind(exc)
            if interrupt is not None:
                raise interrupt from None
            raise


def _interrupt_behind(exc: BaseException) -> KeyboardInterrupt | None:
    """The interrupt that ``exc`` was made of; None where it was none."""
    behind: BaseException | None = exc
    while behind is not None and not isinstance(behind, KeyboardInterrupt):
        behind = behind.__cause__ or behind.__context__
    return behind


class FirstUse:
    """Makes the first of many calls alone; those after it are made as they come."""

    def __init__(self) -> None:
        self._done = False

    def __call__(self, call: Callable[[], Result]) -> Result:
        """``call()``, under `ALONE` until one call has returned."""
        if self._done:
            return call()
        with ALONE:
            result = call()
        self._done = True
        return result
