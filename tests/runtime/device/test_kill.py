"""A process that is killed at random instants of an update; ``experiments/device_kill.py`` does it 500 times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "experiments" / "device_kill.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("rounds", [12, pytest.param(500, marks=pytest.mark.slow)])
def test_the_device_starts_after_every_kill(releases, rounds):
    command = [sys.executable, str(SCRIPT), str(releases[1]), "--rounds", str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["failures"] == [] and result["rounds"] == rounds
    assert sum(result["killed_during"].values()) == rounds and result["changes_made"] > rounds
