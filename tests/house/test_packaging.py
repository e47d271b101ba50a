"""What starts a node on a machine: the unit of systemd and the container file say what the command line knows."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
UNIT = PACKAGING / "medfm-compress-node.service"
CONFIGURATION = "/etc/medfm-compress/node.yaml"


def test_the_unit_starts_a_node_that_tells_when_it_is_ready() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    service = parser["Service"]
    assert service["ExecStart"].split()[1:] == ["serve", "start", CONFIGURATION]
    assert service["Type"] == "notify" and int(service["WatchdogSec"]) >= 10
    assert service["RestartPreventExitStatus"] == "2 4"
    assert service["NoNewPrivileges"] == "yes" and service["ProtectSystem"] == "strict"


def test_systemd_understands_the_unit_and_finds_it_closed(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/medfm-compress/bin/medfm-compress", "/bin/true"))
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert UNIT.name not in verified.stderr, verified.stderr
    command = ["systemd-analyze", "security", "--offline=true", str(unit)]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", judged.stdout)
    if exposure is None:
        pytest.skip("this systemd-analyze does not judge files")
    assert float(exposure[1]) < 2


def test_the_container_runs_as_nobody_in_particular() -> None:
    lines = (PACKAGING / "Containerfile").read_text().splitlines()
    instructions = dict(line.split(" ", 1) for line in lines if re.match(r"[A-Z]+ ", line))
    assert instructions["USER"] == "10001:10001" and instructions["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(instructions["ENTRYPOINT"])[1:] == ["serve", "start"]
    assert json.loads(instructions["CMD"]) == [CONFIGURATION]
