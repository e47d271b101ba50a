"""`Receiver`: the node's DICOM listener. C-STORE into the spool, C-ECHO, and both sides of storage commitment.

Who is let in: callers that ``receive.senders`` names, from their addresses, who call us by our AE title; and the
destinations of results, for their reports of storage commitment alone.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.node.association import COMMITMENT_CLASS, pynetdicom
from medfm_compress.runtime.node.config import NodeConfig, SenderConfig
from medfm_compress.runtime.node.sop_classes import image_sop_classes, transfer_syntaxes
from medfm_compress.runtime.node.spool.records import Arrival
from medfm_compress.runtime.node.spool.spool import Spool
from medfm_compress.runtime.node.storing import Answer, RateLimit, Storing
from medfm_compress.runtime.node.tls import server_context

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

VERIFICATION_CLASS = "1.2.840.10008.1.1"
_UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
_REJECTED_CALLING, _REJECTED_CALLED = (1, 1, 3), (1, 1, 7)  # PS3.8 table 9-21: permanent, service user
_REJECTED_LIMIT = (2, 3, 2)  # transient, provider (presentation): local limit exceeded
_NOT_AUTHORIZED, _NO_SUCH_ACTION, _FAILURE = 0x0124, 0x0123, 0x0110
_STOP_S = 10.0
_SAY_EVERY_S = 10.0  # one line for each reason
_log = logging.getLogger(__name__)


class CommitmentTaker(Protocol):
    """Takes an N-ACTION or N-EVENT-REPORT."""

    def take(self, calling_ae_title: str, event: Any) -> int:
        """The status to answer it with."""


class Reports(CommitmentTaker, Protocol):
    """Takes the reports of destinations."""

    @property
    def ae_titles(self) -> frozenset[str]:
        """Of those who may bring them."""


class Recorder(Protocol):
    """The audit trail."""

    def record(self, event: str, /, **facts: Any) -> None:
        """Add a line."""


class Counter(Protocol):
    """The metrics."""

    def count(self, name: str, /, **labels: Any) -> None:
        """Add to a counter."""


class Receiver:
    """The listener of a node."""

    def __init__(
        self,
        config: NodeConfig,
        spool: Spool,
        audit: Recorder,
        metrics: Counter,
        *,
        commitment: CommitmentTaker | None = None,
        reports: Reports | None = None,
    ) -> None:
        self._config, self._spool, self._audit, self._metrics = config.receive, spool, audit, metrics
        self._commitment, self._reports = commitment, reports
        self._senders = {sender.ae_title.strip(): sender for sender in config.receive.senders}
        self._rates = {title: RateLimit(config.receive.max_objects_per_minute) for title in self._senders}
        self._rate_lock, self._stopping = threading.Lock(), False
        self._said: dict[str, float] = {}
        self._server: Any = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def is_alive(self) -> bool:
        """Whether it listens."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin to listen.

        Raises:
            InputError: the port is taken, the address is not this machine's, or a certificate cannot be used.
            MissingDependency: pynetdicom is not installed.
        """
        pynetdicom()
        from pynetdicom import evt

        from medfm_compress.runtime.node.listener import Server

        config = self._config
        tls = None
        if config.tls is not None:
            try:
                tls = server_context(config.tls)
            except OSError as exc:
                raise InputError(
                    f"receive.tls cannot be used: {in_one_line(exc)}; give PEM files of a certificate, its key and the "
                    "authorities"
                ) from None
        try:
            self._server = Server(self, self._entity(), (config.host, config.port), tls)
        except OSError as exc:
            raise InputError(
                f"cannot listen at {config.host} port {config.port}: {in_one_line(exc)}; "
                "end what listens there, or change receive.host or receive.port"
            ) from None
        self._server.bind(evt.EVT_C_STORE, self._on_store)
        self._server.bind(evt.EVT_N_ACTION, self._on_action)
        self._server.bind(evt.EVT_N_EVENT_REPORT, self._on_event_report)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="receiver", daemon=True)
        self._thread.start()

    def stop(self, within_s: float = _STOP_S) -> None:
        """Let nobody in any more, give open associations their time, then abort them."""
        self._stopping = True
        if self._server is None:
            return
        self._server.shutdown()
        until = time.monotonic() + within_s
        while (open_ones := self._server.active_associations) and time.monotonic() < until:
            time.sleep(0.02)
        for association in open_ones:
            with suppress(Exception):
                association.abort()
        if self._thread is not None:
            self._thread.join(5.0)

    def may_connect(self, address: str) -> bool:
        """Whether anybody may call from there; destinations bring their reports from where they please."""
        if self._reports is not None and self._reports.ae_titles:
            return True
        return any(_calls_from(sender, address) for sender in self._senders.values())

    def contexts_for(self, calling: str, called: str, address: str) -> list[PresentationContext] | tuple[int, int, int]:
        """What this caller may do, or why it may not."""
        sender = self._senders.get(calling)
        if called != self._config.ae_title.strip():
            return self._rejected("called-ae-title", _REJECTED_CALLED, f"{in_one_line(repr(called))} was called")
        if self._stopping:
            return self._rejected("stopping", _REJECTED_LIMIT)
        if sender is not None and _calls_from(sender, address):
            return _contexts(images=True)
        if self._reports is not None and calling in {title.strip() for title in self._reports.ae_titles}:
            return _contexts(images=False)
        known = "calls from another address" if sender is not None else "is not among receive.senders"
        return self._rejected("calling-ae-title", _REJECTED_CALLING, f"{in_one_line(repr(calling))} {known}")

    def begin_store(self, association: Association, command_set: Any, transfer_syntax_uid: str) -> Storing:
        """Where the data set of a C-STORE goes."""
        title = str(association.requestor.ae_title).strip()
        sender = self._senders[title]
        with self._rate_lock:
            within = self._rates[title].take()
        arrival = Arrival(
            sop_class_uid=str(command_set.AffectedSOPClassUID),
            sop_instance_uid=str(command_set.AffectedSOPInstanceUID),
            transfer_syntax_uid=transfer_syntax_uid,
            sender=title,
            priority=sender.priority,
        )
        return Storing(self._spool, self._config, arrival, "" if within else "rate")

    def dropped(self, reason: str, detail: str = "") -> None:
        """A peer was not let in, or went over a bound; ``detail`` goes to the log alone."""
        self._metrics.count("refused", reason=reason)
        self._audit.record("refused", way="dicom", reason=reason)
        now = time.monotonic()
        if now - self._said.get(reason, -_SAY_EVERY_S) >= _SAY_EVERY_S:  # strangers shall not fill the log
            self._said[reason] = now
            _log.warning("a caller was refused (%s)%s", reason, f": {detail}" if detail else "")

    def _rejected(self, reason: str, verdict: tuple[int, int, int], detail: str = "") -> tuple[int, int, int]:
        self.dropped(reason, detail)
        return verdict

    def _entity(self) -> Any:
        from pynetdicom.ae import ApplicationEntity

        from medfm_compress.runtime.node.listener import PDU_BYTES

        entity = ApplicationEntity(self._config.ae_title)
        entity.maximum_associations = self._config.max_associations
        entity.maximum_pdu_size = PDU_BYTES
        entity.network_timeout = self._config.idle_s
        entity.acse_timeout = min(30.0, self._config.idle_s)
        entity.dimse_timeout = self._config.idle_s
        return entity

    def _on_store(self, event: Any) -> int:
        file = event.request._dataset_file
        answer = Answer(0xC000, "no-data-set") if file is None else file.storing.finish()
        if answer.reason:
            self.dropped(answer.reason)
        else:
            self._metrics.count("received", way="dicom")
            self._audit.record("received", way="dicom", instance=answer.instance_id, repeated=answer.repeated)
        return answer.status

    def _on_action(self, event: Any) -> tuple[int, None]:
        title = str(event.assoc.requestor.ae_title).strip()
        if self._commitment is None or title not in self._senders:
            return _NOT_AUTHORIZED, None
        return self._commitment.take(title, event), None

    def _on_event_report(self, event: Any) -> tuple[int, None]:
        if self._reports is None:
            return _NO_SUCH_ACTION, None
        return self._reports.take(str(event.assoc.requestor.ae_title).strip(), event), None


def _calls_from(sender: SenderConfig, address: str) -> bool:
    if not sender.addresses:
        return True
    try:
        caller = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(caller, "ipv4_mapped", None)
    return any((mapped or caller) in ipaddress.ip_network(network, strict=False) for network in sender.addresses)


def _contexts(*, images: bool) -> list[PresentationContext]:
    from pynetdicom.presentation import build_context

    commitment = build_context(COMMITMENT_CLASS, list(_UNCOMPRESSED))
    commitment.scu_role = commitment.scp_role = True
    contexts = [build_context(VERIFICATION_CLASS, list(_UNCOMPRESSED)), commitment]
    if images:
        contexts += [build_context(uid, list(transfer_syntaxes())) for uid in sorted(image_sop_classes())]
    return contexts
