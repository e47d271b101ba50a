"""What is forgotten, and when; and what is put right after the node or the machine ended without warning."""

from __future__ import annotations

from contextlib import suppress

from medfm_compress.runtime.node.spool.commitments import Commitments
from medfm_compress.runtime.node.spool.store import INCOMING, INSTANCES, OBJECTS

_DAY_S = 86400.0
_RECORDS_EVERY_S = 600.0  # all records are looked at for it


class Retention(Commitments):
    """The spool as its keeper sees it."""

    _records_forgotten_at = -_RECORDS_EVERY_S

    def forget_done(self, now: float) -> int:
        """Remove the files of every instance whose deliveries are all committed, and records past ``keep_days``.

        Returns:
            How many instances are done by this.
        """
        with self._transaction() as database:
            rows = database.execute(
                "UPDATE instances SET state = 'done', done_at = ? WHERE state = 'read' AND NOT EXISTS ("
                "SELECT 1 FROM deliveries JOIN objects ON objects.id = deliveries.object_id "
                "WHERE objects.instance_id = instances.id AND deliveries.state != 'committed') "
                "RETURNING id, file, bytes",
                (now,),
            ).fetchall()
        for row in rows:  # after the commit: a file that stays is removed when the spool is next opened
            self._remove(INSTANCES, row["file"], row["bytes"])
            for item in self._rows("SELECT file, bytes FROM objects WHERE instance_id = ?", row["id"]):
                self._remove(OBJECTS, item["file"], item["bytes"])
        if abs(now - self._records_forgotten_at) >= _RECORDS_EVERY_S:
            self._forget_records(now - self.config.keep_days * _DAY_S)
            self._records_forgotten_at = now
        return len(rows)

    def forget_discarded(self) -> tuple[str, ...]:
        """Remove what an operator took out of quarantine for good; the SOP instance UIDs."""
        with self._transaction() as database:
            rows = database.execute(
                "DELETE FROM instances WHERE state = 'discarded' RETURNING file, bytes, sop_instance_uid"
            ).fetchall()
        for row in rows:
            self._remove(INSTANCES, row["file"], row["bytes"])
        return tuple(row["sop_instance_uid"] for row in rows)

    def reconcile(self) -> None:
        """Make rows and files agree; for the one process that holds the spool, before anything else.

        What was being read waits again, its attempt counted. A file that no row names was never acknowledged, or is
        done. A row whose file is not whole goes to quarantine: only a broken disk, or a person, does that.
        """
        for path in (self.folder / INCOMING).iterdir():
            path.unlink()
        with self._transaction() as database:
            database.execute("UPDATE instances SET state = 'waiting' WHERE state = 'reading'")
        instances = self._rows("SELECT id, file, bytes, state FROM instances WHERE state != 'done'")
        objects = self._rows(
            "SELECT objects.file, objects.bytes FROM objects JOIN instances ON instances.id = objects.instance_id "
            "WHERE instances.state != 'done'"
        )
        for folder, rows in ((INSTANCES, instances), (OBJECTS, objects)):
            named = {row["file"] for row in rows}
            for path in (self.folder / folder).iterdir():
                if path.name not in named:
                    path.unlink()
        for row in instances:
            if row["state"] == "waiting" and not self._is_whole(row["file"], row["bytes"]):
                self.quarantine(
                    row["id"], "file-damaged", "its file is missing or shortened; have the sender send it again"
                )
        self.end_waits(_DAY_S)  # the clock may have been wrong when they began
        self._used_bytes = sum(row["bytes"] for row in (*instances, *objects))

    def _forget_records(self, before: float) -> None:
        with self._transaction() as database:
            database.execute("DELETE FROM instances WHERE state = 'done' AND done_at < ?", (before,))
            database.execute("DELETE FROM commitments WHERE answered_at < ?", (before,))
            database.execute("DELETE FROM studies WHERE seen_at < ?", (before,))

    def _remove(self, folder: str, name: str, size: int) -> None:
        with suppress(FileNotFoundError):
            (self.folder / folder / name).unlink()
            self.count_bytes(-size)
