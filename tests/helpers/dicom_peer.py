"""A PACS for tests that can be told to misbehave: a pynetdicom application entity on a free port of loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import ComprehensiveSRStorage, EnhancedSRStorage, StorageCommitmentPushModel

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"


class DicomPeer:
    """Stores what it gets in `received`, and does as it is told.

    Attributes:
        answer: gets the number of C-STORE requests before and the SOP instance UID; a status, or "abort", or "sleep".
        on_commitment: gets the peer, the association and the action information, in a thread of its own.
        received: (SOP instance UID, transfer syntax UID, encoded data set) of what was answered success or warning.
    """

    def __init__(
        self,
        *,
        classes: Sequence[str] = (ComprehensiveSRStorage, EnhancedSRStorage),
        syntaxes: Sequence[str] = (EXPLICIT, IMPLICIT),
        commitment: bool = True,
        port: int = 0,
        tls: Any = None,
    ) -> None:
        self.answer: Callable[[int, str], Any] = lambda number, uid: 0x0000
        self.on_commitment: Callable[[DicomPeer, Any, Any], None] | None = None
        self.received: list[tuple[str, str, bytes]] = []
        self.requests: list[str] = []
        self.transactions: list[str] = []
        self.report_statuses: list[int | None] = []
        self.associations = 0
        self.released = 0
        self.awake = threading.Event()
        self._threads: list[threading.Thread] = []
        self.entity = AE(ae_title="PACS")
        self.entity.maximum_pdu_size = 128 * 1024
        for uid in classes:
            self.entity.add_supported_context(uid, list(syntaxes))
        if commitment:
            self.entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        handlers = [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_RELEASED, self._on_released),
        ]
        self.server = self.entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=tls)
        self.port = self.server.socket.getsockname()[1]

    def close(self) -> None:
        """Stop listening, and end what hangs."""
        self.awake.set()
        self.server.shutdown()
        self.entity.shutdown()
        for thread in self._threads:
            thread.join(10)

    @property
    def uids(self) -> list[str]:
        """Of what was received, in order."""
        return [uid for uid, _, _ in self.received]

    def _on_accepted(self, event: Any) -> None:
        self.associations += 1

    def _on_released(self, event: Any) -> None:
        self.released += 1

    def _on_store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        answer = self.answer(len(self.requests), uid)
        self.requests.append(uid)
        if answer == "abort":
            event.assoc.abort()
            return 0x0110
        if answer == "sleep":
            self.awake.wait(60)
            return 0x0110
        if answer == 0 or answer >> 12 == 0xB:
            self.received.append((uid, str(event.context.transfer_syntax), event.encoded_dataset(include_meta=False)))
        return int(answer)

    def _on_action(self, event: Any) -> tuple[int, None]:
        information = event.action_information
        self.transactions.append(str(information.TransactionUID))
        if self.on_commitment is not None:
            thread = threading.Thread(target=self.on_commitment, args=(self, event.assoc, information), daemon=True)
            self._threads.append(thread)
            thread.start()
        return 0x0000, None

    def report_here(self, association: Any, report: Any, event_type: int = 1) -> None:
        """Report on the association that the request came on, once the request is answered."""
        time.sleep(0.1)
        status, _ = association.send_n_event_report(report, event_type, StorageCommitmentPushModel, COMMITMENT_INSTANCE)
        self.report_statuses.append(status.get("Status"))

    def release(self, association: Any) -> None:
        """End the association, once the request is answered."""
        time.sleep(0.1)
        association.release()

    def report_to(self, port: int, report: Any, event_type: int = 1, *, calling: str = "PACS") -> None:
        """Report on an association of its own, with the SCP role proposed for itself."""
        entity = AE(ae_title=calling)
        entity.add_requested_context(StorageCommitmentPushModel)
        association = entity.associate(
            "127.0.0.1", port, ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)]
        )
        assert association.is_established
        status, _ = association.send_n_event_report(report, event_type, StorageCommitmentPushModel, COMMITMENT_INSTANCE)
        self.report_statuses.append(status.get("Status"))
        association.release()


class CommitmentListener:
    """The node's listener as far as storage commitment needs it."""

    def __init__(self, reports: Any = None, answers: Any = None) -> None:
        self.entity = AE(ae_title="NODE")
        self.entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        handlers = []
        if reports is not None:
            handlers.append((evt.EVT_N_EVENT_REPORT, lambda event: (reports.take(_caller(event), event), None)))
        if answers is not None:
            handlers.append((evt.EVT_N_ACTION, lambda event: (answers.take(_caller(event), event), None)))
        self.server = self.entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.socket.getsockname()[1]

    def close(self) -> None:
        self.server.shutdown()
        self.entity.shutdown()


def _caller(event: Any) -> str:
    return event.assoc.requestor.ae_title
