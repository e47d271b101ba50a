"""A node that is killed at random instants while images stream in; ``experiments/node_kill.py`` does it 500 times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom")

SCRIPT = Path(__file__).resolve().parents[3] / "experiments" / "node_kill.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("rounds", [6, pytest.param(500, marks=pytest.mark.slow)])
def test_what_was_acknowledged_is_there_after_every_kill(rounds: int) -> None:
    command = [sys.executable, str(SCRIPT), "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert (result["failures"], result["rounds"]) == ([], rounds)
    assert result["acknowledged"] > 0
