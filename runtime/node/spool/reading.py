"""From waiting to read: who reads which instance, and what came of it."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from medfm_compress.runtime.node.spool.receiving import Receiving
from medfm_compress.runtime.node.spool.records import Arrival, ResultObject, SpooledInstance
from medfm_compress.runtime.node.spool.store import INSTANCES, OBJECTS

_SUFFIX = {"fhir": ".json"}


class Reading(Receiving):
    """The spool as those who read images see it."""

    def claim(self) -> SpooledInstance | None:
        """The next instance to be read, of the highest priority the first that came; None where nothing waits.

        Its attempt is counted durably before this returns, so that an image which ends the process is met no more than
        ``attempts`` times; then it goes to quarantine, as does one after its deadline where ``late`` says so.
        """
        with self._transaction() as database:
            self._quarantine_late(database)
            self._quarantine_exhausted(database)
            row = database.execute(
                "UPDATE instances SET state = 'reading', attempts = attempts + 1 WHERE id = "
                "(SELECT id FROM instances WHERE state = 'waiting' ORDER BY priority DESC, id LIMIT 1) RETURNING *"
            ).fetchone()
        return None if row is None else self._instance(row)

    def release(self, instance_id: int) -> None:
        """Put a claimed instance back without counting the attempt: the node stops, nothing is wrong with it."""
        with self._transaction() as database:
            database.execute(
                "UPDATE instances SET state = 'waiting', attempts = attempts - 1 WHERE id = ? AND state = 'reading'",
                (instance_id,),
            )
        self.notify()

    def finish(self, instance: SpooledInstance, objects: Sequence[ResultObject]) -> None:
        """Keep what was made of an instance, durably, and owe it to its destinations; a repeat changes nothing.

        An instance of which nothing is to be delivered is done.

        Raises:
            OSError: it cannot be written; the instance is still being read.
        """
        if not self._is_being_read(instance.id):
            return
        files = [self._write_object(instance.id, number, result) for number, result in enumerate(objects)]
        if files:
            self._disk.sync_folder(self.folder / OBJECTS)
        with self._transaction() as database:
            if not self._is_being_read(instance.id):
                return
            for result, file in zip(objects, files, strict=True):
                self._insert_object(database, instance.id, result, file)
            database.execute(
                "UPDATE instances SET state = 'read', reason_code = '', reason = '' WHERE id = ?", (instance.id,)
            )
        self.notify()

    def quarantine(self, instance_id: int, reason_code: str, reason: str) -> None:
        """Set an instance aside: it stays until it is replayed. One that was read already stays as it is."""
        with self._transaction() as database:
            database.execute(
                "UPDATE instances SET state = 'quarantined', reason_code = ?, reason = ? "
                "WHERE id = ? AND state IN ('waiting', 'reading')",
                (reason_code, reason, instance_id),
            )

    def study_patient(self, study_uid: str, patient_digest: str, *, replaces: bool = False) -> bool:
        """Whether the study is of this patient; whoever asks first fixes it.

        Args:
            study_uid: Study Instance UID.
            patient_digest: anything that stands for the patient; what is kept is a digest with a key of this spool.
            replaces: it is of this patient from now on, whoever asked first.
        """
        study, patient = self._keyed(f"study:{study_uid}"), self._keyed(f"patient:{patient_digest}")
        with self._transaction() as database:
            database.execute(
                "INSERT INTO studies VALUES (?, ?, ?) ON CONFLICT (study) DO UPDATE SET seen_at = excluded.seen_at, "
                "patient = iif(?, excluded.patient, patient)",
                (study, patient, self._clock(), replaces),
            )
            row = database.execute("SELECT patient FROM studies WHERE study = ?", (study,)).fetchone()
        return bool(row["patient"] == patient)

    def same_instance(self, sop_instance_uid: str, before_id: int | None = None) -> SpooledInstance | None:
        """The instance of that UID that was accepted first.

        Args:
            sop_instance_uid: that is asked for.
            before_id: of the instance that asks; only an earlier one is looked for.
        """
        row = self._row(
            "SELECT * FROM instances WHERE sop_instance_uid = ? AND id < ? ORDER BY id LIMIT 1",
            *(sop_instance_uid, before_id if before_id is not None else 2**62),
        )
        return None if row is None else self._instance(row)

    def same_instances(self, sop_instance_uid: str, but: int) -> list[SpooledInstance]:
        """All instances of that UID, except the one whose id is ``but``."""
        rows = self._rows("SELECT * FROM instances WHERE sop_instance_uid = ? AND id != ?", sop_instance_uid, but)
        return [self._instance(row) for row in rows]

    def instance(self, instance_id: int) -> SpooledInstance | None:
        """One instance by its id."""
        row = self._row("SELECT * FROM instances WHERE id = ?", instance_id)
        return None if row is None else self._instance(row)

    def in_order(self, most: int) -> list[SpooledInstance]:
        """Those that are being read, and those that wait in the order in which they will be; ``most`` at most."""
        rows = self._rows(
            "SELECT * FROM instances WHERE state IN ('reading', 'waiting') "
            "ORDER BY state, priority DESC, id LIMIT ?",  # reading comes before waiting
            most,
        )
        return [self._instance(row) for row in rows]

    def _is_being_read(self, instance_id: int) -> bool:
        row = self._row("SELECT state FROM instances WHERE id = ?", instance_id)
        return row is not None and row["state"] == "reading"

    def _instance(self, row: sqlite3.Row) -> SpooledInstance:
        arrival = Arrival(**{field: row[field] for field in Arrival.__struct_fields__})
        own = {field: row[field] for field in SpooledInstance.__struct_fields__ if field not in ("arrival", "path")}
        return SpooledInstance(arrival=arrival, path=self.folder / INSTANCES / row["file"], **own)

    def _keyed(self, text: str) -> str:
        if not hasattr(self, "_key"):
            row = self._row("SELECT value FROM settings WHERE name = 'key'")
            self._key = bytes(row["value"]) if row is not None else b""
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def _quarantine_late(self, database: sqlite3.Connection) -> None:
        if self.config.late == "quarantine":
            database.execute(
                "UPDATE instances SET state = 'quarantined', reason_code = 'late', "
                "reason = 'its deadline passed before it was read; replay it to have it read all the same' "
                "WHERE state = 'waiting' AND deadline_at < ?",
                (self._clock(),),
            )

    def _quarantine_exhausted(self, database: sqlite3.Connection) -> None:
        database.execute(
            "UPDATE instances SET state = 'quarantined', reason_code = 'reading-failed', "
            "reason = 'the node ended ' || attempts || ' times while it read this image; see its log, then replay it' "
            "WHERE state = 'waiting' AND attempts >= ?",
            (self.config.attempts,),
        )

    def _write_object(self, instance_id: int, number: int, result: ResultObject) -> Path:
        digest = hashlib.sha256(result.content).hexdigest()[:16]
        path = self.folder / OBJECTS / f"{instance_id}-{number}-{digest}{_SUFFIX.get(result.kind, '.dcm')}"
        with suppress(FileNotFoundError):
            path.unlink()  # of an earlier try
        file = self._disk.create(path)
        try:
            file.write(result.content)
            file.sync()
        finally:
            file.close()
        return path

    def _insert_object(self, database: sqlite3.Connection, instance_id: int, result: ResultObject, file: Path) -> None:
        cursor = database.execute(
            "INSERT INTO objects (instance_id, kind, sop_class_uid, sop_instance_uid, file, bytes) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (instance_id, result.kind, result.sop_class_uid, result.sop_instance_uid, file.name, len(result.content)),
        )
        for destination in result.destinations:
            database.execute(
                "INSERT INTO deliveries (object_id, destination, state, due_at) VALUES (?, ?, 'waiting', ?)",
                (cursor.lastrowid, destination, self._clock()),
            )
        self.count_bytes(len(result.content))
