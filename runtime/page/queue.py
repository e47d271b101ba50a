"""What a page shows of a node's queue, and what it asks of it; the node gives it one, a page alone has none.

Nothing here names a patient: numbers of the spool, senders by their AE titles, times.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class WaitingImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that waits, or is being read; ``received_at`` in seconds since 1970, UTC."""

    number: int
    sender: str
    priority: int
    received_at: float
    is_being_read: bool


class ReadImage(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an image.

    Attributes:
        is_urgent: has a finding that goes to the top.
        called: findings at or above their operating point, the most probable first.
        probabilities: of all findings; empty where none is given.
        not_reliable: why no finding is given; else empty.
        flags: in words.
        delivery: ``under way``, ``delivered``, ``set aside`` or ``given up``.
    """

    number: int
    sender: str
    received_at: float
    read_at: float
    is_urgent: bool
    called: tuple[str, ...]
    probabilities: dict[str, float]
    not_reliable: str
    flags: tuple[str, ...]
    delivery: str


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """Something in quarantine; ``name`` is what `Queue.replay` takes."""

    name: str
    what: str
    received_at: float
    code: str
    reason: str


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """All of it.

    Attributes:
        faults: why the node is not well; empty while it is.
        waiting: in the order in which they will be read.
        waiting_total: how many there are; ``waiting`` has the first of them alone.
        results: urgent ones first, then the latest.
        quarantine: the oldest first, at most some hundreds; likewise ``quarantine_total``.
    """

    faults: tuple[str, ...]
    waiting: tuple[WaitingImage, ...]
    waiting_total: int
    results: tuple[ReadImage, ...]
    quarantine: tuple[SetAside, ...]
    quarantine_total: int


class Queue(Protocol):
    """A node's queue; called from several threads."""

    def view(self) -> QueueView:
        """What there is now."""

    def replay(self, names: tuple[str, ...]) -> int:
        """Try again what is called so, how many; raises InputError where one is not in quarantine."""
