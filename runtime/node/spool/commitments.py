"""Storage commitment that senders ask of this node (PS3.4 annex J): the requests, durably, until they are answered."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from medfm_compress.runtime.node.spool.deliveries import Deliveries
from medfm_compress.runtime.node.spool.records import CommitmentRequest

_AT_ONCE = 500  # values of one query


class Commitments(Deliveries):
    """The spool as the provider of storage commitment sees it."""

    def commitment_asked(self, requester: str, transaction_uid: str, items: Sequence[tuple[str, str]]) -> int:
        """Keep a request, durably, and return its id; a repeat of the transaction UID is to be answered once more."""
        text, now = msgspec.json.encode(items).decode(), self._clock()
        with self._transaction() as database:
            row = database.execute(
                "INSERT INTO commitments (requester, transaction_uid, items, asked_at, due_at) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (requester, transaction_uid) DO UPDATE SET items = excluded.items, "
                "due_at = excluded.due_at, answered_at = NULL RETURNING id",
                (requester, transaction_uid, text, now, now),
            ).fetchone()
        self.notify()
        return int(row["id"])

    def due_commitment_answers(self, now: float, limit: int = 100) -> list[CommitmentRequest]:
        """Requests that are to be answered now, the first that came first."""
        rows = self._rows(
            "SELECT * FROM commitments WHERE answered_at IS NULL AND due_at <= ? ORDER BY id LIMIT ?", now, limit
        )
        return [_request(row) for row in rows]

    def commitment_answered(self, request_id: int) -> None:
        """The requester has the answer."""
        self._change_request(request_id, "answered_at = ?", self._clock())

    def commitment_retry(self, request_id: int, at: float) -> None:
        """The answer could not be given; not again before ``at`` (seconds since 1970)."""
        self._change_request(request_id, "due_at = ?", at)

    def end_waits(self, longer_than_s: float = 0.0) -> None:
        """Let what waits for a time be due now, if it is so far away: where the clock has gone back."""
        now = self._clock()
        latest = now + longer_than_s
        with self._transaction() as database:
            database.execute(
                "UPDATE deliveries SET due_at = ? WHERE state IN ('waiting', 'delivered') AND due_at > ?", (now, latest)
            )
            database.execute(
                "UPDATE commitments SET due_at = ? WHERE answered_at IS NULL AND due_at > ?", (now, latest)
            )
        self.notify()

    def lookup(self, sop_instance_uids: Iterable[str]) -> dict[str, str]:
        """Of those instances that are held, or were read and delivered: SOP instance UID → SOP class UID."""
        uids, held = list(sop_instance_uids), {}
        for start in range(0, len(uids), _AT_ONCE):
            some = uids[start : start + _AT_ONCE]
            rows = self._rows(
                "SELECT sop_instance_uid, sop_class_uid FROM instances "  # noqa: S608 -- question marks only
                f"WHERE sop_instance_uid IN ({', '.join('?' * len(some))}) "
                "AND reason_code != 'file-damaged' AND state != 'discarded'",
                *some,
            )
            held.update({row["sop_instance_uid"]: row["sop_class_uid"] for row in rows})
        return held

    def _change_request(self, request_id: int, change: str, value: float) -> None:
        with self._transaction() as database:
            database.execute(
                f"UPDATE commitments SET {change}, attempts = attempts + 1 WHERE id = ?",  # noqa: S608 -- constants
                (value, request_id),
            )


def _request(row: sqlite3.Row) -> CommitmentRequest:
    items = tuple((str(sop_class), str(instance)) for sop_class, instance in msgspec.json.decode(row["items"]))
    return CommitmentRequest(
        items=items, **{name: row[name] for name in CommitmentRequest.__struct_fields__ if name != "items"}
    )
