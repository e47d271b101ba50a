"""Nothing that listens at a destination's address stops its thread, loses an object, or is met without a wait."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time

import pytest

pytest.importorskip("pynetdicom")

from dicom_peer import DicomPeer
from raw_server import RawServer
from spool_scene import open_spool, owe, reports, states, wait_until
from tls_files import certificates

from medfm_compress.runtime.node.config import PacsConfig, RetryConfig, TlsConfig
from medfm_compress.runtime.node.deliver import Deliverer
from medfm_compress.runtime.node.statuses import commitment_failure, rejected_context, response

QUICK = RetryConfig(first_s=0.05, longest_s=0.1)


def _closes(server, connection):
    pass


def _is_silent(server, connection):
    server.ended.wait(30)


def _garbage(server, connection):
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)


def _huge_pdu(server, connection):
    connection.recv(4096)
    connection.sendall(b"\x02\x00\xff\xff\xff\xff")
    while not server.ended.is_set():
        connection.sendall(bytes(65536))


def _trickle(server, connection):
    connection.recv(4096)
    connection.sendall(b"\x02\x00\x00\x00\x0f\xff")
    while not server.ended.wait(0.05):
        connection.sendall(b"\x00")


def _aborts(server, connection):
    connection.recv(4096)
    connection.sendall(b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00")


def _rejects(server, connection):
    connection.recv(4096)
    connection.sendall(b"\x03\x00\x00\x00\x00\x04\x00\x01\x01\x07")


@pytest.mark.parametrize("talk", [_closes, _is_silent, _garbage, _huge_pdu, _trickle, _aborts, _rejects])
def test_whatever_answers_the_request_for_an_association(tmp_path, talk):
    spool, server = open_spool(tmp_path), RawServer(talk)
    owe(spool, reports(2))
    config = PacsConfig(name="pacs", ae_title="PACS", host="127.0.0.1", port=server.port, timeout_s=0.3, retry=QUICK)
    deliverer = Deliverer(config, "NODE", spool)
    deliverer.start()
    try:
        wait_until(lambda: server.connections >= 2 and deliverer.problem)
        assert deliverer.is_alive and states(spool) == {"waiting": 2}
    finally:
        started = time.monotonic()
        deliverer.stop(0.1)
        server.close()
    assert not deliverer.is_alive and time.monotonic() - started < 10
    spool.close()


class Middle:
    """Passes bytes on to a real peer, and stops doing so in one direction or both after a number of bytes."""

    def __init__(self, port: int, to_peer: int | None, close: bool) -> None:
        self.limit, self.cut = to_peer, close
        self.port = port

    def __call__(self, server, connection):
        with socket.create_connection(("127.0.0.1", self.port)) as peer:
            back = threading.Thread(target=self._pass, args=(peer, connection, None, server), daemon=True)
            back.start()
            self._pass(connection, peer, self.limit, server)
            if not self.cut:
                server.ended.wait(30)

    def _pass(self, source, sink, limit, server):
        passed = 0
        with contextlib.suppress(OSError):
            while limit is None or passed < limit:
                data = source.recv(256)
                if not data:
                    return
                sink.sendall(data)
                passed += len(data)


@pytest.mark.parametrize("close", [True, False])
def test_a_connection_that_breaks_or_freezes_within_an_object(tmp_path, close):
    spool, peer = open_spool(tmp_path), DicomPeer()
    middle = Middle(peer.port, 20_000, close)
    server = RawServer(middle)
    owe(spool, reports(2, characters=50_000))
    config = PacsConfig(
        name="pacs",
        ae_title="PACS",
        host="127.0.0.1",
        port=server.port,
        timeout_s=0.5,
        retry=QUICK,
        commitment=False,
    )
    deliverer = Deliverer(config, "NODE", spool)
    deliverer.start()
    try:
        wait_until(lambda: server.connections >= 2)
        assert deliverer.is_alive and "committed" not in states(spool)
        middle.limit = None  # the line works again
        wait_until(lambda: states(spool) == {"committed": 2})
    finally:
        deliverer.stop(5)
        server.close()
        peer.close()
    assert not deliverer.is_alive
    spool.close()


@pytest.mark.parametrize("trusted", [True, False])
def test_tls_with_certificates_of_both_sides_and_no_object_for_one_that_is_not_trusted(tmp_path, trusted):
    ours, theirs = certificates(tmp_path, "ours"), certificates(tmp_path, "theirs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*theirs)
    context.load_verify_locations(ours[0])
    context.verify_mode = ssl.CERT_REQUIRED
    spool, peer = open_spool(tmp_path), DicomPeer(tls=context)
    owe(spool, reports(2))
    authorities = theirs[0] if trusted else ours[0]
    config = PacsConfig(
        name="pacs",
        ae_title="PACS",
        host="127.0.0.1",
        port=peer.port,
        timeout_s=2.0,
        retry=QUICK,
        commitment=False,
        tls=TlsConfig(certificate=ours[0], key=ours[1], authorities=authorities),
    )
    deliverer = Deliverer(config, "NODE", spool)
    deliverer.start()
    try:
        wait_until(lambda: states(spool) == {"committed": 2} if trusted else "certificate" in deliverer.problem)
        assert len(peer.received) == (2 if trusted else 0)
    finally:
        deliverer.stop(5)
        peer.close()
    assert not deliverer.is_alive
    spool.close()


class OtherContexts:
    """Accepts every association, with answers to the presentation contexts that nobody proposed."""

    def __init__(self, change) -> None:
        self.messages = 0
        self._change = change

    def __call__(self, server, connection):
        from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

        request = A_ASSOCIATE_RQ()
        request.decode(self._pdu(connection))
        primitive = request.to_primitive()
        primitive.result, primitive.result_source = 0, 1
        contexts = primitive.presentation_context_definition_list
        for context in contexts:
            context.result = 0
            self._change(context)
        primitive.presentation_context_definition_results_list = contexts
        answer = A_ASSOCIATE_AC()
        answer.from_primitive(primitive)
        connection.sendall(answer.encode())
        while pdu := self._pdu(connection):
            self.messages += pdu[0] == 4  # P-DATA-TF
            if pdu[0] == 5:  # A-RELEASE-RQ
                connection.sendall(b"\x06\0\0\0\0\x04\0\0\0\0")

    def _pdu(self, connection) -> bytes:
        head = connection.recv(6, socket.MSG_WAITALL)
        return head + connection.recv(int.from_bytes(head[2:], "big"), socket.MSG_WAITALL) if len(head) == 6 else b""


def _in_jpeg(context):
    context.transfer_syntax = ["1.2.840.10008.1.2.4.50"]


def _in_big_endian(context):
    context.transfer_syntax = ["1.2.840.10008.1.2.2"]


def _under_other_numbers(context):
    context.context_id += 100


@pytest.mark.parametrize("change", [_in_jpeg, _in_big_endian, _under_other_numbers])
def test_an_answer_to_other_presentation_contexts_gets_no_object(tmp_path, change):
    spool, peer = open_spool(tmp_path), OtherContexts(change)
    server = RawServer(peer)
    owe(spool, reports(2))
    config = PacsConfig(name="pacs", ae_title="PACS", host="127.0.0.1", port=server.port, timeout_s=2.0, retry=QUICK)
    deliverer = Deliverer(config, "NODE", spool)
    deliverer.start()
    try:
        if change is _under_other_numbers:
            wait_until(lambda: "no presentation context" in deliverer.problem)
            assert states(spool) == {"waiting": 2}
        else:
            wait_until(lambda: states(spool) == {"quarantined": 2})
            assert "not proposed" in spool.quarantined()[0].reason
        assert peer.messages == 0 and deliverer.is_alive
    finally:
        deliverer.stop(5)
        server.close()
    spool.close()


def test_every_status_has_one_meaning():
    meanings = [response(code).meaning for code in range(0x10000)]
    assert meanings[0] == "stored"
    assert {response(code).meaning for code in range(0xB000, 0xC000)} == {"stored"}
    assert {response(code).meaning for code in range(0xA700, 0xA800)} == {"transient"}
    assert {response(code).meaning for code in [*range(0xA900, 0xAA00), *range(0xC000, 0xD000)]} == {"permanent"}
    assert response(0x7777).text == "7777H, which is no known status"
    assert [rejected_context(result).meaning for result in (1, 2, 3, 4, 9, None)] == [
        *("transient", "transient", "permanent", "permanent", "permanent", "transient")
    ]
    assert commitment_failure(0x0112)[0] == "send again"
    assert commitment_failure(0xFFFF)[0] == commitment_failure(None)[0] == "ask again"
