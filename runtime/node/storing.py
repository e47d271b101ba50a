"""One C-STORE on its way in: its data set into the spool's incoming file while it arrives, then what to answer.

Statuses by PS3.4 table B.2-1 and PS3.7 annex C: success only once the spool has it durably; A700H (out of resources: to
be tried again) where there is no room, or it sends too fast; A900H where the data set is not of the SOP class or
instance that the request names; C000H where it cannot be understood. An object whose identity is in doubt is not taken
into quarantine: the sender keeps it and is told, and storage commitment could vouch for neither of the two UIDs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.node.config import ReceiveConfig
from medfm_compress.runtime.node.data_set_head import HEAD_BYTES, file_header, is_uid, read_uids
from medfm_compress.runtime.node.spool.receiving import IncomingFile, SpoolFull
from medfm_compress.runtime.node.spool.records import Arrival
from medfm_compress.runtime.node.spool.spool import Spool

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
_log = logging.getLogger(__name__)


class TooLarge(Exception):
    """More bytes than one object may have; the association is to be aborted."""


class Answer(NamedTuple):
    """To a C-STORE.

    Attributes:
        reason: a word for metrics and the audit trail; empty for success.
        instance_id: of the spool, where it was stored.
    """

    status: int
    reason: str = ""
    instance_id: int = 0
    repeated: bool = False


class RateLimit:
    """Objects a minute of one sender: it may send that many at once, and then at that rate."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._left, self._at = float(per_minute), clock()

    def take(self) -> bool:
        """Whether one more may come now."""
        now = self._clock()
        self._left = min(self._per_minute, self._left + (now - self._at) * self._per_minute / 60)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Storing:
    """The data set of one C-STORE request: written to as it arrives, then kept or dropped."""

    def __init__(self, spool: Spool, config: ReceiveConfig, arrival: Arrival, refusal: str = "") -> None:
        """Begin to receive.

        Args:
            spool: takes it.
            config: bounds.
            arrival: what the request says.
            refusal: why nothing of it is kept, where that is known at once: its bytes are passed over then.
        """
        self._spool, self._arrival, self._refusal = spool, arrival, refusal
        self._limit, self._bytes, self._head = config.max_object_mb * 10**6, 0, b""
        self._file: IncomingFile | None = None
        if not refusal:
            self._begin()

    def write(self, data: bytes) -> None:
        """Take some bytes; where they cannot be kept the rest is passed over, so that the sender gets an answer.

        Raises:
            TooLarge: more than an object may have.
        """
        self._bytes += len(data)
        if self._bytes > self._limit:
            self.close()
            raise TooLarge
        if self._file is None:
            return
        if len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
        try:
            self._file.write(data)
        except (SpoolFull, OSError) as exc:
            self._give_up(exc)

    def finish(self) -> Answer:
        """Keep the object durably, and say what to answer."""
        try:
            return self._keep()
        except (SpoolFull, OSError) as exc:
            self._give_up(exc)
            return Answer(OUT_OF_RESOURCES, self._refusal)
        finally:
            self.close()

    def close(self) -> None:
        """Drop what was not kept; may be repeated."""
        if self._file is not None:
            with suppress(OSError):
                self._spool.discard_incoming(self._file)
            self._file = None

    def _begin(self) -> None:
        arrival = self._arrival
        try:
            header = file_header(arrival.sop_class_uid, arrival.sop_instance_uid, arrival.transfer_syntax_uid)
            self._file = self._spool.begin_incoming()
            self._file.write_header(header)
        except (SpoolFull, OSError) as exc:
            self._give_up(exc)

    def _keep(self) -> Answer:
        if self._refusal:
            return Answer(OUT_OF_RESOURCES, self._refusal)
        if self._file is None or not is_uid(self._arrival.sop_instance_uid):
            return Answer(CANNOT_UNDERSTAND, "no-data-set")
        try:
            uids = read_uids(self._head, self._arrival.transfer_syntax_uid)
        except ImageRefused:
            return Answer(CANNOT_UNDERSTAND, "not-understood")
        if uids != (self._arrival.sop_class_uid, self._arrival.sop_instance_uid):
            return Answer(DOES_NOT_MATCH, "uid-mismatch")
        accepted = self._spool.accept(self._file, self._arrival)
        return Answer(SUCCESS, "", accepted.instance_id, accepted.repeated)

    def _give_up(self, exc: Exception) -> None:
        self._refusal = "spool-full" if isinstance(exc, SpoolFull) else "not-written"
        if not isinstance(exc, SpoolFull):
            _log.error("an object could not be written: %s", getattr(exc, "strerror", None) or type(exc).__name__)
        self.close()
