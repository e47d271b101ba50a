"""Storage commitment (PS3.4 annex J, Push Model) as provider, towards the modality that sent the images.

A request is durable before it is answered; the report goes out on an association of our own to the address that the
configuration names for this sender, on which we propose the SCP role (PS3.4 J.3.3), again and again until it was taken.

An instance is committed if the spool holds it, or held it and its results are where they belong. One that the spool
does not know is reported with failure reason 0112H, one of another SOP class with 0119H (PS3.3 C.14.1.1).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medfm_compress.runtime.errors import in_one_line
from medfm_compress.runtime.node.association import (
    COMMITMENT_CLASS,
    COMMITMENT_INSTANCE,
    Link,
    Peer,
    Unreachable,
    open_link,
)
from medfm_compress.runtime.node.backoff import gives_up, wait_s
from medfm_compress.runtime.node.commitment import (
    INVALID_ARGUMENT,
    NO_SUCH_INSTANCE,
    NOT_AUTHORIZED,
    PROCESSING_FAILURE,
    PROPOSAL,
    SUCCESS,
    information,
)
from medfm_compress.runtime.node.config import PeerAddress, ReceiveConfig, RetryConfig
from medfm_compress.runtime.node.delivery_loop import NobodyWatches, Observer
from medfm_compress.runtime.node.statuses import response

if TYPE_CHECKING:
    from pydicom import Dataset

CLASS_CONFLICT, NO_SUCH_ACTION, RESOURCE_LIMITATION = 0x0119, 0x0123, 0x0213
MAX_ITEMS = 10_000  # instances of one request
_LONGEST_UID = 64
_POLL_S = 1.0
_log = logging.getLogger(__name__)


class CommitmentAnswers:
    """Takes the requests of senders, and reports to them from a thread of its own."""

    def __init__(
        self,
        receive: ReceiveConfig,
        spool: Any,
        observer: Observer | None = None,
        *,
        timeout_s: float = 30.0,
        retry: RetryConfig | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._receive, self._spool, self._observer = receive, spool, observer or NobodyWatches()
        self._timeout_s, self._retry, self._clock = timeout_s, retry or RetryConfig(), clock
        self._senders = {sender.ae_title.strip(): sender for sender in receive.senders}
        self._paused: dict[str, tuple[int, float]] = {}  # sender → failures in a row, left alone until
        self._link: Link | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commitment-answers", daemon=True)

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def stop(self, within_s: float = 30.0) -> None:
        """End after the report that is under way."""
        self._stopping.set()
        if self._thread.ident is None:  # never begun
            return
        self._thread.join(within_s)
        link = self._link
        if self._thread.is_alive() and link is not None:
            link.sever()
            self._thread.join(5.0)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def take(self, calling_ae_title: str, event: Any) -> int:
        """Record an N-ACTION (pynetdicom's event) durably; the status to answer it with. Never raises."""
        try:
            status = self._take(calling_ae_title.strip(), event)
        except Exception as exc:  # noqa: BLE001 -- a damaged value may raise anything inside pydicom
            _log.error("a request for storage commitment could not be taken: %s", type(exc).__name__)
            status = PROCESSING_FAILURE
        self._observer.count("commitment_requests", status=f"{status:04X}")
        return status

    def _take(self, requester: str, event: Any) -> int:
        sender = self._senders.get(requester)
        if sender is None or sender.commitment is None:
            return NOT_AUTHORIZED
        request = event.request
        if request.RequestedSOPClassUID != COMMITMENT_CLASS or request.RequestedSOPInstanceUID != COMMITMENT_INSTANCE:
            return NO_SUCH_INSTANCE
        if event.action_type != 1:
            return NO_SUCH_ACTION
        wanted = _read_request(event.action_information)
        if isinstance(wanted, int):
            return wanted
        self._spool.commitment_asked(requester, *wanted)
        self._observer.record("commitment-asked", sender=requester, count=len(wanted[1]))
        return SUCCESS

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.round()
            except Exception as exc:  # noqa: BLE001 -- the thread goes on, whatever happens to one round
                _log.error("reporting storage commitment failed: %s", type(exc).__name__)
            self._stopping.wait(_POLL_S)

    def round(self) -> None:
        """Report what is due to every sender that is not left alone for now."""
        for asked in self._spool.due_commitment_answers(self._clock()):
            if self._stopping.is_set():
                return
            failures, until = self._paused.get(asked.requester, (0, 0.0))
            if time.monotonic() < until:  # else its requests would stand before those of others
                self._spool.commitment_retry(asked.id, self._clock() + until - time.monotonic())
                continue
            problem = self._report(asked)
            if not problem:
                self._spool.commitment_answered(asked.id)
                self._paused.pop(asked.requester, None)
                self._observer.record("commitment-reported", sender=asked.requester)
                continue
            wait = wait_s(self._retry, failures, asked.requester)
            self._paused[asked.requester] = (failures + 1, time.monotonic() + wait)
            self._put_off(asked, wait, problem)

    def _put_off(self, asked: Any, wait: float, problem: str) -> None:
        now = self._clock()
        if gives_up(self._retry, asked.asked_at, now, asked.attempts + 1):
            _log.error("%s never took a report of storage commitment: %s", asked.requester, problem)
            self._observer.record("commitment-report-given-up", sender=asked.requester, reason=problem)
            self._spool.commitment_answered(asked.id)
        else:
            _log.warning("%s did not take a report of storage commitment: %s", asked.requester, problem)
            self._spool.commitment_retry(asked.id, now + wait)

    def _report(self, asked: Any) -> str:
        """Report one transaction; why it was not taken, empty where it was."""
        sender = self._senders.get(asked.requester)
        if sender is None or sender.commitment is None:
            return "the configuration names no address for it"
        stored, failed = self._sort(asked.items)
        try:
            self._link = link = open_link(self._peer(sender.ae_title, sender.commitment), [PROPOSAL], as_provider=True)
        except Unreachable as exc:
            return in_one_line(exc)
        try:
            if not link.is_open:
                return f"presentation context rejected: {link.rejections[PROPOSAL].text}"
            report = information(asked.transaction_uid, stored, failed)
            status = link.report_commitment(report, 2 if failed else 1)
        except ValueError:  # no context with us as provider
            return "it does not accept the provider's role (PS3.7 D.3.3.4) for us"
        finally:
            link.close()
        if status is None:
            return "no answer to N-EVENT-REPORT"
        meaning = response(status)
        return "" if meaning.meaning != "transient" else f"N-EVENT-REPORT was answered {meaning.text}"

    def _sort(self, items: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], dict[tuple[str, str], int]]:
        held: Mapping[str, str] = self._spool.lookup([instance for _, instance in items])
        stored, failed = [], {}
        for sop_class, instance in items:
            if instance not in held:
                failed[sop_class, instance] = NO_SUCH_INSTANCE
            elif held[instance] != sop_class:
                failed[sop_class, instance] = CLASS_CONFLICT
            else:
                stored.append((sop_class, instance))
        return stored, failed

    def _peer(self, ae_title: str, address: PeerAddress) -> Peer:
        receive = self._receive
        return Peer(ae_title, address.host, address.port, receive.ae_title, receive.tls, self._timeout_s)


def _read_request(information: Dataset) -> tuple[str, list[tuple[str, str]]] | int:
    """Transaction UID and instances; a status where it is no request."""
    transaction_uid = str(information.get("TransactionUID", "") or "")
    items = information.get("ReferencedSOPSequence") or ()
    if len(items) > MAX_ITEMS:
        return RESOURCE_LIMITATION
    pairs = [
        (str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", ""))) for item in items
    ]
    uids = [transaction_uid, *(uid for pair in pairs for uid in pair)]
    if not pairs or not all(_is_uid(uid) for uid in uids):
        return INVALID_ARGUMENT
    return transaction_uid, list(dict.fromkeys(pairs))


def _is_uid(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_UID and all(char in "0123456789." for char in text)
