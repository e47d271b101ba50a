"""A DICOM file (PS3.10) into the spool, from a stream: for the ways in that bring files instead of data sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.node.data_set_head import HEAD_BYTES, read_file_head, read_study_uid, read_uids
from medfm_compress.runtime.node.sop_classes import image_sop_classes
from medfm_compress.runtime.node.spool.records import Arrival
from medfm_compress.runtime.node.spool.spool import Spool


class Intake(NamedTuple):
    """How files of one way in are taken.

    Attributes:
        sender: what stands for it in the spool.
        max_bytes: of one file.
        study_uid: that every file must be of; empty for any.
    """

    spool: Spool
    sender: str
    priority: int
    max_bytes: int
    study_uid: str = ""


class Taken(NamedTuple):
    """A file that is in the spool, durably."""

    sop_class_uid: str
    sop_instance_uid: str
    instance_id: int
    repeated: bool


class NotTaken(ImageRefused):
    """A file that is not for this node.

    Attributes:
        status: as C-STORE would answer (PS3.4 table B.2-1, PS3.7 annex C).
        code: a word for metrics and the audit trail.
        uids: SOP class and instance UID, as far as they are known.
    """

    def __init__(self, message: str, status: int, code: str, uids: tuple[str, str] = ("", "")) -> None:
        super().__init__(message)
        self.status, self.code, self.uids = status, code, uids


def take(chunks: Iterable[bytes], intake: Intake) -> Taken:
    """Put a file into the spool; when this returns, it is durable.

    Args:
        chunks: of the whole file, in order.
        intake: how.

    Raises:
        NotTaken: it is no DICOM file of an image, or too large; nothing of it is kept.
        SpoolFull, OSError: likewise, but it may be tried again.
    """
    pieces = iter(chunks)
    head = _head(pieces)
    arrival, offset = _arrival(head, intake)
    with intake.spool.incoming() as incoming:
        incoming.write_header(head[:offset])
        incoming.write(head[offset:])
        for piece in pieces:
            if incoming.size + len(piece) > intake.max_bytes:
                raise NotTaken("it has more bytes than one object may have", 0xA900, "object-too-large", _uids(arrival))
            incoming.write(piece)
        accepted = intake.spool.accept(incoming, arrival)
    return Taken(*_uids(arrival), accepted.instance_id, accepted.repeated)


def _head(pieces: Iterator[bytes]) -> bytes:
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= HEAD_BYTES:
            break
    return head


def _arrival(head: bytes, intake: Intake) -> tuple[Arrival, int]:
    try:
        syntax, offset = read_file_head(head[:HEAD_BYTES])
        data_set = head[offset : offset + HEAD_BYTES]
        uids = read_uids(data_set, syntax)
    except ImageRefused as exc:
        raise NotTaken(str(exc), 0xC000, "not-understood") from None
    if uids[0] not in image_sop_classes():
        raise NotTaken("its SOP class is no storage class of images", 0x0122, "sop-class", uids)
    if intake.study_uid and read_study_uid(data_set, syntax) != intake.study_uid:
        raise NotTaken("it is not of the study that the request names", 0xA900, "study-mismatch", uids)
    arrival = Arrival(
        sop_class_uid=uids[0],
        sop_instance_uid=uids[1],
        transfer_syntax_uid=syntax,
        sender=intake.sender,
        priority=intake.priority,
    )
    return arrival, offset


def _uids(arrival: Arrival) -> tuple[str, str]:
    return arrival.sop_class_uid, arrival.sop_instance_uid
