"""Storage commitment (PS3.4 annex J, Push Model): asked for as user, until a PACS has taken charge of every result.

A transaction is durable in the spool before it is asked for. The PACS reports on the same association, which is kept
open for a moment for that, or on one of its own to our listener. A report counts if its transaction was asked of just
this PACS; of one that was repeated meanwhile, the successes count. What a report does not name, and what is not
reported at all, is asked for again in a new transaction.

    delivered ──N-ACTION──▶ ──N-EVENT-REPORT──▶ committed
        ▲                        ├─ no such instance: sent again
        └── asked again ─────────┤  processing failure, resources, silence
                                 └─ conflict, class not supported, given up: quarantine
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medfm_compress.runtime.errors import in_one_line
from medfm_compress.runtime.node.association import (
    COMMITMENT_CLASS,
    COMMITMENT_INSTANCE,
    Link,
    Peer,
    Proposal,
    Unreachable,
    open_link,
    pynetdicom,
)
from medfm_compress.runtime.node.backoff import gives_up, wait_s
from medfm_compress.runtime.node.config import PacsConfig
from medfm_compress.runtime.node.spool.records import Delivery
from medfm_compress.runtime.node.statuses import commitment_failure, response

if TYPE_CHECKING:
    from pydicom import Dataset

    from medfm_compress.runtime.node.delivery_loop import Observer

SUCCESS, PROCESSING_FAILURE, NO_SUCH_INSTANCE, NO_SUCH_EVENT = 0x0000, 0x0110, 0x0112, 0x0113
INVALID_ARGUMENT, NOT_AUTHORIZED = 0x0115, 0x0124
PROPOSAL = Proposal(COMMITMENT_CLASS, ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2"))
_REQUEST = 200  # objects a transaction
_HOLD_S = 5.0  # that the association stays open for a report
_ANSWER_S = 0.5  # that our answer to it takes at most
_log = logging.getLogger(__name__)


class CommitmentUser:
    """Asks one PACS for storage commitment of what it was sent, and takes its reports."""

    def __init__(
        self,
        config: PacsConfig,
        calling_ae_title: str,
        spool: Any,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._spool, self._observer, self._clock = config, spool, observer, clock
        self._peer = Peer(
            config.commitment_ae_title or config.ae_title,
            config.commitment_host or config.host,
            config.commitment_port or config.port,
            calling_ae_title,
            config.tls,
            config.timeout_s,
        )
        self._link: Link | None = None
        self._release_at = 0.0
        self._failures = 0
        self._again_at = 0.0

    @property
    def destination(self) -> str:
        """Name of the PACS."""
        return self._config.name

    @property
    def ae_titles(self) -> frozenset[str]:
        """Calling AE titles that a report may come from."""
        return frozenset(title.strip() for title in (self._config.ae_title, self._peer.ae_title))

    def work(self, now: float) -> None:
        """Ask for what is due; release an association that no report is expected on any more."""
        if self._link is not None and (not self._link.is_open or time.monotonic() > self._release_at):
            self.close()
        if self._link is not None or time.monotonic() < self._again_at:
            return
        due = self._spool.awaiting_commitment(self.destination, now, _REQUEST)
        if not due:
            return
        if not self._config.commitment:
            self._spool.committed([delivery.id for delivery in due])
        else:
            self._request(due, now)

    def close(self) -> None:
        """Release the association."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def sever(self) -> None:
        """Break the association at once."""
        link = self._link
        if link is not None:
            link.sever()

    def take_report(self, event_type: int, information: Dataset) -> int:
        """Record a report (N-EVENT-REPORT) of this PACS; the status to answer it with, after it is durable."""
        report = _read_report(event_type, information)
        if isinstance(report, int):
            return report
        transaction_uid, stored, failed = report
        deliveries = self._spool.transaction(self.destination, transaction_uid)
        if not deliveries:
            _log.warning("%s reports storage commitment that was not asked for", self.destination)
            self._observer.record("commitment-report-refused", destination=self.destination)
            return INVALID_ARGUMENT
        awaited = [delivery for delivery in deliveries if delivery.state == "delivered"]
        self._commit([delivery for delivery in awaited if delivery.sop_instance_uid in stored])
        for delivery in awaited:
            current = delivery.transaction_uid == transaction_uid
            if current and delivery.sop_instance_uid in failed and delivery.sop_instance_uid not in stored:
                self._fail(delivery, failed[delivery.sop_instance_uid])
        self._release_at = min(self._release_at, time.monotonic() + _ANSWER_S)
        return SUCCESS

    def _request(self, due: Sequence[Delivery], now: float) -> None:
        """Ask in one new transaction; where that fails, soon again."""
        transaction_uid = f"2.25.{uuid.uuid4().int}"
        ids = [delivery.id for delivery in due]
        self._spool.commitment_requested(ids, transaction_uid, now + self._config.commitment_wait_s)
        problem = self._ask(due, transaction_uid)
        if not problem:
            self._failures, self._again_at = 0, 0.0
            self._observer.count("commitments_requested", destination=self.destination)
            return
        self.close()
        wait = wait_s(self._config.retry, self._failures, f"{self.destination}/commitment")
        self._failures += 1
        self._again_at = time.monotonic() + wait
        self._spool.commitment_requested(ids, transaction_uid, now + wait)
        _log.warning("%s was not asked for storage commitment: %s", self.destination, problem)
        self._observer.count("commitments_refused", destination=self.destination)

    def _ask(self, due: Sequence[Delivery], transaction_uid: str) -> str:
        """Send the request; why it was not accepted, empty where it was."""
        try:
            self._link = link = open_link(self._peer, [PROPOSAL], handlers=self._handlers())
        except Unreachable as exc:
            return in_one_line(exc)
        if not link.is_open:
            return f"presentation context rejected: {link.rejections[PROPOSAL].text}"
        self._release_at = time.monotonic() + _HOLD_S
        references = [(delivery.sop_class_uid, delivery.sop_instance_uid) for delivery in due]
        status = link.request_commitment(information(transaction_uid, references, {}))
        if status is None:
            return "no answer to N-ACTION"
        meaning = response(status)
        return "" if meaning.meaning == "stored" else f"N-ACTION was answered {meaning.text}"

    def _handlers(self) -> list[tuple[Any, Callable[..., Any]]]:
        pynetdicom()
        from pynetdicom import evt

        return [(evt.EVT_N_EVENT_REPORT, self._on_event_report)]

    def _on_event_report(self, event: Any) -> tuple[int, None]:
        return answer_report(self, event), None

    def _commit(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            self._spool.committed([delivery.id for delivery in deliveries])
            self._observer.count("deliveries_committed", destination=self.destination)
            self._observer.record("committed", destination=self.destination, count=len(deliveries))

    def _fail(self, delivery: Delivery, reason: int | None) -> None:
        """Do what one failed instance asks for."""
        action, text = commitment_failure(reason)
        now = self._clock()
        text = f"storage commitment failed: {text}"
        self._observer.count("commitments_failed", destination=self.destination, action=action)
        if action != "permanent" and gives_up(self._config.retry, delivery.first_attempt_at, now):
            action, text = "permanent", f"given up after {self._config.retry.give_up_days:g} days: {text}"
        at = now + wait_s(self._config.retry, delivery.attempts, f"{self.destination}/{delivery.id}")
        if action == "send again":
            self._spool.commitment_failed([delivery.id], at, text)
        elif action == "ask again":
            self._spool.commitment_requested([delivery.id], delivery.transaction_uid, at)
        else:
            self._spool.refused(delivery.id, text)
            self._observer.record("refused", destination=self.destination, instance=delivery.instance_id, reason=text)


class CommitmentReports:
    """Takes the reports that come to our listener, from any of the PACS that were asked."""

    def __init__(self, users: Sequence[CommitmentUser]) -> None:
        self._users = tuple(users)

    @property
    def ae_titles(self) -> frozenset[str]:
        """Calling AE titles that the listener has to let in for this."""
        return frozenset(title for user in self._users for title in user.ae_titles)

    def take(self, calling_ae_title: str, event: Any) -> int:
        """Record an N-EVENT-REPORT (pynetdicom's event); the status to answer it with."""
        users = [user for user in self._users if calling_ae_title.strip() in user.ae_titles]
        status = NOT_AUTHORIZED
        for user in users:  # several destinations may be one application
            status = answer_report(user, event)
            if status == SUCCESS:
                break
        return status


def answer_report(user: CommitmentUser, event: Any) -> int:
    """Status for an N-EVENT-REPORT of ``user``'s PACS; nothing that it holds raises."""
    try:
        request = event.request
        if request.AffectedSOPClassUID != COMMITMENT_CLASS or request.AffectedSOPInstanceUID != COMMITMENT_INSTANCE:
            return NO_SUCH_INSTANCE
        return user.take_report(int(event.event_type or 0), event.event_information)
    except Exception as exc:  # noqa: BLE001 -- a damaged value may raise anything inside pydicom
        _log.error("a report of %s could not be taken: %s", user.destination, type(exc).__name__)
        return PROCESSING_FAILURE


def information(
    transaction_uid: str, stored: Sequence[tuple[str, str]], failed: Mapping[tuple[str, str], int]
) -> Dataset:
    """Storage commitment module (PS3.3 C.14): a request, or a report. Instances are (SOP class UID, instance UID)."""
    from pydicom import Dataset
    from pydicom.sequence import Sequence as Items

    dataset = Dataset()
    dataset.TransactionUID = transaction_uid
    if stored:
        dataset.ReferencedSOPSequence = Items([_reference(uids) for uids in stored])
    if failed:
        items = [_reference(uids) for uids in failed]
        for item, reason in zip(items, failed.values(), strict=True):
            item.FailureReason = reason
        dataset.FailedSOPSequence = Items(items)
    return dataset


def _reference(uids: tuple[str, str]) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = uids
    return item


def _read_report(event_type: int, information: Dataset) -> tuple[str, set[str], dict[str, int | None]] | int:
    """Transaction UID, instances stored, and instances failed with their reasons; a status where it is no report."""
    if event_type not in (1, 2):  # PS3.4 J.3.3.1: all stored; some failed
        return NO_SUCH_EVENT
    transaction_uid = str(information.get("TransactionUID", "") or "")
    if not transaction_uid:
        return INVALID_ARGUMENT
    stored = {str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ()}
    failed: dict[str, int | None] = {}
    for item in information.get("FailedSOPSequence") or ():
        reason = item.get("FailureReason")
        failed[str(item.ReferencedSOPInstanceUID)] = None if reason is None else int(reason)
    return transaction_uid, stored - failed.keys(), failed
