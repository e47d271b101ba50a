"""DICOM applications of Debian's packages as peers for tests: dcmtk's receivers and Orthanc, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def find(name: str) -> str | None:
    """Path of a program that is no Python script: pynetdicom has some that are called like DCMTK's tools."""
    for place in filter(None, os.environ.get("PATH", "").split(os.pathsep)):
        found = shutil.which(name, path=place)
        if found is not None and b"python" not in Path(found).read_bytes()[:200].split(b"\n")[0]:
            return found
    return None


def program(name: str, *folders: str) -> str:
    """Path of a program; the test is skipped where it is absent."""
    path = find(name) or next((f"{folder}/{name}" for folder in folders if Path(folder, name).exists()), None)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def free_port() -> int:
    """One that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], port: int, folder: Path, seconds: float = 30.0
) -> Iterator[subprocess.Popen[bytes]]:
    """The program, once it listens at ``port``."""
    with (folder / "peer.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        _wait_for_port(process, port, seconds, folder)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], port: int, seconds: float, folder: Path) -> None:
    end = time.monotonic() + seconds
    while True:
        assert process.poll() is None, (folder / "peer.log").read_text(errors="replace")
        try:
            with socket.create_connection(("127.0.0.1", port), 0.5):
                return
        except OSError:
            assert time.monotonic() < end, f"nothing listens at {port}"
            time.sleep(0.05)


@contextmanager
def orthanc(folder: Path, modalities: dict[str, Sequence[Any]], port: int | None = None) -> Iterator[Orthanc]:
    """Orthanc with an empty store in ``folder``; it knows ``modalities``: name → AE title, host, port."""
    executable = program("Orthanc", "/usr/sbin")
    dicom, http = port or free_port(), free_port()
    folder.mkdir(exist_ok=True)
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
        "DicomModalities": {name: list(values) for name, values in modalities.items()},
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with running([executable, str(folder / "orthanc.json")], http, folder):
        yield Orthanc(dicom, http)


class Orthanc:
    """One that runs.

    Attributes:
        port: of DICOM.
    """

    def __init__(self, port: int, http: int) -> None:
        self.port, self._http = port, http

    def get(self, path: str) -> Any:
        """JSON of its REST interface."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._http}{path}", timeout=10) as response:
            return json.load(response)

    def post(self, path: str, body: Any) -> Any:
        """Likewise, with a JSON body."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._http}{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def instances(self) -> set[str]:
        """SOP instance UIDs of what it holds."""
        return {entry["MainDicomTags"]["SOPInstanceUID"] for entry in self.get("/instances?expand")}
