"""The listener against real senders (dcmtk, pynetdicom) and hostile ones."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import real_peers

pytest.importorskip("pynetdicom")
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_context, build_role
from pynetdicom.dsutils import encode
from pynetdicom.transport import AssociationSocket

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.node.config import SenderConfig
from medfm_compress.runtime.node.receive import Receiver
from medfm_compress.runtime.node.spool.spool import Spool
from tests.helpers.node_receiver import (
    CR_IMAGE,
    EXPLICIT,
    SENDER,
    TITLE,
    Notes,
    accepted_uids,
    image_dataset,
    image_file,
    node_config,
    receiving,
)
from tests.helpers.spool_scene import wait_until

Scene = tuple[Receiver, Spool, Notes]


@pytest.fixture(autouse=True)
def closing_senders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pynetdicom leaves a sender's socket open where the peer has gone first."""
    end = AssociationSocket._shutdown_socket

    def shut(self: AssociationSocket) -> None:
        sock = self.socket
        end(self)
        if sock is not None:
            sock.close()

    monkeypatch.setattr(AssociationSocket, "_shutdown_socket", shut)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with receiving(tmp_path, idle_s=20.0, max_object_mb=1) as scene:
        yield scene


def associate(receiver: Receiver, title: str = SENDER, called: str = TITLE, **options: Any) -> Any:
    ae = AE(ae_title=title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    ae.requested_contexts = [build_context(CR_IMAGE, EXPLICIT), build_context("1.2.840.10008.1.1")]
    return ae.associate("127.0.0.1", receiver.port, ae_title=called, **options)


def send(association: Any, uid: str, **options: Any) -> int:
    return int(association.send_c_store(image_dataset(uid, **options)).Status)


def incoming(spool: Spool) -> list[Path]:
    return list((spool.folder / "incoming").iterdir())


def run(program: str, *arguments: object, title: str = SENDER) -> subprocess.CompletedProcess[str]:
    command = [real_peers.program(program), "-aet", title, "-aec", TITLE, "127.0.0.1", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("program", ["storescu", "dcmsend"])
def test_dcmtk_sends_images_that_lie_in_the_spool_as_they_were(scene: Scene, tmp_path: Path, program: str) -> None:
    receiver, spool, _ = scene
    files = []
    for number in range(5):
        files.append(tmp_path / f"{number}.dcm")
        files[-1].write_bytes(image_file(f"1.2.3.{number}", size=100))
    sent = run(program, receiver.port, *files)
    assert sent.returncode == 0, sent.stderr
    assert accepted_uids(spool) == {f"1.2.3.{number}" for number in range(5)}
    instance = spool.claim()
    assert instance is not None
    assert instance.path.read_bytes().endswith(b"\x10" * 20_000)
    assert instance.arrival.sender == SENDER


def test_echoscu_is_answered_and_a_stranger_is_not(scene: Scene) -> None:
    receiver, spool, notes = scene
    assert run("echoscu", receiver.port).returncode == 0
    assert run("echoscu", receiver.port, title="STRANGER").returncode != 0
    assert notes.reasons() == ["calling-ae-title"]
    assert not associate(receiver, called="SOMEBODY").is_established
    assert notes.reasons() == ["calling-ae-title", "called-ae-title"]
    assert accepted_uids(spool) == set()


def test_a_sender_from_another_address_is_not_let_in(tmp_path: Path) -> None:
    with receiving(tmp_path, senders=(SenderConfig(ae_title=SENDER, addresses=("10.1.2.0/24",)),)) as scene:
        assert not associate(scene[0]).is_established
        assert set(scene[2].reasons()) == {"address"}


def test_the_same_image_again_is_success_and_nothing_is_added(scene: Scene) -> None:
    receiver, spool, notes = scene
    association = associate(receiver)
    assert send(association, "1.2.3.1") == 0
    assert send(association, "1.2.3.1") == 0
    assert [facts["repeated"] for _, facts in notes.records] == [False, True]
    assert send(association, "1.2.3.1", filling=b"\x11") == 0
    association.release()
    assert spool.counts().instances == {"waiting": 2}


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (encode(image_dataset("1.2.3.2"), False, True), 0xA900, "uid-mismatch"),
        (b"\xff" * 5000, 0xC000, "not-understood"),
        (encode(image_dataset("1.2.3.1"), True, True), 0xC000, "not-understood"),  # implicit, where explicit was agreed
        (b"\x08\x00", 0xC000, "not-understood"),
    ],
)
def test_a_data_set_that_is_not_what_the_request_names_is_refused(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, content: bytes, status: int, reason: str
) -> None:
    receiver, spool, notes = scene
    association = associate(receiver)
    with monkeypatch.context() as patch:
        patch.setattr("pynetdicom.association.encode", lambda *_: content)
        assert send(association, "1.2.3.1") == status
    assert notes.reasons() == [reason]
    assert send(association, "1.2.3.1") == 0
    association.release()
    assert accepted_uids(spool) == {"1.2.3.1"}
    assert incoming(spool) == []


def test_an_object_that_is_too_large_ends_the_association_and_leaves_nothing(scene: Scene) -> None:
    receiver, spool, notes = scene
    association = associate(receiver)
    answer = association.send_c_store(image_dataset("1.2.3.1", size=1000))
    assert "Status" not in answer
    wait_until(lambda: "object-too-large" in notes.reasons() and not incoming(spool))
    assert accepted_uids(spool) == set()
    assert spool._used_bytes == 0


def test_a_full_spool_answers_out_of_resources_and_takes_more_once_there_is_room(tmp_path: Path) -> None:
    with receiving(tmp_path, spool={"max_gb": 3e-4}) as (receiver, spool, notes):
        association = associate(receiver)
        assert send(association, "1.2.3.1", size=300) == 0
        assert send(association, "1.2.3.2", size=300) == 0xA700
        assert notes.reasons() == ["spool-full"]
        assert incoming(spool) == []
        instance = spool.claim()
        assert instance is not None
        spool.finish(instance, [])
        spool.forget_done(0)
        assert send(association, "1.2.3.2", size=300) == 0
        association.release()


def test_a_disk_that_fails_while_an_object_comes_in_is_out_of_resources(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, spool, _ = scene

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    association = associate(receiver)
    for step in ("rename", "sync_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(spool._disk, step, full)
            assert send(association, "1.2.3.1") == 0xA700
    assert incoming(spool) == []
    assert send(association, "1.2.3.1") == 0
    association.release()
    assert accepted_uids(spool) == {"1.2.3.1"}


def test_a_sender_that_is_too_fast_is_told_so(tmp_path: Path) -> None:
    with receiving(tmp_path, max_objects_per_minute=3) as (receiver, _, notes):
        association = associate(receiver)
        statuses = [send(association, f"1.2.3.{number}") for number in range(5)]
        association.release()
    assert statuses[:3] == [0, 0, 0]
    assert 0xA700 in statuses[3:]
    assert set(notes.reasons()) == {"rate"}


def test_a_half_sent_association_leaves_nothing(scene: Scene) -> None:
    receiver, spool, _ = scene
    association = associate(receiver)
    sock = association.dul.socket.socket
    command = _store_command("1.2.3.1")
    sock.sendall(_pdv(command, 0x03) + _pdv(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" * 500, 0x00))
    wait_until(lambda: incoming(spool))
    sock.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: not incoming(spool))
    assert accepted_uids(spool) == set()
    assert spool._used_bytes == 0
    association.kill()


def test_a_peer_that_falls_silent_is_let_go(tmp_path: Path) -> None:
    with receiving(tmp_path, idle_s=0.3) as (receiver, spool, notes):
        association = associate(receiver)
        association.dul.socket.socket.sendall(_pdv(_store_command("1.2.3.1"), 0x03))
        wait_until(lambda: not receiver._server.active_associations)
        assert incoming(spool) == []
        with socket.create_connection(("127.0.0.1", receiver.port)) as slow:
            slow.sendall(b"\x04\x00\x00\x00\x01\x00" + b"slow")
            assert slow.recv(100) == b""
        wait_until(lambda: not receiver._server.active_associations)
        assert "too-slow" in notes.reasons()


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000, "no-dicom"),
        (b"\x01\x00\xff\xff\xff\xff" + b"\x00" * 100_000, "pdu-too-long"),
        (b"\x04\x00\x40\x00\x00\x00" + b"\xff" * 100_000, "pdu-too-long"),
    ],
)
def test_garbage_is_cut_off_at_once(scene: Scene, garbage: bytes, reason: str) -> None:
    receiver, _, notes = scene
    with socket.create_connection(("127.0.0.1", receiver.port)) as peer:
        peer.settimeout(20)
        try:
            peer.sendall(garbage)
            while peer.recv(1000):
                pass
        except OSError:
            pass
    wait_until(lambda: not receiver._server.active_associations)
    assert notes.reasons() == [reason]
    association = associate(receiver)
    assert association.is_established
    association.release()


def test_a_command_set_without_end_is_cut_off(scene: Scene) -> None:
    receiver, _, notes = scene
    association = associate(receiver)
    sock = association.dul.socket.socket
    with pytest.raises(OSError), warnings.catch_warnings():
        for _ in range(10_000):
            sock.sendall(_pdv(b"\x00" * 4000, 0x01))
    wait_until(lambda: not receiver._server.active_associations)
    assert "message-too-long" in notes.reasons()
    association.kill()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of the peer, that is cut off
def test_a_peer_that_does_not_wait_for_answers_is_cut_off(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, spool, notes = scene
    gate = threading.Event()
    accept = spool.accept
    monkeypatch.setattr(spool, "accept", lambda *arguments: (gate.wait(20), accept(*arguments))[1])
    association = associate(receiver)
    data = encode(image_dataset("1.2.3.1"), False, True)
    assert data is not None
    sock = association.dul.socket.socket
    sock.sendall((_pdv(_store_command("1.2.3.1"), 0x03) + _pdv(data, 0x02)) * 10)
    wait_until(lambda: "does-not-wait" in notes.reasons())
    gate.set()
    wait_until(lambda: not receiver._server.active_associations)
    assert incoming(spool) == []
    association.kill()


def test_parallel_associations_are_served_and_further_ones_rejected_for_the_moment(tmp_path: Path) -> None:
    with receiving(tmp_path, max_associations=64) as (receiver, spool, _):
        failures: list[str] = []

        def one(number: int) -> None:
            association = associate(receiver)
            if not association.is_established or send(association, f"1.2.3.{number}") != 0:
                failures.append(f"{number}")
            association.release()

        threads = [threading.Thread(target=one, args=(number,)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert len(accepted_uids(spool)) == 64

    with receiving(tmp_path, max_associations=1) as (receiver, _, _):
        first = associate(receiver)
        second = associate(receiver)
        assert first.is_established
        assert second.is_rejected
        assert second.acceptor.primitive.result == 2
        first.release()


def test_many_who_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    with receiving(tmp_path, max_associations=2) as (receiver, spool, notes):
        with ExitStack() as silent:
            for _ in range(60):
                silent.enter_context(socket.create_connection(("127.0.0.1", receiver.port)))
            wait_until(lambda: "connections" in notes.reasons())
            association = associate(receiver)
            assert send(association, "1.2.3.1") == 0
            association.release()
        assert accepted_uids(spool) == {"1.2.3.1"}


def test_a_port_that_is_taken_is_said_in_one_sentence(scene: Scene, tmp_path: Path) -> None:
    config = node_config(tmp_path, port=scene[0].port)
    notes = Notes()
    with pytest.raises(
        InputError, match=rf"cannot listen at 127\.0\.0\.1 port {scene[0].port}: Address already in use"
    ):
        Receiver(config, scene[1], notes, notes).start()


def test_commitment_requests_and_reports_reach_their_takers(tmp_path: Path) -> None:
    class Taker:
        ae_titles = frozenset({"PACS"})

        def __init__(self) -> None:
            self.calls: list[tuple[str, str]] = []

        def take(self, title: str, event: Any) -> int:
            information = event.action_information if hasattr(event, "action_type") else event.event_information
            self.calls.append((title, information.TransactionUID))
            return 0

    request = Dataset()
    request.TransactionUID = "2.25.1"
    model, instance = UID("1.2.840.10008.1.20.1"), UID("1.2.840.10008.1.20.1.1")
    asked, reported = Taker(), Taker()
    with receiving(tmp_path, commitment=asked, reports=reported) as (receiver, _, _):
        ae = AE(ae_title=SENDER)
        ae.add_requested_context(model)
        association = ae.associate("127.0.0.1", receiver.port, ae_title=TITLE)
        assert association.send_n_action(request, 1, model, instance)[0].Status == 0
        association.release()

        pacs = AE(ae_title="PACS")
        pacs.add_requested_context(model)
        pacs.add_requested_context(CR_IMAGE)
        association = pacs.associate(
            "127.0.0.1", receiver.port, ae_title=TITLE, ext_neg=[build_role(model, scu_role=False, scp_role=True)]
        )
        assert [context.abstract_syntax for context in association.accepted_contexts] == [model]
        assert association.send_n_event_report(request, 1, model, instance)[0].Status == 0
        association.release()
    assert asked.calls == [(SENDER, "2.25.1")]
    assert reported.calls == [("PACS", "2.25.1")]


def _pdv(content: bytes, control: int, context_id: int = 1) -> bytes:
    """A P-DATA-TF PDU with one fragment (PS3.8 9.3.5)."""
    item = struct.pack(">IBB", len(content) + 2, context_id, control) + content
    return struct.pack(">BBI", 4, 0, len(item)) + item


def _store_command(uid: str) -> bytes:
    """A C-STORE request (PS3.7 9.3.1), encoded."""
    command = Dataset()
    command.AffectedSOPClassUID, command.AffectedSOPInstanceUID = CR_IMAGE, uid
    command.CommandField, command.MessageID, command.Priority, command.CommandDataSetType = 1, 1, 2, 1
    encoded = encode(command, True, True)
    assert encoded is not None
    length = Dataset()
    length.CommandGroupLength = len(encoded)
    return (encode(length, True, True) or b"") + encoded
