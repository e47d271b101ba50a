"""A node in a process of its own, as an operator runs it, and dcmtk's ``storescu`` as the scanner."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from real_peers import program

from medfm_compress.runtime.node.config import NodeConfig

LONGEST_S = 60.0


class RunningNode:
    """`start` it, `kill` it, `stop` it, again and again."""

    def __init__(
        self,
        config: NodeConfig,
        folder: Path,
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self._prefix = prefix
        self.config, self.file, self.log = config, folder / "node.yaml", folder / "node.log"
        self.file.write_bytes(msgspec.json.encode(msgspec.to_builtins(config)))
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Run it, until it is ready where ``wait``."""
        command = [*self._prefix, sys.executable, "-m", "medfm_compress", "serve", str(self.file)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)
        if wait:
            until(lambda: self.ask("/ready")[0] == 200 or self.has_ended())
            assert not self.has_ended(), self.said()

    def has_ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def kill(self) -> None:
        """As a power failure would end it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it in good order; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(LONGEST_S)

    def ask(self, path: str) -> tuple[int, str]:
        """What the health port says; status 0 where nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.config.operate.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def status(self) -> Any:
        """What ``serve status`` says."""
        from medfm_compress.runtime.node.overview import overview

        return overview(self.config)

    def states(self) -> dict[str, int]:
        return dict(self.status().instances)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, files: Sequence[Path], *, title: str = "SCANNER", options: Sequence[str] = ()) -> str:
        """storescu's words; every file that was answered success is in ``stored`` of them."""
        port = str(self.config.receive.port)
        command = [program("storescu"), "-v", "-aet", title, "-aec", self.config.receive.ae_title, *options]
        done = subprocess.run(
            [*command, "127.0.0.1", port, *map(str, files)],
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_S,
        )
        return done.stdout + done.stderr


def stored(words: str, files: Sequence[Path]) -> list[Path]:
    """The files that were answered success, out of what storescu said."""
    accepted, current = [], None
    named = {str(path): path for path in files}
    for line in words.splitlines():
        for name, path in named.items():
            if line.endswith(f"Sending file: {name}"):
                current = path
        if "Received Store Response (Success)" in line and current is not None:
            accepted.append(current)
            current = None
    return accepted


def until(condition: Callable[[], bool], seconds: float = LONGEST_S) -> None:
    """Wait for ``condition``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.05)


def metric(text: str, name: str) -> float:
    """Sum of all series of a metric."""
    values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"medfm_node_{name}")]
    return sum(map(float, values))


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
