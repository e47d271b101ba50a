"""Results that were made for a destination which the configuration does not name any more: seen, kept, sent later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import node_scene
import pytest
from msgspec.structs import replace

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.node.config import NodeConfig
from medfm_compress.runtime.node.overview import overview, quarantined, replay
from medfm_compress.runtime.node.service import Node

pytest.importorskip("pynetdicom")


def started(config: NodeConfig, image: bytes | None = None) -> None:
    """Open a node as a start does, let it read ``image``, and close it."""
    node = Node(config)
    if image is not None:
        node_scene.accept(node.spool, image)
        claimed = node.spool.claim()
        assert claimed is not None
        node.reader.read(claimed)
    node.stop()


def test_a_destination_that_is_renamed_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = node_scene.config(tmp_path)
    renamed = replace(config, pacs=(replace(config.pacs[0], name="elsewhere"),))
    started(config, node_scene.image())
    started(renamed)
    assert "1 results are for destinations that the configuration does not name" in caplog.text
    assert overview(renamed).deliveries == {"archive": {"quarantined": 1}}
    (entry,) = quarantined(renamed)
    assert entry.what == "result to archive" and "configuration" in entry.reason
    assert replay(renamed, ["all"]) == []
    with pytest.raises(InputError, match="does not name"):
        replay(renamed, [entry.name])
    started(config)
    assert overview(config).deliveries == {"archive": {"waiting": 1}} and not quarantined(config)


def test_a_node_without_its_database_does_not_start(tmp_path: Path) -> None:
    config: Any = node_scene.config(tmp_path)
    started(config, node_scene.image())
    for path in (Path(config.folder) / "spool").glob("spool.sqlite*"):
        path.unlink()
    with pytest.raises(InputError, match="database"):
        Node(config)


def test_a_node_is_ready_once_every_way_in_is_open(tmp_path: Path) -> None:
    node = Node(node_scene.config(tmp_path))
    assert node.unready() == ["the node is starting"]
    try:
        node.start()
        assert node.unready() == []
    finally:
        node.stop()
