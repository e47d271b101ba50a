"""The whole node beside real peers: dcmtk's storescu as the scanner, Orthanc as the PACS."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import node_scene
import pytest
from msgspec.structs import replace

from medfm_compress.runtime.node.audit import verify
from medfm_compress.runtime.node.config import NodeConfig, SpoolConfig

pytest.importorskip("pynetdicom")

from real_peers import Orthanc, orthanc, program
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


def archive(folder: Path, config: NodeConfig) -> Any:
    (pacs,) = config.pacs
    return orthanc(folder / "orthanc", {"medfm": ["MEDFM", "127.0.0.1", config.receive.port]}, port=pacs.port)


def write(folder: Path, count: int, first: int = 0, **arguments: Any) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(first, first + count):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(node_scene.image(number, **arguments))
    return paths


def uids(paths: list[Path]) -> set[str]:
    return {node_scene.uid_of(path.read_bytes()) for path in paths}


def read_images(pacs: Orthanc) -> set[str]:
    """SOP instance UIDs of the images that the archive has a report of."""
    found = set()
    for instance in pacs.get("/instances"):
        tags = pacs.get(f"/instances/{instance}/tags?simplify")
        series = tags["CurrentRequestedProcedureEvidenceSequence"][0]["ReferencedSeriesSequence"][0]
        found.add(series["ReferencedSOPSequence"][0]["ReferencedSOPInstanceUID"])
    return found


def quarantined_uids(config: NodeConfig) -> set[str]:
    import sqlite3

    database = sqlite3.connect(f"file:{Path(config.folder) / 'spool' / 'spool.sqlite'}?mode=ro", uri=True)
    try:
        rows = database.execute("SELECT sop_instance_uid FROM instances WHERE state = 'quarantined'").fetchall()
    finally:
        database.close()
    return {row[0] for row in rows}


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


CRASH = """
import os
from medfm_compress.runtime import engine
real = engine.Engine.predict
def predict(self, source, **options):
    if b"CRASH" in source:
        os._exit(139)
    return real(self, source, **options)
engine.Engine.predict = predict
"""


def test_an_image_that_ends_the_process_ends_in_quarantine(tmp_path: Path, config: NodeConfig) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(CRASH)
    import sys

    node = RunningNode(config, tmp_path, {"PYTHONPATH": os.pathsep.join([str(tmp_path / "hook"), *sys.path])})
    files = [*write(tmp_path / "in", 1, change={"StationName": "CRASH"}), *write(tmp_path / "in", 2, first=1)]
    node.start()
    starts = 1
    try:
        node.send(files)
        while not node.has_ended() or starts < 4:
            if node.has_ended():
                node.start(wait=False)
                starts += 1
            if starts > 1 and node.states().get("quarantined"):
                break
            time.sleep(0.05)
        until(lambda: node.ask("/ready")[0] == 200)
        node.send(files)  # what was not acknowledged is sent again
        until(lambda: node.states() == {"read": 2, "quarantined": 1})
        assert starts == config.spool.attempts + 1
        assert quarantined_uids(config) == uids(files[:1])
        assert node.stop() == 0
    finally:
        if not node.has_ended():
            node.kill()


def test_nothing_acknowledged_is_lost_when_it_is_killed(tmp_path: Path, config: NodeConfig, node: RunningNode) -> None:
    rounds = int(os.environ.get("MEDFM_KILL_ROUNDS", "4"))
    random.seed(7)
    acknowledged: set[str] = set()
    with archive(tmp_path, config) as pacs:
        for number in range(rounds):
            files = write(tmp_path / f"in{number}", 6, first=10 * number)
            node.start()
            sender = subprocess.Popen(
                [
                    *(program("storescu"), "-v", "-aet", "SCANNER", "-aec", "MEDFM", "127.0.0.1"),
                    *(str(config.receive.port), *map(str, files)),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            time.sleep(random.uniform(0.0, 0.6))
            node.kill()
            words = sender.communicate(timeout=60)[0]
            acknowledged |= uids(stored(words, files))
        node.start()
        until(lambda: not {"waiting", "reading", "read"} & set(node.states()))
        assert node.stop() == 0
        assert acknowledged <= read_images(pacs) | quarantined_uids(config)
        assert acknowledged, "no round acknowledged anything"
        assert not quarantined_uids(config)
    verify(Path(config.folder))


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


def resident(process: Any) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def test_memory_stays_flat(tmp_path: Path, config: NodeConfig, node: RunningNode) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here")
    with archive(tmp_path, config):
        node.start()
        sizes = []
        for number in range(4):
            files = write(tmp_path / f"in{number}", 30, first=100 * number)
            node.send(files)
            until(lambda number=number: node.states().get("done") == 30 * (number + 1))
            sizes.append(resident(node.process))
        assert node.stop() == 0
    assert sizes[-1] - sizes[1] < 8e6, sizes
