"""Silence for decoders: their warnings and log records quote the file, and the file may name a patient.

``warnings.catch_warnings`` saves and restores one process-wide list of filters, so two threads that overlap in it can
leave the wrong list behind. Here the first to enter saves and the last to leave restores.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_LOGGERS = ("pydicom", "pylibjpeg", "openjpeg", "PIL")


class _Silence:
    """How many threads are inside, and how to undo it when the last one leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._undo = ExitStack()

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._undo = ExitStack()
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                for name in _LOGGERS:
                    self._undo.enter_context(_unheard(logging.getLogger(name)))
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._undo.close()


_SILENCE = _Silence()


@contextmanager
def quiet() -> Iterator[None]:
    """No warning and no log record of a decoder leaves the block; safe to nest and to use from several threads."""
    _SILENCE.enter()
    try:
        yield
    finally:
        _SILENCE.leave()


@contextmanager
def _unheard(logger: logging.Logger) -> Iterator[None]:
    # Records of child loggers climb to this one and stop here.
    propagate, silent = logger.propagate, logging.NullHandler()
    logger.propagate = False
    logger.addHandler(silent)  # without any handler Python prints to stderr
    try:
        yield
    finally:
        logger.removeHandler(silent)
        logger.propagate = propagate
