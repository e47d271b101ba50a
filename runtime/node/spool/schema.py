"""The spool's tables, and how its database is opened.

SQLite in WAL mode with ``synchronous=FULL``: a transaction is on the disk when its commit returns
(https://www.sqlite.org/pragma.html#pragma_synchronous). Payloads are files; a row names its file.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from medfm_compress.runtime.errors import InputError, in_one_line

DATABASE = "spool.sqlite"
INCOMING, INSTANCES, OBJECTS = "incoming", "instances", "objects"
VERSION = 1
BUSY_S = 30.0

TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE instances (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sop_class_uid TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    sender TEXT NOT NULL,
    priority INTEGER NOT NULL,
    file TEXT NOT NULL,                -- name in instances/
    digest TEXT NOT NULL,              -- SHA-256 of the data set
    bytes INTEGER NOT NULL,
    received_at REAL NOT NULL,
    deadline_at REAL,
    state TEXT NOT NULL,               -- records.InstanceState
    attempts INTEGER NOT NULL DEFAULT 0,
    reason_code TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    done_at REAL,
    UNIQUE (sop_instance_uid, digest)
);
CREATE INDEX instances_in_order ON instances (state, priority DESC, id);

CREATE TABLE objects (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    instance_id INTEGER NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    file TEXT NOT NULL,                -- name in objects/
    bytes INTEGER NOT NULL,
    UNIQUE (instance_id, sop_instance_uid)
);

CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    object_id INTEGER NOT NULL REFERENCES objects (id) ON DELETE CASCADE,
    destination TEXT NOT NULL,
    state TEXT NOT NULL,               -- records.DeliveryState
    due_at REAL NOT NULL,              -- not to be sent, or asked for, before
    attempts INTEGER NOT NULL DEFAULT 0,
    first_attempt_at REAL,
    transaction_uid TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    UNIQUE (object_id, destination)
);
CREATE INDEX deliveries_due ON deliveries (destination, state, due_at);

CREATE TABLE transactions (            -- storage commitment that was asked of destinations, the last few of a delivery
    transaction_uid TEXT NOT NULL,
    delivery_id INTEGER NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    asked_at REAL NOT NULL,
    PRIMARY KEY (transaction_uid, delivery_id)
) WITHOUT ROWID;
CREATE INDEX transactions_of_delivery ON transactions (delivery_id, asked_at);

CREATE TABLE studies (                 -- whose patient every study has; keyed digests, no patient data
    study TEXT PRIMARY KEY,
    patient TEXT NOT NULL,
    seen_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE commitments (             -- storage commitment that senders asked for
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    requester TEXT NOT NULL,
    transaction_uid TEXT NOT NULL,
    items TEXT NOT NULL,               -- JSON: pairs of SOP class and instance UID
    asked_at REAL NOT NULL,
    due_at REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    answered_at REAL,
    UNIQUE (requester, transaction_uid)
);
"""


def connect(folder: Path, *, make: bool = False) -> sqlite3.Connection:
    """Open the database of the spool in ``folder``; transactions are begun by hand.

    Args:
        folder: of the spool.
        make: make it where it is missing.

    Raises:
        InputError: there is none, it is damaged, or of a later version.
    """
    path = folder / DATABASE
    if not make and not path.is_file():
        raise InputError(f"there is no spool in {in_one_line(folder)}; start the node there first")
    try:
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as exc:
        raise InputError(f"cannot open the spool {in_one_line(path)}: {in_one_line(exc)}") from None
    try:
        _prepare(connection, path)
    except sqlite3.Error as exc:
        connection.close()
        raise InputError(
            f"cannot use the spool {in_one_line(path)}: {in_one_line(exc)}; put the file back from a copy, or move the "
            "folder away to begin a new one"
        ) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _check_empty(folder: Path) -> None:
    """Raise InputError where files lie in the spool whose database is new: it names none of them, so all would go."""
    for name in (INSTANCES, OBJECTS):
        if (folder / name).is_dir() and any((folder / name).iterdir()):
            raise InputError(
                f"the spool {in_one_line(folder)} holds images or results, but its database {DATABASE} is missing or "
                "empty; put that back, or move the folder away to begin a new one and send the images in it again"
            )


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.row_factory = sqlite3.Row
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            _check_empty(path.parent)
            for statement in TABLES.split(";\n"):
                connection.execute(statement)
            connection.execute("INSERT INTO settings VALUES ('key', randomblob(32))")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    if version > VERSION:
        raise InputError(
            f"the spool {in_one_line(path)} is of version {version}, and this release reads up to {VERSION}; "
            "use the release that made it"
        )
