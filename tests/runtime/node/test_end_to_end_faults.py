"""The whole node under faults: killed, with an image that ends it, over many images."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import node_scene
import pytest
from msgspec.structs import replace

from medfm_compress.runtime.node.audit import verify
from medfm_compress.runtime.node.config import NodeConfig

pytest.importorskip("pynetdicom")

from node_peers import archive, quarantined_uids, read_images, uids, write
from real_peers import program
from running_node import RunningNode, stored, until

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


def hooked(folder: Path, config: NodeConfig, hook: str) -> RunningNode:
    """A node whose process runs ``hook`` first."""
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(hook)
    return RunningNode(config, folder, {"PYTHONPATH": os.pathsep.join([str(folder / "hook"), *sys.path])})


def test_an_image_that_ends_the_process_ends_in_quarantine(tmp_path: Path, config: NodeConfig) -> None:
    node = hooked(tmp_path, config, CRASH)
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


ENDING = """
from medfm_compress.runtime.node import keeper
keeper.Keeper._run = lambda self: None
"""
STUCK = """
import time
from medfm_compress.runtime import engine
from medfm_compress.runtime.node import read_instances
read_instances.LIMIT_S = 2.0
engine.Engine.predict = lambda *_, **__: time.sleep(600)
"""


def test_a_part_that_ends_ends_the_node(tmp_path: Path, config: NodeConfig) -> None:
    node = hooked(tmp_path, config, ENDING)
    node.start(wait=False)
    assert node.process is not None and node.process.wait(60) == 70
    assert "keeper has ended" in node.said()


def test_an_image_that_never_ends_ends_the_node_and_counts(tmp_path: Path, config: NodeConfig) -> None:
    node = hooked(tmp_path, replace(config, spool=replace(config.spool, attempts=1)), STUCK)
    files = write(tmp_path / "in", 1)
    node.start()
    assert stored(node.send(files), files) == files
    assert node.process is not None and node.process.wait(60) == 70
    assert "reader is stuck" in node.said()
    node.start()
    until(lambda: node.states() == {"quarantined": 1})
    assert node.stop() == 0


def test_nothing_acknowledged_is_lost_when_it_is_killed(tmp_path: Path, config: NodeConfig, node: RunningNode) -> None:
    rounds = int(os.environ.get("MEDFM_KILL_ROUNDS", "3"))
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
        for number in range(3):
            files = write(tmp_path / f"in{number}", 20, first=100 * number)
            node.send(files)
            until(lambda number=number: node.states().get("done") == 20 * (number + 1))
            sizes.append(resident(node.process))
        assert node.stop() == 0
    assert sizes[-1] - sizes[0] < 16e6, sizes
