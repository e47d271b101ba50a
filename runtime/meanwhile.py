"""One call in a thread of its own, while its caller waits for a library to load or for an engine to compute."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Meanwhile(Generic[Result]):
    """A call that has begun; what it gives is there once, when it is asked for.

    It gains what releases the interpreter lock: reading, hashing, an engine's work. (`concurrent.futures` does the same
    and takes longer to import than is gained.)
    """

    def __init__(self, call: Callable[[], Result]) -> None:
        """Begin ``call``."""
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = threading.Thread(target=self._run, args=(call,))
        try:
            self._thread.start()
        except RuntimeError:  # no thread is to be had: then not beside, but at once
            self._thread = None
            self._run(call)

    def _run(self, call: Callable[[], Result]) -> None:
        try:
            self._results.append(call())
        except BaseException as exc:  # noqa: BLE001 - raised again where it is waited for
            self._error = exc

    def result(self) -> Result:
        """Wait for it; raises what the call raised. The result is handed over and not kept."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results.pop()
