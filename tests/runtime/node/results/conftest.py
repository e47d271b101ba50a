"""Programs of others that judge the node's results."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import real_peers

from medfm_compress.runtime.node.spool.records import ResultObject

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def program() -> Run:
    """Runs a program; the test is skipped where it is not installed."""

    def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [real_peers.program(name), *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", timeout=60)

    return run


@pytest.fixture
def complaints(program: Run, tmp_path: Path) -> Callable[[ResultObject], list[str]]:
    """Errors of dicom3tools' ``dciodvfy`` about an object.

    Its warnings are no errors of ours: it knows no private coding scheme, and what is dubious in the image (a name of
    one component, a weight of zero) stays dubious in a faithful copy.
    """

    def check(item: ResultObject) -> list[str]:
        path = tmp_path / f"{item.sop_instance_uid}.dcm"
        path.write_bytes(item.content)
        result = program("dciodvfy", "-new", path)
        lines = (result.stdout + result.stderr).splitlines()
        assert lines and not lines[0].startswith("Error"), lines  # it names the object that it checks
        return [line for line in lines if line.startswith("Error")]

    return check
