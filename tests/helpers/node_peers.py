"""Images for a node, and what its archive and its quarantine hold of them afterwards."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import node_scene
from real_peers import Orthanc, orthanc

from medfm_compress.runtime.node.config import NodeConfig


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
    database = sqlite3.connect(f"file:{Path(config.folder) / 'spool' / 'spool.sqlite'}?mode=ro", uri=True)
    try:
        rows = database.execute("SELECT sop_instance_uid FROM instances WHERE state = 'quarantined'").fetchall()
    finally:
        database.close()
    return {row[0] for row in rows}
