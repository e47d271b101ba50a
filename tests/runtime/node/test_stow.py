"""STOW-RS: what is answered, what is kept, and what is refused."""

from __future__ import annotations

import http.client
import json
import socket
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.node.config import StowConfig
from medfm_compress.runtime.node.multipart import Multipart
from medfm_compress.runtime.node.spool.spool import Spool
from medfm_compress.runtime.node.stow import MAX_REQUESTS, Stow
from tests.helpers.node_receiver import CR_IMAGE, Notes, accepted_uids, free_port, image_file, node_config
from tests.helpers.spool_scene import structured_report

Scene = tuple[Stow, Spool, Notes]
TYPE = 'multipart/related; type="application/dicom"; boundary=next'


def start(folder: Path, spool_settings: dict[str, Any] | None = None, **settings: Any) -> Scene:
    config = msgspec.structs.replace(
        node_config(folder, spool_settings, max_object_mb=1), stow=StowConfig(port=free_port(), **settings)
    )
    spool, notes = Spool(folder / "spool", config.spool), Notes()
    stow = Stow(config, spool, notes, notes)
    stow.start()
    return stow, spool, notes


def stop(scene: Scene) -> None:
    scene[0].stop(1.0)
    scene[1].close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = start(tmp_path)
    yield scene
    stop(scene)


def multipart(contents: Sequence[bytes], media_type: str = "application/dicom") -> bytes:
    parts = [
        b"--next\r\nContent-Type: " + media_type.encode() + b"\r\n\r\n" + content + b"\r\n" for content in contents
    ]
    return b"".join([*parts, b"--next--\r\n"])


def post(scene: Scene, body: bytes, path: str = "/studies", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", scene[0].port, timeout=20)
    try:
        named = {"Content-Type": TYPE, **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection.request("POST", path, body, named)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_instances_are_stored_and_named_in_the_answer(scene: Scene) -> None:
    status, content = post(scene, multipart([image_file("1.2.3.1"), image_file("1.2.3.2", size=400)]))
    assert status == 200
    module = json.loads(content)
    items = module["00081199"]["Value"]
    assert [item["00081155"]["Value"] for item in items] == [["1.2.3.1"], ["1.2.3.2"]]
    assert "00081198" not in module
    assert accepted_uids(scene[1]) == {"1.2.3.1", "1.2.3.2"}
    instance = scene[1].claim()
    assert instance is not None
    assert instance.path.read_bytes() == image_file("1.2.3.1")


def test_some_that_fail_are_named_with_their_reason(scene: Scene) -> None:
    large, report = image_file("1.2.3.9", size=1000), structured_report("1.2.3.8")
    status, content = post(
        scene, multipart([b"no DICOM", image_file("1.2.3.1"), large, report]), Accept="application/dicom+xml"
    )
    assert status == 202
    root = ET.fromstring(content)
    reasons = [element.findtext("Value") for element in root.iter("DicomAttribute") if element.get("tag") == "00081197"]
    assert reasons == [str(0xC000), str(0xA900), str(0x0122)]
    assert accepted_uids(scene[1]) == {"1.2.3.1"}
    assert sorted(scene[2].reasons()) == ["not-understood", "object-too-large", "sop-class"]


def test_only_instances_of_the_study_in_the_path(scene: Scene) -> None:
    assert post(scene, multipart([image_file("1.2.3.1")]), "/studies/1.2.3")[0] == 200
    status, content = post(scene, multipart([image_file("1.2.3.2")]), "/studies/9.9.9")
    assert status == 409
    assert json.loads(content)["00081198"]["Value"][0]["00081150"]["Value"] == [CR_IMAGE]


@pytest.mark.parametrize(
    ("body", "path", "headers", "status"),
    [
        (multipart([]), "/studies", {}, 400),
        (multipart([image_file("1.2.3.1")])[:-40], "/studies", {}, 400),
        (b"", "/studies", {}, 400),
        (multipart([image_file("1.2.3.1")]), "/elsewhere", {}, 404),
        (multipart([image_file("1.2.3.1")]), "/studies", {"Content_Type": "application/dicom"}, 415),
        (multipart([image_file("1.2.3.1")]), "/studies", {"Content_Type": "multipart/related"}, 415),
        (multipart([image_file("1.2.3.1")], "text/plain"), "/studies", {}, 409),
        (b"--next\r\n" + b"X-Long: " + b"x" * 20_000 + b"\r\n\r\n", "/studies", {}, 400),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(
    scene: Scene, body: bytes, path: str, headers: dict[str, str], status: int
) -> None:
    assert post(scene, body, path, **headers)[0] == status
    assert accepted_uids(scene[1]) == set()
    assert list((scene[1].folder / "incoming").iterdir()) == []


def test_a_token_is_asked_for_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    scene = start(tmp_path, token_file=str(tmp_path / "token"))
    body = multipart([image_file("1.2.3.1")])
    assert post(scene, body)[0] == 401
    assert post(scene, body, Authorization="Bearer wrong")[0] == 401
    assert post(scene, body, Authorization="Bearer secret")[0] == 200
    stop(scene)


def test_a_full_spool_is_a_service_that_is_not_available(tmp_path: Path) -> None:
    scene = start(tmp_path, {"max_gb": 1e-5})
    assert post(scene, multipart([image_file("1.2.3.1", size=300)]))[0] == 503
    stop(scene)


def test_a_body_that_breaks_off_keeps_what_was_whole(scene: Scene) -> None:
    body = multipart([image_file("1.2.3.1"), image_file("1.2.3.2")])
    with socket.create_connection(("127.0.0.1", scene[0].port)) as peer:
        head = f"POST /studies HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.sendall(head.encode() + body[:-300])
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1000).startswith(b"HTTP/1.1 400")
    assert accepted_uids(scene[1]) == {"1.2.3.1"}
    assert list((scene[1].folder / "incoming").iterdir()) == []


def test_a_port_that_is_taken_is_said_in_one_sentence(scene: Scene, tmp_path: Path) -> None:
    config = msgspec.structs.replace(node_config(tmp_path), stow=StowConfig(port=scene[0].port))
    with pytest.raises(InputError, match="cannot listen at"):
        Stow(config, scene[1], scene[2], scene[2]).start()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100_000])
def test_parts_are_the_same_however_the_body_arrives(size: int) -> None:
    contents = [b"", b"\r\n", b"\r\n--nex", b"--next", bytes(range(256)) * 9, b"\r\n--\r\n-\r"]
    body = b"preamble\r\n" + multipart(contents) + b"epilogue"
    position = 0

    def read(wanted: int) -> bytes:
        nonlocal position
        piece = body[position : position + min(size, wanted)]
        position += len(piece)
        return piece

    assert [b"".join(chunks) for _, chunks in Multipart(read, TYPE).parts()] == contents


def test_nobody_holds_a_place_without_asking(scene: Scene) -> None:
    dripping = [socket.create_connection(("127.0.0.1", scene[0].port)) for _ in range(3 * MAX_REQUESTS)]
    try:
        for connection in dripping:
            connection.sendall(b"POST /studies HTTP/1.1\r\nX-a: b\r\n")
        assert post(scene, multipart([image_file("1.2.3")]))[0] == 200
    finally:
        for connection in dripping:
            connection.close()


def test_who_does_not_come_to_the_point_is_cut_off(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene[0]._server, "_asking_s", 0.5)
    with socket.create_connection(("127.0.0.1", scene[0].port)) as connection:
        with pytest.raises(OSError):
            for _ in range(100):  # a byte before every time limit of one step
                connection.sendall(b"X")
                time.sleep(0.1)
        assert post(scene, multipart([image_file("1.2.3")]))[0] == 200


def test_a_disk_that_fails_is_a_service_that_is_not_available(scene: Scene) -> None:
    def fails(*_: Any) -> Any:
        raise OSError(5, "Input/output error")

    scene[1].accept = fails  # type: ignore[method-assign]
    status, answer = post(scene, multipart([image_file("1.2.3")]))
    assert status == 503 and b"42752" in answer
    assert not list((scene[1].folder / "incoming").iterdir())
