"""A power failure that loses what was not synced; ``experiments/node_unsynced.py`` lets it fail 1,000 times."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom")

SLOW = pytest.mark.slow
SCRIPT = Path(__file__).resolve().parents[3] / "experiments" / "node_unsynced.py"


def outcome(*options: str) -> dict[str, Any]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    command = [sys.executable, str(SCRIPT), "--images", "6", "--failures", "40", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


def test_what_was_promised_is_there_after_every_power_failure() -> None:
    result = outcome()
    assert result["failed"] == []
    assert result["images_promised_in_all"] > 0
    assert result["operations_lost"] > 0


@pytest.mark.parametrize("step", ["file", pytest.param("folder", marks=SLOW), pytest.param("commit", marks=SLOW)])
def test_a_step_that_is_not_synced_would_be_noticed(step: str) -> None:
    assert outcome("--leave-out", step)["failed"] != []
