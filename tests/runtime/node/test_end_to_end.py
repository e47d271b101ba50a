"""The whole node beside real peers: dcmtk's storescu as the scanner, Orthanc as the PACS."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import node_scene
import pytest
from msgspec.structs import replace

from medfm_compress.runtime.node.audit import verify
from medfm_compress.runtime.node.config import FhirConfig, NodeConfig, SpoolConfig, StowConfig, WatchConfig

pytest.importorskip("pynetdicom")

from fhir_server import FhirServer
from node_peers import archive, read_images, uids, write
from real_peers import program
from running_node import RunningNode, json_lines, metric, stored, until

from medfm_compress.runtime.node.spool.overview import SpoolView

if os.name == "nt":
    pytest.skip("signals and Orthanc of Linux", allow_module_level=True)


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    program("storescu")
    return node_scene.config(tmp_path, pacs_port=node_scene.free_port())


@pytest.fixture
def node(tmp_path: Path, config: NodeConfig) -> Iterator[RunningNode]:
    running = RunningNode(config, tmp_path)
    yield running
    if running.process is not None and running.process.poll() is None:
        running.kill()


def test_images_in_reports_out_and_nobody_named(tmp_path: Path, config: NodeConfig, node: RunningNode) -> None:
    files = [*write(tmp_path / "in", 4), *write(tmp_path / "bad", 1, first=9, change={"PatientID": ""})]
    with archive(tmp_path, config) as pacs:
        node.start()
        assert stored(node.send(files), files) == files
        until(lambda: node.states() == {"done": 4, "quarantined": 1})
        assert read_images(pacs) == uids(files[:4])
        assert node.ask("/health")[0] == 200
        text = node.ask("/metrics")[1]
        assert metric(text, "read_total") == 5 and metric(text, "delivered_seconds_count") == 4
        assert node.stop() == 0
    assert not list((Path(config.folder) / "spool" / "objects").iterdir())
    assert len(list((Path(config.folder) / "spool" / "instances").iterdir())) == 1
    written = node.said() + text
    written += "".join(path.read_text() for path in (Path(config.folder) / "audit").iterdir())
    for word in (*node_scene.PATIENT_NAME.split("^"), node_scene.PATIENT_ID, *uids(files)):
        assert word not in written
    assert all({"at", "level", "message"} <= set(entry) for entry in json_lines(node.said()))
    verify(Path(config.folder))


def test_strangers_get_nowhere(tmp_path: Path, config: NodeConfig, node: RunningNode) -> None:
    files = write(tmp_path / "in", 1)
    node.start()
    assert stored(node.send(files, title="STRANGER"), files) == []
    assert node.states() == {}
    assert "STRANGER" not in node.ask("/metrics")[1]
    assert node.stop() == 0


def test_a_pacs_that_comes_back(tmp_path: Path, config: NodeConfig, node: RunningNode) -> None:
    files = write(tmp_path / "in", 3)
    node.start()
    assert stored(node.send(files), files) == files
    until(lambda: node.states() == {"read": 3})
    with archive(tmp_path, config) as pacs:
        until(lambda: node.states() == {"done": 3})
        assert read_images(pacs) == uids(files)
    assert node.stop() == 0


def test_a_stop_puts_back_what_is_not_finished(tmp_path: Path, config: NodeConfig, node: RunningNode) -> None:
    files = write(tmp_path / "in", 20)
    node.start()
    assert len(stored(node.send(files), files)) == 20
    assert node.stop() == 0
    states = node.states()
    assert sum(states.values()) == 20 and "reading" not in states
    assert node.process is not None
    node.start()
    until(lambda: node.states() == {"read": 20})
    assert node.stop(signal.SIGINT) == 130


def test_a_second_node_on_the_same_folder(tmp_path: Path, config: NodeConfig, node: RunningNode) -> None:
    node.start()
    other = RunningNode(replace(node_scene.config(tmp_path), folder=config.folder), tmp_path)
    other.start(wait=False)
    assert other.process is not None and other.process.wait(60) == 2
    assert "in use" in other.said()
    assert node.stop() == 0


def test_a_port_that_is_taken(tmp_path: Path, config: NodeConfig, node: RunningNode) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", config.receive.port))
        taken.listen()
        node.start(wait=False)
        assert node.process is not None and node.process.wait(60) == 2
    assert str(config.receive.port) in node.said() and "Traceback" not in node.said()


def test_a_full_spool_refuses_and_goes_on(tmp_path: Path) -> None:
    config = node_scene.config(tmp_path, spool=SpoolConfig(max_gb=60e-6, min_free_gb=0))
    node = RunningNode(config, tmp_path)
    files = write(tmp_path / "in", 20)
    node.start()
    try:
        accepted = stored(node.send(files, options=["-nh"]), files)
        assert 0 < len(accepted) < 20
        view = SpoolView(Path(config.folder) / "spool")
        until(lambda: view.counts().instances == {"read": len(accepted)})
        view.close()
        assert node.stop() == 0
    finally:
        if not node.has_ended():
            node.kill()


def test_a_watched_folder_and_stow(tmp_path: Path, config: NodeConfig) -> None:
    (tmp_path / "watched").mkdir()
    watch = WatchConfig(folder=str(tmp_path / "watched"), settle_s=0.2, every_s=0.1)
    both = replace(config, watch=watch, stow=StowConfig(port=node_scene.free_port()))
    node = RunningNode(both, tmp_path)
    node.start()
    try:
        (by_folder,) = write(tmp_path / "watched", 1)
        body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + node_scene.image(1) + b"\r\n--b--\r\n"
        connection = http.client.HTTPConnection("127.0.0.1", both.stow.port, timeout=20)  # type: ignore[union-attr]
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        connection.request("POST", "/studies", body, {"Content-Type": kind, "Accept": "application/dicom+json"})
        assert connection.getresponse().status == 200
        connection.close()
        until(lambda: node.states() == {"read": 2} and not by_folder.exists())
        assert node.stop() == 0
    finally:
        if not node.has_ended():
            node.kill()


def test_traffic_goes_to_loopback_only(tmp_path: Path, config: NodeConfig) -> None:
    trace = tmp_path / "trace.txt"
    calls = "trace=connect,sendto,sendmsg,sendmmsg,bind"
    node = RunningNode(config, tmp_path, prefix=(program("strace"), "-D", "-f", "-qq", "-e", calls, "-o", str(trace)))
    files = write(tmp_path / "in", 2)
    with archive(tmp_path, config):
        node.start()
        try:
            assert stored(node.send(files), files) == files
            until(lambda: node.states() == {"done": 2})
            assert node.stop() == 0
        finally:
            if not node.has_ended():
                node.kill()
    # to port 0 nothing is sent: so the C library asks which of its own addresses it would use
    calls_made = [line for line in trace.read_text().splitlines() if "AF_INET" in line and "htons(0)" not in line]
    found = [re.search(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"', line) for line in calls_made]
    assert {address for match in found if match for address in match.groups() if address} <= {"127.0.0.1", "::1"}
    assert len([match for match in found if match]) >= 3  # two listeners, and the archive


def test_a_report_reaches_a_record_system(tmp_path: Path, config: NodeConfig) -> None:
    server = FhirServer()
    only_records = replace(config, pacs=(), fhir=(FhirConfig(name="records", url=server.url),))
    running, files = RunningNode(only_records, tmp_path), write(tmp_path / "in", 2)
    try:
        running.start()
        assert stored(running.send(files), files) == files
        until(lambda: running.states() == {"done": 2})
        reports = [resource for resource in server.kept.values() if type(resource).__name__ == "DiagnosticReport"]
        assert len(reports) == 2 and {report.status for report in reports} == {"preliminary"}
        assert running.stop() == 0
    finally:
        if running.process is not None and running.process.poll() is None:
            running.kill()
        server.close()
