"""One destination's thread: takes what is due out of the spool, sends it, and records what came of it.

Two waits are kept apart. An object that was refused for the moment waits on its own. A destination that cannot be
reached, or that just refused something for the moment, is left alone as a whole, and no object is touched meanwhile:
however long it is down and however much is due, memory and records stay as they are, and nothing is given up for it.

    waiting ──sent──▶ delivered ──committed──▶ committed
       ▲  └─refused (permanent, or given up)──▶ quarantined
       └── retry at a later time
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from medfm_compress.runtime.errors import in_one_line
from medfm_compress.runtime.node.association import Unreachable
from medfm_compress.runtime.node.backoff import gives_up, wait_s
from medfm_compress.runtime.node.config import RetryConfig
from medfm_compress.runtime.node.spool.records import Delivery

BATCH = 32  # deliveries that are looked at together; each may ask for two presentation contexts of 128
_POLL_S = 1.0
_log = logging.getLogger(__name__)


class Sent(msgspec.Struct, frozen=True):
    """The destination has it; ``warning`` where it said more than success."""

    warning: str = ""


class NotNow(msgspec.Struct, frozen=True):
    """Refused for the moment; ``wait_s`` where the destination named a time."""

    reason: str
    wait_s: float = 0.0


class Never(msgspec.Struct, frozen=True):
    """The same object would be refused again."""

    code: str
    reason: str


Outcome = Sent | NotNow | Never


class Channel(Protocol):
    """The way to a destination; used by the loop's thread alone, but for `sever`."""

    def prepare(self, deliveries: Sequence[Delivery]) -> None:
        """Get ready to send these. Raises Unreachable."""

    def send(self, delivery: Delivery) -> Outcome:
        """Send one. Raises Unreachable, where it was not even tried."""

    def idle(self, now: float) -> None:
        """Do what else is due, after every batch."""

    def close(self) -> None:
        """Part with the destination properly."""

    def sever(self) -> None:
        """End from another thread whatever waits for the destination."""


class Observer(Protocol):
    """Gets to know what happened; never patient data."""

    def count(self, name: str, **labels: str) -> None:
        """Count an event, e.g. for Prometheus."""

    def record(self, event: str, **facts: Any) -> None:
        """Put an event into the audit trail."""


class NobodyWatches:
    """An observer for where there is none."""

    def count(self, name: str, **labels: str) -> None:
        """Nothing."""

    def record(self, event: str, **facts: Any) -> None:
        """Nothing."""


class DeliveryLoop:
    """Thread of one destination.

    Attributes:
        destination: its name.
        problem: why it is left alone at present; empty while it works.
    """

    def __init__(
        self,
        destination: str,
        retry: RetryConfig,
        spool: Any,
        channel: Channel,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.destination = destination
        self.problem = ""
        self._retry, self._spool, self._channel, self._observer = retry, spool, channel, observer
        self._clock = clock
        self._failures = 0
        self._paused_until = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"deliver-{destination}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, within_s: float = 30.0) -> None:
        """Let what is being sent come to its end, for ``within_s`` at most, and part from the destination."""
        self._stopping.set()
        if self._thread.ident is None:  # never begun
            return
        self._spool.notify()
        self._thread.join(within_s)
        if self._thread.is_alive():
            self._channel.sever()
            self._thread.join(5.0)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            news = self._spool.news()
            try:
                self.round()
            except Unreachable as exc:
                self._pause(in_one_line(exc))
            except Exception as exc:  # noqa: BLE001 -- e.g. the disk is full: what was not recorded is sent again
                _log.error("delivery to %s failed: %s", self.destination, type(exc).__name__)
                self._pause(f"internal error {type(exc).__name__}")
            if not self._stopping.is_set():
                self._rest(news)
        self._close()

    def round(self) -> None:
        """Send all that is due, unless the destination is to be left alone for now.

        Raises:
            Unreachable: the destination cannot be used.
        """
        while not self._stopping.is_set() and time.monotonic() >= self._paused_until:
            due = self._spool.due_deliveries(self.destination, self._clock(), BATCH)
            if due:
                self._channel.prepare(due)
            for delivery in due:
                if self._stopping.is_set() or not self._deliver(delivery):
                    return
            self._channel.idle(self._clock())
            if not due:
                return

    def _deliver(self, delivery: Delivery) -> bool:
        """Send one and record what came of it; whether to go on."""
        started = time.monotonic()
        outcome = self._send(delivery)
        if isinstance(outcome, Sent):
            self._spool.sent(delivery.id)
            self._works()
            self._observer.count("deliveries_sent", destination=self.destination, kind=delivery.kind)
            self._observer.record(
                "sent",
                destination=self.destination,
                instance=delivery.instance_id,
                kind=delivery.kind,
                warning=outcome.warning,
                seconds=round(time.monotonic() - started, 3),
            )
            return True
        if isinstance(outcome, Never):
            self._refuse(delivery, outcome.code, outcome.reason)
            return True
        now = self._clock()
        if gives_up(self._retry, delivery.first_attempt_at, now, delivery.attempts + 1):
            self._refuse(delivery, "given-up", f"given up after {self._retry.give_up_days:g} days: {outcome.reason}")
        else:
            key = f"{self.destination}/{delivery.id}"
            wait = max(wait_s(self._retry, delivery.attempts, key), outcome.wait_s)
            self._spool.retry(delivery.id, now + wait, outcome.reason)
            self._observer.count("deliveries_retried", destination=self.destination)
        self._pause(outcome.reason, outcome.wait_s)
        return False

    def _send(self, delivery: Delivery) -> Outcome:
        try:
            return self._channel.send(delivery)
        except Unreachable:
            raise
        except Exception as exc:  # noqa: BLE001 -- of this object perhaps: the others shall not wait for it
            _log.error("sending %d to %s failed: %s", delivery.id, self.destination, type(exc).__name__)
            return NotNow(f"internal error {type(exc).__name__}")

    def _refuse(self, delivery: Delivery, code: str, reason: str) -> None:
        self._spool.refused(delivery.id, reason)
        _log.error("delivery %d to %s goes to quarantine: %s", delivery.id, self.destination, reason)
        self._observer.count("deliveries_refused", destination=self.destination, reason=code)
        self._observer.record(
            "refused", destination=self.destination, instance=delivery.instance_id, kind=delivery.kind, reason=reason
        )

    def _works(self) -> None:
        if self.problem:
            _log.info("%s works again", self.destination)
        self._failures, self._paused_until, self.problem = 0, 0.0, ""

    def _pause(self, reason: str, at_least_s: float = 0.0) -> None:
        """Leave the destination alone for a while, longer after every failure in a row."""
        wait = max(wait_s(self._retry, self._failures, self.destination), at_least_s)
        self._failures += 1
        self._paused_until = time.monotonic() + wait  # whatever happens to the clock
        if reason != self.problem:
            _log.warning("%s is left alone for %.1f s: %s", self.destination, wait, reason)
        self.problem = reason
        self._observer.count("destination_pauses", destination=self.destination)
        self._close()

    def _rest(self, news: int) -> None:
        """Sleep until something new is there or a wait is over; while it is left alone, whatever is new."""
        remaining = self._paused_until - time.monotonic()
        if remaining > 0:
            self._stopping.wait(min(remaining, _POLL_S))
        else:
            self._spool.wait(_POLL_S, since=news)

    def _close(self) -> None:
        try:
            self._channel.close()
        except Exception as exc:  # noqa: BLE001 -- whatever it was, the association is given up
            _log.warning("parting from %s failed: %s", self.destination, type(exc).__name__)


class Destination:
    """What a node has of a destination: its loop, started, stopped and looked at."""

    def __init__(self, loop: DeliveryLoop) -> None:
        self._loop = loop
        self.start, self.stop = loop.start, loop.stop

    @property
    def problem(self) -> str:
        """Why the destination is left alone at present; empty while it works."""
        return self._loop.problem

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._loop.is_alive
