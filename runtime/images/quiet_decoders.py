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

from medfm_compress.runtime.errors import ImageRefused, MedfmError, MissingDependency

_LOGGERS = ("pydicom", "pylibjpeg", "openjpeg", "PIL")
# By the name of an error or of what it derives from; Pillow's and zlib's own are not imported for it.
_WORDS = {
    "UnidentifiedImageError": "its header cannot be read",
    "SyntaxError": "its header cannot be read",
    "OSError": "its pixels cannot be decoded to their end",
    "EOFError": "a part of it ends too early",
    "LookupError": "a part of it is missing",
    "AttributeError": "a part of it is missing",
    "RecursionError": "it is nested too deep",
    "MemoryError": "it needs more memory than there is",
    "error": "a part of it ends too early or does not unpack",
    "ValueError": "a value in it is not allowed",
}


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
                    self._undo.enter_context(_muted(logging.getLogger(name)))
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
def decoding(name: str, kind: str) -> Iterator[None]:
    """A block that reads a file which may be hostile: silent, and whatever a decoder raises becomes `ImageRefused`.

    The decoder's own words are dropped, since they quote the file; what kind of error it was stays, in ours.

    Args:
        name: what to call the file.
        kind: its format, e.g. ``DICOM``.

    Raises:
        ImageRefused: something in the block raised.
        MissingDependency: a decoder could not be imported, which says nothing of the file.
        MedfmError: the block raised one on purpose.
    """
    try:
        with quiet():
            yield
    except MedfmError:
        raise
    except ImportError as exc:
        raise MissingDependency(
            f"{name}: a decoder for {kind} files cannot be imported ({exc.name or type(exc).__name__}), which is no "
            "fault of the image; install it again"
        ) from exc
    except Exception as exc:  # noqa: BLE001 - a damaged file may raise anything inside a decoder
        raise ImageRefused(
            f"{name}: the {kind} file is damaged, truncated or of an unsupported form: {_in_words(exc)}; "
            "export it again"
        ) from None


def _in_words(exc: Exception) -> str:
    """What kind of error a decoder raised."""
    return next((_WORDS[kind.__name__] for kind in type(exc).__mro__ if kind.__name__ in _WORDS), "its decoder failed")


@contextmanager
def _muted(logger: logging.Logger) -> Iterator[None]:
    # Records of child loggers climb to this one and stop here.
    propagate, silent = logger.propagate, logging.NullHandler()
    logger.propagate = False
    logger.addHandler(silent)  # without any handler Python prints to stderr
    try:
        yield
    finally:
        logger.removeHandler(silent)
        logger.propagate = propagate
