"""The node's log on standard error: one line a record, JSON or text, without patient data.

Only the project's own words are printed, with marks in place of UIDs. What a library says may quote a data set:
pynetdicom prints whole ones, pydicom and highdicom name values. Of their records the level, the logger and the place
are kept and the words dropped; of an exception the type and the places, for its words may quote a file as well. No more
than `MAX_OF_LIBRARIES` such lines a minute: whoever sends garbage makes several a connection.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from medfm_compress.runtime.errors import printable

if TYPE_CHECKING:
    from medfm_compress.runtime.node.identifiers import Marks

OURS = "medfm_compress"
_WITHHELD = "a library's words are not logged, they may name a patient"
_SILENT = ("pynetdicom", "pydicom", "highdicom", "PIL", "urllib3", "asyncio")
_MOST_FRAMES = 8
MAX_OF_LIBRARIES = 60
_MINUTE_S = 60.0

_log = logging.getLogger("medfm_compress.runtime.node")


class _Formatter(logging.Formatter):
    """A record as one line."""

    def __init__(self, form: Literal["json", "text"], marks: Marks) -> None:
        super().__init__()
        self._form, self._marks = form, marks

    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, object] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._message(record),
        }
        if record.exc_info and record.exc_info[0]:
            facts |= describe_exception(record.exc_info[0], record.exc_info[2])
        if self._form == "json":
            return json.dumps(facts, ensure_ascii=True)
        more = f" ({facts['error']} at {facts['where']})" if "error" in facts else ""
        return f"{facts['at']} {facts['level']:7} {facts['message']}{more}"

    def _message(self, record: logging.LogRecord) -> str:
        if not _is_ours(record.name):
            return f"{_WITHHELD} ({record.module}:{record.lineno})"
        return self._marks.hidden(printable(record.getMessage()))


class Sparing(logging.Filter):
    """Lets through all of our own lines, and of libraries' lines so many a minute; of the rest one line tells."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._lock = clock, threading.Lock()
        self._count, self._minute_from = 0, clock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is printed."""
        if _is_ours(record.name):
            return True
        with self._lock:
            now, rest = self._clock(), 0
            if now - self._minute_from >= _MINUTE_S:
                rest = self._count - MAX_OF_LIBRARIES
                self._count, self._minute_from = 0, now
            self._count += 1
            is_one_too_many = self._count > MAX_OF_LIBRARIES
        if rest > 0:
            _log.warning("%d more lines of libraries were left out in a minute", rest)
        return not is_one_too_many


def set_up_log(form: Literal["json", "text"], level: str, marks: Marks) -> None:
    """Let this process log so, and in no other way; uncaught exceptions too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(form, marks))
    handler.addFilter(Sparing())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(level.upper())
    silence_libraries()
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda hook: _uncaught(hook.exc_type, hook.exc_value, hook.exc_traceback)


def silence_libraries() -> None:
    """Keep handlers that libraries bring, and levels that others set, from printing data sets."""
    for name in _SILENT:
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.addHandler(logging.NullHandler())
    from importlib.util import find_spec

    if find_spec("pynetdicom") is not None:
        from pynetdicom import _config

        _config.LOG_REQUEST_IDENTIFIERS = False
        _config.LOG_RESPONSE_IDENTIFIERS = False
        _config.LOG_HANDLER_LEVEL = "none"


def describe_exception(kind: type[BaseException], trace: TracebackType | None) -> dict[str, object]:
    """Type and places of an exception, without its words."""
    frames = traceback.extract_tb(trace)[-_MOST_FRAMES:]
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames]
    return {"error": kind.__name__, "where": " ".join(places)}


def _uncaught(kind: type[BaseException], value: BaseException | None, trace: TracebackType | None) -> None:
    _log.critical("an error that nobody expected", exc_info=(kind, value or kind(), trace))


def _is_ours(name: str) -> bool:
    return name == OURS or name.startswith(f"{OURS}.")
