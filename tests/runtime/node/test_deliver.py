"""Results reach a PACS whatever it does, each once recorded, none for ever without a wait."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom")

import pydicom
from dicom_peer import EXPLICIT, IMPLICIT, DicomPeer
from spool_scene import COMPREHENSIVE_SR, open_spool, owe, reports, states, structured_report, wait_until

from medfm_compress.runtime.node.config import PacsConfig, RetryConfig
from medfm_compress.runtime.node.deliver import Deliverer
from medfm_compress.runtime.node.spool.records import ResultObject

QUICK = RetryConfig(first_s=0.05, longest_s=0.2)


class Scene:
    """A spool, a peer and a deliverer."""

    def __init__(self, folder: Path, **peer: object) -> None:
        self.spool = open_spool(folder)
        self.peer = DicomPeer(**peer)
        self.deliverer: Deliverer | None = None

    def deliver(self, *, port: int | None = None, **settings: object) -> Deliverer:
        config = PacsConfig(
            name="pacs",
            ae_title="PACS",
            host="127.0.0.1",
            port=port or self.peer.port,
            **{"commitment": False, "timeout_s": 5.0, "retry": QUICK, **settings},
        )
        self.deliverer = Deliverer(config, "NODE", self.spool)
        self.deliverer.start()
        return self.deliverer

    def end(self) -> None:
        if self.deliverer is not None:
            self.deliverer.stop(10)
            assert not self.deliverer.is_alive
        self.peer.close()
        self.spool.close()


@pytest.fixture
def scene(tmp_path):
    made = []

    def make(**peer: object) -> Scene:
        made.append(Scene(tmp_path, **peer))
        return made[-1]

    yield make
    for one in made:
        one.end()


def test_all_that_is_due_goes_over_one_association_as_it_lies_in_the_file(scene):
    here = scene()
    owe(here.spool, reports(40))
    here.deliver()
    wait_until(lambda: states(here.spool) == {"committed": 40})
    assert here.peer.associations == 1
    assert sorted(here.peer.uids) == sorted(f"1.2.7.{number}" for number in range(40))
    sent = {uid: data for uid, _, data in here.peer.received}
    assert structured_report("1.2.7.3").endswith(sent["1.2.7.3"])
    wait_until(lambda: here.peer.released == 1)


def test_a_peer_that_takes_implicit_only_gets_the_same_object_re_encoded(scene):
    here = scene(syntaxes=[IMPLICIT])
    owe(here.spool, reports(2))
    here.deliver()
    wait_until(lambda: states(here.spool) == {"committed": 2})
    for uid, syntax, data in here.peer.received:
        assert syntax == IMPLICIT
        dataset = pydicom.filereader.read_dataset(pydicom.filebase.DicomBytesIO(data), True, True)
        assert dataset.SOPInstanceUID == uid and dataset.PatientName == "Secret^Patient"


def test_and_a_peer_that_takes_explicit_only_likewise(scene):
    here = scene(syntaxes=[EXPLICIT])
    owe(here.spool, reports(1, syntax=IMPLICIT))
    here.deliver()
    wait_until(lambda: states(here.spool) == {"committed": 1})
    assert here.peer.received[0][1] == EXPLICIT


def test_a_compressed_object_is_never_sent_in_another_syntax(scene):
    here = scene()
    jpeg = "1.2.840.10008.1.2.4.50"
    content = structured_report("1.2.7.0").replace(EXPLICIT.encode() + b"\0", EXPLICIT.encode() + b"\0")
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))
    dataset.file_meta.TransferSyntaxUID = jpeg
    buffer = pydicom.filebase.DicomBytesIO()
    dataset.save_as(buffer, implicit_vr=False, little_endian=True)
    content = buffer.getvalue()
    compressed = ResultObject(
        kind="sc", sop_class_uid=COMPREHENSIVE_SR, sop_instance_uid="1.2.7.0", content=content, destinations=("pacs",)
    )
    owe(here.spool, [compressed, *reports(2)[1:]])
    here.deliver()
    wait_until(lambda: states(here.spool) == {"quarantined": 1, "committed": 1})
    assert here.peer.uids == ["1.2.7.1"]


@pytest.mark.parametrize("classes", [["1.2.840.10008.5.1.4.1.1.88.22"], ["1.2.840.10008.1.1"]])
def test_a_class_that_the_peer_does_not_take_is_quarantined(scene, classes):
    here = scene(classes=classes)
    owe(here.spool, reports(2))
    here.deliver()
    wait_until(lambda: states(here.spool) == {"quarantined": 2})
    assert "abstract syntax not supported" in here.spool.quarantined()[0].reason
    assert here.peer.requests == []


@pytest.mark.parametrize("status", [0xA700, 0xA7FF, 0x0213, 0x0110])
def test_a_transient_refusal_is_tried_again(scene, status):
    here = scene()
    here.peer.answer = lambda number, uid: status if number < 3 else 0
    owe(here.spool, reports(2))
    here.deliver()
    wait_until(lambda: states(here.spool) == {"committed": 2})
    assert len(here.peer.requests) == 5


@pytest.mark.parametrize("status", [0xA900, 0xC123, 0x0122, 0x0124, 0x1234, 0xFFFF])
def test_a_permanent_refusal_is_sent_once_and_set_aside(scene, status):
    here = scene()
    here.peer.answer = lambda number, uid: status if uid == "1.2.7.0" else 0
    owe(here.spool, reports(3))
    here.deliver()
    wait_until(lambda: states(here.spool) == {"quarantined": 1, "committed": 2})
    assert here.peer.requests.count("1.2.7.0") == 1
    assert f"{status:04X}H" in here.spool.quarantined()[0].reason


def test_a_warning_means_stored(scene):
    here = scene()
    here.peer.answer = lambda number, uid: (0xB000, 0xB006, 0xB007)[number]
    owe(here.spool, reports(3))
    here.deliver()
    wait_until(lambda: states(here.spool) == {"committed": 3})


def test_an_object_at_which_the_peer_always_aborts_does_not_keep_the_others(scene):
    here = scene()
    here.peer.answer = lambda number, uid: "abort" if uid == "1.2.7.0" else 0
    owe(here.spool, reports(5))
    here.deliver(retry=RetryConfig(first_s=0.1, longest_s=0.5))
    wait_until(lambda: states(here.spool) == {"waiting": 1, "committed": 4})
    assert here.deliverer.is_alive


def test_a_peer_that_stays_silent_is_left_after_the_time_out(scene):
    here = scene()
    here.peer.answer = lambda number, uid: "sleep" if number == 0 else 0
    owe(here.spool, reports(1))
    here.deliver(timeout_s=0.5)
    wait_until(lambda: states(here.spool) == {"committed": 1})
    assert here.peer.requests == ["1.2.7.0", "1.2.7.0"]


def test_what_is_refused_for_too_long_is_given_up(scene):
    here = scene()
    here.peer.answer = lambda number, uid: 0xA700
    owe(here.spool, reports(1))
    here.deliver(retry=RetryConfig(first_s=0.01, longest_s=0.05, give_up_days=1e-5))
    wait_until(lambda: states(here.spool) == {"quarantined": 1})
    assert "given up" in here.spool.quarantined()[0].reason


def test_a_peer_that_is_down_for_long_gets_everything_when_it_comes_back(scene):
    here = scene()
    port = here.peer.port
    here.peer.close()
    owe(here.spool, reports(100))
    deliverer = here.deliver(port=port, retry=RetryConfig(first_s=0.01, longest_s=0.05, give_up_days=1e-6))
    wait_until(lambda: deliverer.problem)
    threads = threading.active_count()
    threading.Event().wait(0.7)  # many tries
    assert threading.active_count() <= threads + 30  # those that are ending
    assert states(here.spool) == {"waiting": 100}
    assert all(delivery.attempts == 0 for delivery in here.spool.due_deliveries("pacs", 2e9, 100))
    here.peer = DicomPeer(port=port)
    wait_until(lambda: states(here.spool) == {"committed": 100})
    assert sorted(here.peer.uids) == sorted(f"1.2.7.{number}" for number in range(100))


def test_a_stop_does_not_wait_for_a_peer_that_hangs(scene):
    here = scene()
    here.peer.answer = lambda number, uid: "sleep"
    owe(here.spool, reports(1))
    deliverer = here.deliver(timeout_s=60.0)
    wait_until(lambda: here.peer.requests)
    deliverer.stop(0.1)
    assert not deliverer.is_alive
    assert states(here.spool) == {"waiting": 1}
    here.peer.awake.set()


def test_success_that_was_not_recorded_leads_to_the_same_object_again(scene, monkeypatch):
    here = scene()
    owe(here.spool, reports(1))
    record, calls = here.spool.sent, []

    def fail_once(delivery_id):
        calls.append(delivery_id)
        if len(calls) == 1:
            raise OSError("disk full")
        record(delivery_id)

    monkeypatch.setattr(here.spool, "sent", fail_once)
    here.deliver()
    wait_until(lambda: states(here.spool) == {"committed": 1})
    assert here.peer.uids == ["1.2.7.0", "1.2.7.0"]


def test_a_damaged_or_missing_object_is_set_aside(scene):
    here = scene()
    objects = reports(3)
    objects[0] = ResultObject(
        kind="sr",
        sop_class_uid=COMPREHENSIVE_SR,
        sop_instance_uid="1.2.7.0",
        content=b"x" * 300,
        destinations=("pacs",),
    )
    owe(here.spool, objects)
    here.spool.due_deliveries("pacs", 2e9, 3)[1].path.unlink()
    here.deliver()
    wait_until(lambda: states(here.spool) == {"quarantined": 2, "committed": 1})
