"""Metrics, health, log, systemd and progress."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.node import metrics as metrics_module
from medfm_compress.runtime.node import systemd
from medfm_compress.runtime.node.health import Health
from medfm_compress.runtime.node.log import MAX_OF_LIBRARIES, Sparing
from medfm_compress.runtime.node.metrics import HELP, MAX_SERIES, Metrics
from medfm_compress.runtime.node.progress import Progress

UID = "1.2.826.0.1.3680043.8.498.12345678901234567890"


def test_metrics_read_as_prometheus_wants_them() -> None:
    metrics = Metrics()
    metrics.count("received", way="dimse")
    metrics.count("received_total", 2, way="dimse")
    metrics.gauge("spool_bytes", 1.5)
    metrics.observe("read_seconds", 0.2)
    metrics.observe("read_seconds", 7200)
    text = metrics.text()
    assert 'medfm_node_received_total{way="dimse"} 3\n' in text
    assert "# TYPE medfm_node_spool_bytes gauge\nmedfm_node_spool_bytes 1.5\n" in text
    assert 'medfm_node_read_seconds_bucket{le="0.25"} 1\n' in text
    assert 'medfm_node_read_seconds_bucket{le="+Inf"} 2\n' in text
    assert "medfm_node_read_seconds_count 2\n" in text and "medfm_node_read_seconds_sum 7200.2\n" in text


def test_every_name_that_is_counted_is_explained() -> None:
    room = Path(metrics_module.__file__).parent
    code = "".join(path.read_text() for path in room.rglob("*.py"))
    counted = set(re.findall(r"\.count\(\s*\"(\w+)\"", code))
    set_or_observed = set(re.findall(r"\.(?:gauges?|observe)\(\s*\"(\w+)\"", code))
    names = {name if name.endswith("_total") else f"{name}_total" for name in counted} | set_or_observed
    assert len(names) > 15 and names == set(HELP)


def test_labels_are_escaped_and_bounded() -> None:
    metrics = Metrics()
    metrics.count("x", name='a"b\\c\nd')
    assert '{name="a\\"b\\\\c\\nd"} 1\n' in metrics.text()
    for number in range(2 * MAX_SERIES):
        metrics.count("y", title=str(number))
    assert metrics.text().count("medfm_node_y_total{") == MAX_SERIES + 1
    assert metrics.value("y_total", title="other") == MAX_SERIES


def test_a_gauge_forgets_series_that_are_gone() -> None:
    metrics = Metrics()
    metrics.gauges("instances", {(("state", "waiting"),): 3})
    metrics.gauges("instances", {(("state", "read"),): 1})
    assert "waiting" not in metrics.text() and 'state="read"} 1' in metrics.text()


def ask(port: int, path: str, host: str = "") -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_health_says_why_not() -> None:
    faults: list[str] = []
    health = Health(0, faults=lambda: faults, unready=lambda: ["full"], metrics=lambda: "m 1\n")
    health.start()
    try:
        assert ask(health.port, "/health") == (200, '{"status": "ok", "reasons": [], "remarks": []}\n')
        assert ask(health.port, "/ready") == (503, '{"status": "unavailable", "reasons": ["full"], "remarks": []}\n')
        faults.append("the reader has ended")
        assert ask(health.port, "/health")[0] == 503
        assert ask(health.port, "/metrics") == (200, "m 1\n")
        assert ask(health.port, "/other")[0] == 404
        assert ask(health.port, "/metrics", "evil.example")[0] == 403
        assert ask(health.port, "/metrics", "localhost:1")[0] == 200
        with pytest.raises(InputError, match="give another operate"):
            Health(health.port, faults=list, unready=list, metrics=str)
    finally:
        health.stop()


def test_health_answers_beside_silent_askers() -> None:
    health = Health(0, faults=list, unready=list, metrics=str)
    health.start()
    silent = [socket.create_connection(("127.0.0.1", health.port)) for _ in range(10)]
    try:
        assert ask(health.port, "/health")[0] == 200
    finally:
        for connection in silent:
            connection.close()
        health.stop()


def test_systemd_gets_what_it_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("no Unix sockets here")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "s"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "s"))
        assert systemd.notify(systemd.READY, "STATUS=x")
        assert listener.recv(100) == b"READY=1\nSTATUS=x"
    assert not systemd.notify(systemd.READY)  # it went away
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not systemd.notify(systemd.READY)


@pytest.mark.parametrize(("usec", "pid", "expected"), [("30000000", "", 30.0), ("30000000", "1", None), ("", "", None)])
def test_watchdog_interval(monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, expected: float | None) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert systemd.watchdog_s() == expected


def test_progress_tells_dead_from_stuck() -> None:
    now = [0.0]
    progress = Progress(clock=lambda: now[0])
    alive = threading.Event()
    alive.set()
    progress.watch("reader", alive.is_set, 10)
    progress.watch("receiver", alive.is_set)
    now[0] = 11.0
    assert progress.stuck() == ["reader"] and progress.dead() == []
    progress.beat("reader")
    alive.clear()
    assert progress.stuck() == [] and progress.dead() == ["reader", "receiver"]


LOG = f"""
import logging, sys, threading, warnings
from medfm_compress.runtime.node.identifiers import Marks
from medfm_compress.runtime.node.log import set_up_log
import pynetdicom  # brings handlers of its own
pynetdicom.debug_logger()
set_up_log(sys.argv[1], "debug", Marks(b"k" * 32))
logging.getLogger("medfm_compress.runtime.node").info("received %s\\nand more", "{UID}")
for name in ("pynetdicom.events", "pynetdicom", "pydicom", "highdicom.sr", "other"):
    logging.getLogger(name).error("PatientName Doe^Jane of {UID}")
    logging.getLogger(name).debug("PatientName Doe^Jane")
warnings.warn("value 'Doe^Jane' is none")
try:
    raise ValueError("Doe^Jane")
except ValueError:
    logging.getLogger("medfm_compress.x").exception("reading failed")
def fail(): raise KeyError("Doe^Jane")
thread = threading.Thread(target=fail); thread.start(); thread.join()
raise RuntimeError("Doe^Jane")
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_log_names_no_patient(form: str) -> None:
    pytest.importorskip("pynetdicom")
    done = subprocess.run([sys.executable, "-c", LOG, form], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "Doe" not in said and UID not in said
    assert "received mark-" in said and "and more" in said and "reading failed" in said
    assert "KeyError" in said and "RuntimeError" in said
    rows = done.stderr.splitlines()
    if form == "json":
        entries = [json.loads(row) for row in rows]
        assert {"at", "level", "logger", "message"} <= set(entries[0])
        assert [entry["level"] for entry in entries].count("critical") == 2


def test_libraries_cannot_fill_the_disk_with_their_log(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    sparing = Sparing(clock=lambda: now)

    def passed(name: str, count: int) -> int:
        records = [logging.makeLogRecord({"name": name, "msg": "x"}) for _ in range(count)]
        return sum(sparing.filter(record) for record in records)

    assert passed("pynetdicom.dul", 1000) == MAX_OF_LIBRARIES
    assert passed("medfm_compress.runtime.node", 1000) == 1000
    now = 61.0
    assert passed("pynetdicom.dul", 1) == 1
    assert f"{1000 - MAX_OF_LIBRARIES} more lines of libraries" in caplog.text
