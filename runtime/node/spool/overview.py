"""What the spool holds, counted; what is in quarantine; and its replay. Also from another process, beside the node."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.node.spool.records import Quarantined, SpoolCounts
from medfm_compress.runtime.node.spool.schema import connect

# What is done is many times what is held: every query begins at the index of states, which CROSS JOIN keeps it to.
_HELD = "('waiting', 'reading', 'read', 'quarantined')"
_OBJECTS = "CROSS JOIN objects ON objects.instance_id = instances.id"


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
    database.execute("BEGIN IMMEDIATE")
    try:
        for identity in ids:
            if database.execute(f"{update} AND id = ?", (identity,)).rowcount != 1:
                raise InputError(
                    f"number {identity} of {table} is not in quarantine; list what is, and give its number"
                )
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise
    return len(ids)


def _by(database: sqlite3.Connection, query: str) -> dict[Any, int]:
    return {row[0]: row[1] for row in database.execute(query)}


def _value(database: sqlite3.Connection, query: str) -> Any:
    return database.execute(query).fetchone()[0]
