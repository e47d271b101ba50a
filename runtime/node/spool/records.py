"""What the spool holds, as values: a received instance, the objects made of it, their deliveries."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

InstanceState = Literal["waiting", "reading", "read", "quarantined", "done", "discarded"]
"""``read``: its objects are being delivered; ``done``: all of them are, and the files are gone; ``discarded``: taken
out of quarantine for good, and about to go."""
PATIENT_ACCEPTED = "patient-accepted"
"""Reason code of an instance that waits again because an operator says that its patient is the study's."""
DeliveryState = Literal["waiting", "delivered", "committed", "quarantined"]
"""``delivered``: the destination answered success, commitment is awaited; ``committed``: it may be forgotten."""
ObjectKind = Literal["sr", "sc", "seg", "fhir"]


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an instance before it is decoded, from the DIMSE request or the file meta information.

    Attributes:
        sender: calling AE title, or ``watch`` and ``stow``.
        transfer_syntax_uid: of the data set as it lies in the file.
        priority: 0 to 9, 9 first.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    sender: str
    priority: int = 5


class SpooledInstance(msgspec.Struct, frozen=True, kw_only=True):
    """A received instance.

    Attributes:
        id: of the spool, rising with arrival.
        path: the DICOM file (PS3.10, with file meta information); absent once state is ``done``.
        digest: SHA-256 of the data set's bytes as they arrived, without preamble and file meta information.
        bytes: of the file.
        received_at: seconds since 1970, UTC.
        deadline_at: likewise; None for never.
        attempts: how often reading it began.
        reason_code: why it is in quarantine, a word for metrics, e.g. ``image-refused``; empty elsewhere.
        reason: the same as a sentence, without patient data.
    """

    id: int
    arrival: Arrival
    path: Path
    digest: str
    bytes: int
    received_at: float
    deadline_at: float | None
    state: InstanceState
    attempts: int = 0
    reason_code: str = ""
    reason: str = ""


class ResultObject(msgspec.Struct, frozen=True, kw_only=True):
    """An object made of an instance, complete, for some destinations.

    Attributes:
        sop_instance_uid: deterministic, so that a repeat is the same object; of FHIR the identifier of its report.
        content: a DICOM file (PS3.10), or a FHIR bundle as JSON.
        destinations: names of those that get it.
    """

    kind: ObjectKind
    sop_class_uid: str
    sop_instance_uid: str
    content: bytes
    destinations: tuple[str, ...]


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One object on its way to one destination.

    Attributes:
        path: of the object's content.
        instance_id: of the instance that it was made of.
        attempts: how often it was sent.
        first_attempt_at: seconds since 1970, UTC; None before the first.
        transaction_uid: of the storage commitment that was asked for; empty before.
    """

    id: int
    instance_id: int
    kind: ObjectKind
    sop_class_uid: str
    sop_instance_uid: str
    path: Path
    destination: str
    state: DeliveryState
    attempts: int = 0
    first_attempt_at: float | None = None
    transaction_uid: str = ""
    reason: str = ""


class CommitmentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Storage commitment that a sender asked for and has not been answered yet.

    Attributes:
        requester: its AE title.
        items: pairs of SOP class and SOP instance UID.
        attempts: how often the answer was tried.
    """

    id: int
    requester: str
    transaction_uid: str
    items: tuple[tuple[str, str], ...]
    asked_at: float
    attempts: int = 0


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """An instance in quarantine, or a delivery, without patient data.

    Attributes:
        id: of the instance, or of the delivery.
        destination: of a delivery; empty for an instance.
    """

    id: int
    destination: str
    reason_code: str
    reason: str
    received_at: float


class SpoolCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What the spool holds.

    Attributes:
        instances: state → number.
        deliveries: destination → state → number.
        quarantine: reason code → number of instances.
        bytes: of the files.
        oldest_waiting_at: seconds since 1970 when the oldest instance that waits was received; None where none does.
        oldest_undelivered_at: likewise of the oldest that some destination still lacks.
        commitments: requests of senders that are not answered yet.
    """

    instances: dict[InstanceState, int]
    deliveries: dict[str, dict[DeliveryState, int]]
    quarantine: dict[str, int]
    bytes: int
    oldest_waiting_at: float | None
    oldest_undelivered_at: float | None
    commitments: int
