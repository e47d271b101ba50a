"""C-STORE of results to a PACS.

For each SOP class two presentation contexts are proposed: the object's transfer syntax alone, and the other of
explicit and implicit VR little endian where the object is in one of them. So the peer's answer tells whether the object
may go as it lies in the file, re-encoded, or not at all; it is never sent in a syntax that was not accepted.

An association serves all that is due, and stays open for a moment after it. The answer Success that is not recorded,
because the node ends before, leads to the same object being sent again: one SOP instance UID, which a PACS knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.node.association import Link, Peer, Proposal, Unreachable, open_link
from medfm_compress.runtime.node.commitment import CommitmentUser
from medfm_compress.runtime.node.config import PacsConfig
from medfm_compress.runtime.node.delivery_loop import (
    DeliveryLoop,
    Destination,
    Never,
    NobodyWatches,
    NotNow,
    Observer,
    Outcome,
    Sent,
)
from medfm_compress.runtime.node.spool.records import Delivery
from medfm_compress.runtime.node.statuses import response

if TYPE_CHECKING:
    from pydicom import Dataset

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_OTHER_SYNTAX = {IMPLICIT_LITTLE: EXPLICIT_LITTLE, EXPLICIT_LITTLE: IMPLICIT_LITTLE}
# C-ECHO, which every peer takes: some reject the whole association where they take none of the classes of the objects.
_VERIFICATION = Proposal("1.2.840.10008.1.1", (IMPLICIT_LITTLE,))
_LINGER_S = 2.0


class Deliverer(Destination):
    """Thread that sends results to one PACS, and asks it for storage commitment."""

    def __init__(
        self,
        config: PacsConfig,
        calling_ae_title: str,
        spool: Any,
        observer: Observer | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        observer = observer or NobodyWatches()
        title = config.calling_ae_title if isinstance(config.calling_ae_title, str) else calling_ae_title
        self.commitment = CommitmentUser(config, title, spool, observer, clock=clock)
        channel = _PacsChannel(_peer(config, title), self.commitment)
        super().__init__(DeliveryLoop(config.name, config.retry, spool, channel, observer, clock=clock))


class _Header(NamedTuple):
    """What the file meta information says (PS3.10 7.1)."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class _PacsChannel:
    def __init__(self, peer: Peer, commitment: CommitmentUser) -> None:
        self._peer, self._commitment = peer, commitment
        self._link: Link | None = None
        self._proposals: frozenset[Proposal] = frozenset()
        self._used_at = 0.0
        self._severed = False

    def prepare(self, deliveries: Sequence[Delivery]) -> None:
        """Have an association that covers all that is needed for ``deliveries``."""
        headers = [header for delivery in deliveries if isinstance(header := _read_header(delivery), _Header)]
        needed = frozenset(proposal for header in headers for proposal in _proposals(header))
        if not needed or (self._link is not None and self._link.is_open and needed <= self._proposals):
            return
        self.close()
        self._link = open_link(self._peer, [*sorted(needed), _VERIFICATION])
        self._proposals = needed

    def send(self, delivery: Delivery) -> Outcome:
        """C-STORE of one object."""
        header = _read_header(delivery)
        if not isinstance(header, _Header):
            return header
        if self._link is None:
            raise Unreachable("the association ended")
        content = _acceptable(self._link, header, delivery)
        if not isinstance(content, _Content):
            return content
        if not self._link.is_open:  # a peer may end it at any time
            self.prepare([delivery])
        status = self._link.store(content.data, content.size)
        self._used_at = time.monotonic()
        if status is None:
            return NotNow("no answer to C-STORE")
        return _outcome(status)

    def idle(self, now: float) -> None:
        """Release what is not used any more, and see to storage commitment."""
        if self._link is not None and time.monotonic() - self._used_at > _LINGER_S:
            self.close()
        self._commitment.work(now)

    def close(self) -> None:
        """Release the associations."""
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self._commitment.close()

    def sever(self) -> None:
        """Break the associations at once."""
        link = self._link
        if link is not None:
            link.sever()
        self._commitment.sever()


class _Content(NamedTuple):
    """What goes out: the file as it lies there, or its data set re-encoded."""

    data: Path | Dataset
    size: int


def _peer(config: PacsConfig, calling_ae_title: str) -> Peer:
    return Peer(config.ae_title, config.host, config.port, calling_ae_title, config.tls, config.timeout_s)


def _proposals(header: _Header) -> list[Proposal]:
    own = header.transfer_syntax_uid
    syntaxes = [own, _OTHER_SYNTAX[own]] if own in _OTHER_SYNTAX else [own]
    return [Proposal(header.sop_class_uid, (syntax,)) for syntax in syntaxes]


def _read_header(delivery: Delivery) -> _Header | NotNow | Never:
    """File meta information of the object, which must be that of the delivery."""
    from pydicom.filereader import read_file_meta_info

    try:
        meta = read_file_meta_info(delivery.path)
        header = _Header(
            str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID), str(meta.TransferSyntaxUID)
        )
    except FileNotFoundError:
        return Never("object-missing", "its file is not in the spool")
    except OSError as exc:
        return NotNow(f"its file cannot be read: {in_one_line(exc)}")
    except Exception as exc:  # noqa: BLE001 -- a damaged file may raise anything inside pydicom
        return Never("object-damaged", f"its file is no DICOM object: {type(exc).__name__}")
    if header[:2] != (delivery.sop_class_uid, delivery.sop_instance_uid):
        return Never("object-damaged", "its file holds another object")
    return header


def _acceptable(link: Link, header: _Header, delivery: Delivery) -> _Content | NotNow | Never:
    """The object in a transfer syntax that was accepted for its class."""
    own = header.transfer_syntax_uid
    try:
        size = delivery.path.stat().st_size
        if link.accepts(header.sop_class_uid, own):
            return _Content(delivery.path, size)
        other = _OTHER_SYNTAX.get(own)
        if other is not None and link.accepts(header.sop_class_uid, other):
            return _Content(_re_encoded(delivery.path, other), size)
    except OSError as exc:
        return NotNow(f"its file cannot be read: {in_one_line(exc)}")
    except InputError as exc:
        return Never("not-convertible", in_one_line(exc))
    rejections = [link.rejections[proposal] for proposal in _proposals(header) if proposal in link.rejections]
    texts = "; ".join(dict.fromkeys(rejection.text for rejection in rejections))
    reason = f"no presentation context of its class was accepted: {texts or 'not proposed'}"
    if not rejections or any(rejection.meaning == "transient" for rejection in rejections):
        return NotNow(reason)
    return Never("context-rejected", reason)


def _re_encoded(path: Path, transfer_syntax_uid: str) -> Dataset:
    """The data set of the file in the other of explicit and implicit VR little endian.

    Raises:
        InputError: it cannot be re-encoded.
    """
    import io

    from pydicom import dcmread

    try:
        dataset = dcmread(path)
        buffer = io.BytesIO()
        dataset.file_meta.TransferSyntaxUID = transfer_syntax_uid
        dataset.save_as(
            buffer,
            implicit_vr=transfer_syntax_uid == IMPLICIT_LITTLE,
            little_endian=True,
            enforce_file_format=True,
        )
        buffer.seek(0)
        return dcmread(buffer)
    except OSError:
        raise
    except Exception as exc:  # noqa: BLE001 -- likewise
        raise InputError(f"it cannot be re-encoded: {type(exc).__name__}") from None


def _outcome(code: int) -> Outcome:
    status = response(code)
    if status.meaning == "stored":
        return Sent("" if code == 0 else status.text)
    if status.meaning == "transient":
        return NotNow(f"C-STORE was answered {status.text}")
    return Never("status", f"C-STORE was answered {status.text}")
