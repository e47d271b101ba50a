"""What was found in the last images, for the node's page: in memory alone, gone with the process, no patient in it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from medfm_compress.runtime.node.spool.records import SpooledInstance
from medfm_compress.runtime.prediction import Prediction

MOST = 200


class LastResult(NamedTuple):
    """Of one image; times in seconds since 1970, UTC."""

    number: int
    sender: str
    received_at: float
    read_at: float
    prediction: Prediction


class LastResults:
    """The last of them; used from several threads."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._results: OrderedDict[int, LastResult] = OrderedDict()

    def add(self, instance: SpooledInstance, prediction: Prediction) -> None:
        """An image was read, or read again."""
        result = LastResult(instance.id, instance.arrival.sender, instance.received_at, self._clock(), prediction)
        with self._lock:
            self._results.pop(instance.id, None)
            self._results[instance.id] = result
            while len(self._results) > MOST:
                self._results.popitem(last=False)

    def all(self) -> list[LastResult]:
        """The latest first."""
        with self._lock:
            return list(reversed(self._results.values()))
