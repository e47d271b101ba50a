"""The audit trail holds together over crashes and rotation, shows every change, and names no patient."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from medfm_compress.runtime.errors import InputError, Refused
from medfm_compress.runtime.node import audit as module
from medfm_compress.runtime.node.audit import Audit, verify
from medfm_compress.runtime.node.identifiers import Marks

UID = "1.2.826.0.1.3680043.8.498.12345678901234567890"


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    return Marks.of_folder(tmp_path)


def trail(folder: Path) -> Path:
    return next((folder / "audit").glob("*.jsonl"))


def lines(folder: Path) -> list[dict[str, object]]:
    return [
        json.loads(line)
        for path in sorted((folder / "audit").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def write(folder: Path, marks: Marks, count: int) -> Audit:
    audit = Audit(folder, marks)
    for number in range(count):
        audit.record("received", instance=UID, number_of=number)
    return audit


def test_goes_on_after_a_restart(tmp_path: Path, marks: Marks) -> None:
    write(tmp_path, marks, 3).close()
    audit = write(tmp_path, marks, 2)
    audit.close()
    assert verify(tmp_path) == (1, audit.head)
    assert audit.head.number == 5


def test_uids_are_marks_and_those_of_the_standard_stay(tmp_path: Path, marks: Marks) -> None:
    audit = Audit(tmp_path, marks)
    audit.record(
        "x", instance=UID, sop="1.2.840.10008.5.1.4.1.1.1", text=f"of {UID}, 2.25.123456789012", address="10.1.2.3"
    )
    audit.close()
    text = trail(tmp_path).read_text()
    assert UID not in text and "2.25.1" not in text
    assert lines(tmp_path)[0]["instance"] == marks.of(UID)
    assert "1.2.840.10008.5.1.4.1.1.1" in text and "10.1.2.3" in text


@pytest.mark.parametrize("change", ["alter", "remove", "insert", "swap"])
def test_a_change_is_found(tmp_path: Path, marks: Marks, change: str) -> None:
    write(tmp_path, marks, 6).close()
    path = trail(tmp_path)
    rows = path.read_bytes().splitlines(keepends=True)
    if change == "alter":
        rows[2] = rows[2].replace(b'"number_of":2', b'"number_of":9')
    elif change == "remove":
        del rows[2]
    elif change == "insert":
        rows.insert(2, rows[1])
    else:
        rows[1], rows[2] = rows[2], rows[1]
    path.write_bytes(b"".join(rows))
    with pytest.raises(Refused, match="the audit trail is broken"):
        verify(tmp_path)


def test_a_torn_line_is_cut_off_and_said(tmp_path: Path, marks: Marks) -> None:
    write(tmp_path, marks, 2).close()
    path = trail(tmp_path)
    path.write_bytes(path.read_bytes() + b'{"number":3,"at')
    audit = write(tmp_path, marks, 1)
    audit.close()
    assert [line["event"] for line in lines(tmp_path)] == ["received", "received", "audit-mended", "received"]
    assert verify(tmp_path).head == audit.head


def test_rotates_and_keeps_a_bounded_number(tmp_path: Path, marks: Marks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1000)
    monkeypatch.setattr(module, "MAX_FILES", 3)
    audit = write(tmp_path, marks, 100)
    audit.close()
    assert len(list((tmp_path / "audit").glob("*.jsonl"))) == 3
    verified = verify(tmp_path)
    assert verified.head.number == 100 and verified.first > 50
    assert write(tmp_path, marks, 1).head.number == 101


def test_what_could_not_be_written_is_said_later(tmp_path: Path, marks: Marks, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(tmp_path, marks)
    real = os.write

    def half(file: int, data: bytes) -> int:
        return real(file, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    audit.record("lost")
    with pytest.raises(OSError, match="No space"):
        audit.record("lost", durable=True)
    monkeypatch.setattr(os, "write", real)
    audit.record("after")
    audit.close()
    assert [(line["event"], line.get("lines")) for line in lines(tmp_path)] == [("audit-gap", 2), ("after", None)]
    assert verify(tmp_path).head == audit.head


def test_strangers_do_not_drive_older_events_out(tmp_path: Path, marks: Marks, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(tmp_path, marks)
    for _ in range(module.MAX_STRANGERS + 50):
        audit.record("refused", way="dicom", reason="calling-ae-title")
    audit.record("refused", destination="archive", reason="of a result, and always recorded")
    monkeypatch.setattr(module, "_MINUTE_S", 0.0)
    audit.record("refused", way="dicom", reason="calling-ae-title")
    audit.close()
    events = [(line["event"], line.get("lines")) for line in lines(tmp_path)]
    assert len(events) == module.MAX_STRANGERS + 3 and ("refused-more", 50) in events
    assert verify(tmp_path).head == audit.head


def test_facts_cannot_pose_as_the_chain(tmp_path: Path, marks: Marks) -> None:
    audit = Audit(tmp_path, marks)
    audit.record("x", **{"previous": "0", "number": 7, "at": "never"})
    audit.close()
    assert verify(tmp_path).head.number == 1


def test_no_trail(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no audit trail"):
        verify(tmp_path)


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    Marks.of_folder(tmp_path)
    (tmp_path / "marks.key").write_bytes(b"short")
    with pytest.raises(InputError, match="5 bytes instead of 32"):
        Marks.of_folder(tmp_path)
