"""What is owed to the destinations: due, sent, committed, to be tried again, refused for good."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from medfm_compress.runtime.node.spool.reading import Reading
from medfm_compress.runtime.node.spool.records import Delivery
from medfm_compress.runtime.node.spool.store import OBJECTS

_SELECT = (
    "SELECT deliveries.*, objects.instance_id, objects.kind, objects.sop_class_uid, objects.sop_instance_uid, "
    "objects.file FROM deliveries JOIN objects ON objects.id = deliveries.object_id "
    "JOIN instances ON instances.id = objects.instance_id "
)
NO_DESTINATION = "the configuration has no destination of this name; give it one, and start the node again"
_TRANSACTIONS = 8  # of a delivery, that a report may still come for
_ATTEMPTED = "attempts = attempts + 1, first_attempt_at = COALESCE(first_attempt_at, ?)"


def _keep_transaction(database: sqlite3.Connection, delivery_id: int, transaction_uid: str, now: float) -> None:
    """Remember that it was asked for, and forget all but the last few times: a late answer is still an answer."""
    database.execute("INSERT OR REPLACE INTO transactions VALUES (?, ?, ?)", (transaction_uid, delivery_id, now))
    database.execute(
        "DELETE FROM transactions WHERE delivery_id = ? AND transaction_uid NOT IN "
        "(SELECT transaction_uid FROM transactions WHERE delivery_id = ? ORDER BY asked_at DESC LIMIT ?)",
        (delivery_id, delivery_id, _TRANSACTIONS),
    )


class Deliveries(Reading):
    """The spool as those who deliver see it."""

    def due_deliveries(self, destination: str, now: float, limit: int) -> list[Delivery]:
        """What is to be sent there now, of the highest priority the first that was made."""
        rows = self._rows(
            f"{_SELECT} WHERE destination = ? AND deliveries.state = 'waiting' AND due_at <= ? "
            "ORDER BY instances.priority DESC, deliveries.id LIMIT ?",
            *(destination, now, limit),
        )
        return [self._delivery(row) for row in rows]

    def awaiting_commitment(self, destination: str, now: float, limit: int = 1000) -> list[Delivery]:
        """What was sent there, and whose storage commitment is to be asked for now: for the first time, or again."""
        rows = self._rows(
            f"{_SELECT} WHERE destination = ? AND deliveries.state = 'delivered' AND due_at <= ? "
            "ORDER BY deliveries.id LIMIT ?",
            *(destination, now, limit),
        )
        return [self._delivery(row) for row in rows]

    def transaction(self, destination: str, transaction_uid: str) -> list[Delivery]:
        """What storage commitment was asked of that destination under this transaction UID, answered already or not."""
        rows = self._rows(
            f"{_SELECT} JOIN transactions ON transactions.delivery_id = deliveries.id "
            "WHERE transactions.transaction_uid = ? AND destination = ? ORDER BY deliveries.id",
            *(transaction_uid, destination),
        )
        return [self._delivery(row) for row in rows]

    def next_due(self, destination: str) -> float | None:
        """When something is next to be done for that destination; None where nothing is."""
        row = self._row(
            "SELECT MIN(due_at) AS due FROM deliveries WHERE destination = ? AND state IN ('waiting', 'delivered')",
            destination,
        )
        return None if row is None or row["due"] is None else float(row["due"])

    def set_destinations(self, names: Iterable[str]) -> tuple[int, int]:
        """Set aside what is owed to none of ``names``, and take up again what is owed to one that was missing before.

        Returns:
            How many deliveries were set aside, and how many taken up.
        """
        known = msgspec.json.encode(sorted(names)).decode()
        with self._transaction() as database:
            aside = database.execute(
                "UPDATE deliveries SET state = 'quarantined', reason = ? WHERE state IN ('waiting', 'delivered') "
                "AND destination NOT IN (SELECT value FROM json_each(?))",
                (NO_DESTINATION, known),
            ).rowcount
            taken_up = database.execute(
                "UPDATE deliveries SET state = 'waiting', reason = '', due_at = 0, first_attempt_at = NULL "
                "WHERE state = 'quarantined' AND reason = ? AND destination IN (SELECT value FROM json_each(?))",
                (NO_DESTINATION, known),
            ).rowcount
        self.notify()
        return aside, taken_up

    def sent(self, delivery_id: int) -> None:
        """The destination answered success; its storage commitment is awaited."""
        now = self._clock()
        self._update([delivery_id], "waiting", f"state = 'delivered', reason = '', due_at = ?, {_ATTEMPTED}", now, now)

    def committed(self, delivery_ids: Iterable[int]) -> None:
        """The destination holds them safely (or success is all that is asked of it): they may be forgotten."""
        ids = list(delivery_ids)
        self._update(ids, "waiting", f"state = 'committed', reason = '', {_ATTEMPTED}", self._clock())
        self._update(ids, "delivered", "state = 'committed', reason = ''")

    def retry(self, delivery_id: int, at: float, reason: str) -> None:
        """It failed for the moment; not again before ``at`` (seconds since 1970)."""
        self._update([delivery_id], "waiting", f"due_at = ?, reason = ?, {_ATTEMPTED}", *(at, reason, self._clock()))

    def refused(self, delivery_id: int, reason: str) -> None:
        """The destination will never take it: set aside until it is replayed."""
        for state in ("waiting", "delivered"):
            self._update(
                [delivery_id], state, f"state = 'quarantined', reason = ?, {_ATTEMPTED}", reason, self._clock()
            )

    def commitment_requested(self, delivery_ids: Iterable[int], transaction_uid: str, repeat_at: float) -> None:
        """Storage commitment was asked for; without an answer it is asked for again at ``repeat_at``."""
        ids, now = list(delivery_ids), self._clock()
        with self._transaction() as database:
            for delivery_id in ids:
                changed = database.execute(
                    "UPDATE deliveries SET transaction_uid = ?, due_at = ? WHERE id = ? AND state = 'delivered'",
                    (transaction_uid, repeat_at, delivery_id),
                ).rowcount
                if changed and transaction_uid:
                    _keep_transaction(database, delivery_id, transaction_uid, now)
        self.notify()

    def commitment_failed(self, delivery_ids: Iterable[int], at: float, reason: str) -> None:
        """The destination does not hold them: they are sent again, at ``at``."""
        self._update(
            delivery_ids, "delivered", "state = 'waiting', transaction_uid = '', due_at = ?, reason = ?", at, reason
        )

    def _update(self, delivery_ids: Iterable[int], state: str, change: str, *values: object) -> None:
        with self._transaction() as database:
            database.executemany(
                f"UPDATE deliveries SET {change} WHERE id = ? AND state = ?",  # noqa: S608 -- constants of this file
                [(*values, delivery_id, state) for delivery_id in delivery_ids],
            )
        self.notify()

    def _delivery(self, row: sqlite3.Row) -> Delivery:
        fields = {field: row[field] for field in Delivery.__struct_fields__ if field != "path"}
        return Delivery(path=self.folder / OBJECTS / row["file"], **fields)
