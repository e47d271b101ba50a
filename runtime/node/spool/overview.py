"""What the spool holds, counted; what is in quarantine, and its way out. Also from another process, beside the node."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.node.spool.records import PATIENT_ACCEPTED, Quarantined, SpoolCounts
from medfm_compress.runtime.node.spool.schema import connect

# What is done is many times what is held: every query begins at the index of states, which CROSS JOIN keeps it to.
_HELD = "('waiting', 'reading', 'read', 'quarantined')"
_OBJECTS = "CROSS JOIN objects ON objects.instance_id = instances.id"
_NOT_THERE = "number {} is not in quarantine; list what is, and give its number"


class SpoolView:
    """The spool of a node that may be running in another process: looked at, and replayed from."""

    def __init__(self, folder: Path) -> None:
        """Open the spool in ``folder``.

        Raises:
            InputError: there is none.
        """
        self._database = connect(folder)

    def close(self) -> None:
        """Give the database back."""
        self._database.close()

    def counts(self) -> SpoolCounts:
        """As `counts`."""
        with _usable():
            return counts(self._database)

    def quarantined(self) -> list[Quarantined]:
        """As `quarantined`."""
        with _usable():
            return quarantined(self._database)

    def replay(self, instance_ids: Sequence[int] | None = None) -> int:
        """As `replay`; the node sees it within seconds."""
        with _usable():
            return replay(self._database, instance_ids)

    def replay_deliveries(self, delivery_ids: Sequence[int] | None = None) -> int:
        """As `replay_deliveries`; the node sees it within seconds."""
        with _usable():
            return replay_deliveries(self._database, delivery_ids)

    def accept_patient(self, instance_ids: Sequence[int]) -> int:
        """As `accept_patient`; likewise."""
        with _usable():
            return accept_patient(self._database, instance_ids)

    def discard(self, instance_ids: Sequence[int], delivery_ids: Sequence[int]) -> int:
        """As `discard`; files go when the node looks after its spool."""
        with _usable():
            return discard(self._database, instance_ids, delivery_ids)


@contextmanager
def _usable() -> Iterator[None]:
    """Raise InputError where the database is damaged, locked, or cannot be written."""
    try:
        yield
    except sqlite3.Error as exc:
        raise InputError(
            f"the spool's database cannot be used: {in_one_line(exc)}; make room, or put it back from a copy"
        ) from None


def counts(database: sqlite3.Connection) -> SpoolCounts:
    """What the spool holds."""
    deliveries: dict[str, dict[str, int]] = {}
    for destination, state, number in database.execute(
        f"SELECT destination, deliveries.state, COUNT(*) FROM instances {_OBJECTS} "  # noqa: S608 -- constants
        f"CROSS JOIN deliveries ON deliveries.object_id = objects.id WHERE instances.state IN {_HELD} "
        "GROUP BY destination, deliveries.state"
    ):
        deliveries.setdefault(destination, {})[state] = number
    return SpoolCounts(
        instances=_by(database, "SELECT state, COUNT(*) FROM instances GROUP BY state"),
        deliveries=deliveries,  # type: ignore[arg-type]  # states as the table holds them
        quarantine=_by(
            database, "SELECT reason_code, COUNT(*) FROM instances WHERE state = 'quarantined' GROUP BY reason_code"
        ),
        bytes=int(
            _value(database, f"SELECT TOTAL(bytes) FROM instances WHERE state IN {_HELD}")  # noqa: S608 -- constants
            + _value(
                database,
                f"SELECT TOTAL(objects.bytes) FROM instances {_OBJECTS} WHERE instances.state IN {_HELD}",  # noqa: S608
            )
        ),
        oldest_waiting_at=_value(database, "SELECT MIN(received_at) FROM instances WHERE state = 'waiting'"),
        oldest_undelivered_at=_value(database, "SELECT MIN(received_at) FROM instances WHERE state = 'read'"),
        commitments=int(_value(database, "SELECT COUNT(*) FROM commitments WHERE answered_at IS NULL")),
    )


def quarantined(database: sqlite3.Connection) -> list[Quarantined]:
    """Instances and deliveries that were set aside, by their time of arrival."""
    rows = database.execute(
        "SELECT id, '' AS destination, reason_code, reason, received_at FROM instances WHERE state = 'quarantined' "
        "UNION ALL SELECT deliveries.id, destination, 'delivery-refused', deliveries.reason, received_at "
        "FROM deliveries JOIN objects ON objects.id = object_id JOIN instances ON instances.id = instance_id "
        "WHERE deliveries.state = 'quarantined' ORDER BY received_at"
    ).fetchall()
    return [Quarantined(**dict(row)) for row in rows]


def delivery_states(database: sqlite3.Connection, instance_ids: Sequence[int]) -> dict[int, str]:
    """Instance → ``under way``, ``delivered``, or ``set aside`` or ``given up`` where a destination refused."""
    query = (
        "SELECT instances.id, CASE WHEN TOTAL(deliveries.state = 'quarantined') THEN 'set aside' "
        "WHEN instances.state = 'discarded' OR TOTAL(deliveries.reason = 'discarded') THEN 'given up' "
        "WHEN instances.state = 'done' THEN 'delivered' ELSE 'under way' END AS delivery FROM instances "
        "LEFT JOIN objects ON objects.instance_id = instances.id LEFT JOIN deliveries ON object_id = objects.id "
        "WHERE instances.id = ? GROUP BY instances.id"
    )
    rows = (database.execute(query, (identity,)).fetchone() for identity in instance_ids)
    return {row["id"]: row["delivery"] for row in rows if row is not None}


def accept_patient(database: sqlite3.Connection, instance_ids: Sequence[int]) -> int:
    """Let instances of another patient wait again, whose patient is their study's from then on; return how many.

    Raises:
        InputError: one of them is not in quarantine because of its patient; nothing has changed then.
    """
    update = (
        "UPDATE instances SET state = 'waiting', attempts = 0, deadline_at = NULL, reason = '', "  # noqa: S608
        f"reason_code = '{PATIENT_ACCEPTED}' WHERE state = 'quarantined' AND reason_code = 'other-patient'"
    )
    problem = "image {} is not in quarantine because of its patient; list what is, and give its number"
    return _change(database, update, instance_ids, problem)


def discard(database: sqlite3.Connection, instance_ids: Sequence[int], delivery_ids: Sequence[int]) -> int:
    """Give up what is in quarantine: images go for good, results are not sent any more; return how many.

    Raises:
        InputError: one of them is not in quarantine; nothing of its kind has changed then.
    """
    images = "UPDATE instances SET state = 'discarded' WHERE state = 'quarantined'"
    results = "UPDATE deliveries SET state = 'committed', reason = 'discarded' WHERE state = 'quarantined'"
    return _change(database, images, instance_ids, _NOT_THERE) + _change(database, results, delivery_ids, _NOT_THERE)


def replay(database: sqlite3.Connection, instance_ids: Sequence[int] | None = None) -> int:
    """Let instances wait again as if they had just arrived, without a deadline; return how many.

    Args:
        database: of the spool.
        instance_ids: by default all in quarantine.

    Raises:
        InputError: one of them is not in quarantine; nothing has changed then.
    """
    return _replay(
        *(database, "instances", "attempts = 0, deadline_at = NULL, reason_code = '', reason = ''", instance_ids)
    )


def replay_deliveries(database: sqlite3.Connection, delivery_ids: Sequence[int] | None = None) -> int:
    """Send again what a destination refused; return how many deliveries; likewise."""
    change = "attempts = 0, first_attempt_at = NULL, due_at = 0, transaction_uid = '', reason = ''"
    return _replay(database, "deliveries", change, delivery_ids)


def _replay(database: sqlite3.Connection, table: str, change: str, ids: Sequence[int] | None) -> int:
    update = f"UPDATE {table} SET state = 'waiting', {change} WHERE state = 'quarantined'"  # noqa: S608 -- constants of this file
    if ids is None:
        return database.execute(update).rowcount
    return _change(database, update, ids, _NOT_THERE)


def _change(database: sqlite3.Connection, update: str, ids: Sequence[int], problem: str) -> int:
    """Run ``update`` on each of ``ids``, all or none."""
    database.execute("BEGIN IMMEDIATE")
    try:
        for identity in ids:
            if database.execute(f"{update} AND id = ?", (identity,)).rowcount != 1:
                raise InputError(problem.format(identity))
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise
    return len(ids)


def _by(database: sqlite3.Connection, query: str) -> dict[Any, int]:
    return {row[0]: row[1] for row in database.execute(query)}


def _value(database: sqlite3.Connection, query: str) -> Any:
    return database.execute(query).fetchone()[0]
