"""The listener with TLS: who shows no certificate of ours is not spoken to, and holds nobody up."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import real_peers

pytest.importorskip("pynetdicom")

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.node.config import TlsConfig
from medfm_compress.runtime.node.receive import Receiver
from medfm_compress.runtime.node.spool.spool import Spool
from tests.helpers.node_receiver import SENDER, TITLE, Notes, accepted_uids, image_file, node_config, receiving
from tests.helpers.spool_scene import wait_until
from tests.helpers.tls_files import certificates

Scene = tuple[Receiver, Spool, Notes]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    certificate, key = certificates(tmp_path, "node")
    certificates(tmp_path, "modality")
    certificates(tmp_path, "stranger")
    tls = TlsConfig(certificate=certificate, key=key, authorities=str(tmp_path / "modality.pem"))
    with receiving(tmp_path, tls=tls, idle_s=20.0) as scene:
        yield scene


def storescu(scene: Scene, folder: Path, *options: object) -> int:
    (folder / "a.dcm").write_bytes(image_file("1.2.3.1"))
    command = [
        real_peers.program("storescu"),
        *options,
        "-aet",
        SENDER,
        "-aec",
        TITLE,
        "127.0.0.1",
        scene[0].port,
        folder / "a.dcm",
    ]
    return subprocess.run([str(part) for part in command], capture_output=True, timeout=60, check=False).returncode


def test_a_sender_with_a_certificate_of_ours_stores(scene: Scene, tmp_path: Path) -> None:
    files = ("+tls", tmp_path / "modality.key", tmp_path / "modality.pem", "+cf", tmp_path / "node.pem")
    assert storescu(scene, tmp_path, *files) == 0
    assert accepted_uids(scene[1]) == {"1.2.3.1"}


def test_others_are_not_spoken_to(scene: Scene, tmp_path: Path) -> None:
    stranger = ("+tls", tmp_path / "stranger.key", tmp_path / "stranger.pem", "+cf", tmp_path / "node.pem")
    anonymous = ("+tla", "+cf", tmp_path / "node.pem")
    for options in (stranger, anonymous, ()):  # the last without TLS at all
        assert storescu(scene, tmp_path, *options) != 0
    wait_until(lambda: scene[2].reasons().count("tls") == 3)
    assert accepted_uids(scene[1]) == set()


def test_a_peer_that_is_silent_in_the_handshake_holds_nobody_up(scene: Scene, tmp_path: Path) -> None:
    files = ("+tls", tmp_path / "modality.key", tmp_path / "modality.pem", "+cf", tmp_path / "node.pem")
    with ExitStack() as silent:
        for _ in range(5):
            silent.enter_context(socket.create_connection(("127.0.0.1", scene[0].port)))
        assert storescu(scene, tmp_path, *files) == 0
    wait_until(lambda: scene[2].reasons().count("tls") == 5)


def test_files_that_are_no_certificates_are_refused_in_one_sentence(tmp_path: Path) -> None:
    certificate, key = certificates(tmp_path, "node")
    (tmp_path / "empty.pem").write_text("")
    spool = Spool(tmp_path / "spool", node_config(tmp_path).spool)
    for files in (("nowhere.pem", key, certificate), (certificate, str(tmp_path / "empty.pem"), certificate)):
        tls = TlsConfig(certificate=files[0], key=files[1], authorities=files[2])
        receiver = Receiver(node_config(tmp_path, tls=tls), spool, Notes(), Notes())
        with pytest.raises(InputError, match=r"receive\.tls cannot be used"):
            receiver.start()
    spool.close()
