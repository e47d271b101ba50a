"""How many images a node takes, and how long a result takes, beside ``storescp`` and Orthanc that only store.

    python experiments/node_load.py small.medfm --images 200 --alone --out docs/results/node-load.json

Every sender is a process of dcmtk's ``storescu`` with an association of its own; all send at once. The node delivers to
Orthanc, whose storage commitment it awaits. Latency is from the receipt of an image to the archive's answer to its
report, out of the audit trail; throughput is from the first byte to the last acknowledgement, and to the last
report. `storescp` (which keeps nothing durable) and Orthanc receive the same files by themselves. Nothing of
it needs a GPU; all peers share the machine's processors with the node.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medfm_compress.runtime.bundle.bundle import Bundle

KINDS = {"cr": (2000, "CR"), "ct": (512, "CT"), "small": (128, "CT")}
"""Side in pixels of 16 bits, and modality."""
_CLASSES = {"CR": "1.2.840.10008.5.1.4.1.1.1", "CT": "1.2.840.10008.5.1.4.1.1.2"}
_LONGEST_S = 3600.0


class Ports(NamedTuple):
    """Where everybody listens."""

    node: int
    health: int
    archive: int
    archive_http: int
    store: int


def write_images(folder: Path, kind: str, count: int, modalities: Sequence[str]) -> list[Path]:
    """``count`` different images of ten patients; of the first of ``modalities`` if they exclude the kind's."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import generate_uid

    side, modality = KINDS[kind]
    if modalities and modality not in modalities:
        modality = next(known for known in _CLASSES if known in modalities)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 4096, (side, side), dtype=np.uint16)
    paths = []
    folder.mkdir(parents=True)
    for number in range(count):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = _CLASSES[modality]
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.StudyInstanceUID = generate_uid(entropy_srcs=[kind, "study", str(number % 10)])
        ds.SeriesInstanceUID = generate_uid(entropy_srcs=[kind, "series", str(number % 10)])
        ds.PatientID, ds.PatientName, ds.Modality = f"LOAD-{number % 10}", f"Load^{number % 10}", modality
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20200101", "120000", "", "1"
        ds.PatientBirthDate = ds.PatientSex = ds.ReferringPhysicianName = ""
        ds.SeriesNumber, ds.InstanceNumber = 1, number + 1
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows = ds.Columns = side
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.WindowCenter, ds.WindowWidth, ds.RescaleIntercept, ds.RescaleSlope = "2048", "4096", "0", "1"
        ds.PixelData = np.roll(pixels, number).tobytes()
        paths.append(folder / f"{number:05d}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def free_ports() -> Ports:
    """Five that nobody listens at."""
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in Ports._fields]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return Ports(*(listener.getsockname()[1] for listener in listeners))


@contextlib.contextmanager
def running(command: Sequence[str], folder: Path, ready: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """A process, once it is ready; it is ended afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        until(lambda: process.poll() is not None or ready())
        if process.poll() is not None:
            raise SystemExit(f"{command[0]} ended: {(folder / 'log.txt').read_text(errors='replace')[-2000:]}")
        yield process
    finally:
        process.terminate()
        process.wait(60)


def listens(port: int) -> bool:
    """Whether somebody accepts connections at ``port``."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
        return True
    return False


def ask(port: int, path: str) -> str:
    """What a listener on loopback answers; empty where it does not."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return str(answer.read().decode())
    return ""


def until(condition: Callable[[], bool], health: int = 0) -> None:
    """Wait; raises SystemExit where an image goes into quarantine, TimeoutError after an hour."""
    end = time.monotonic() + _LONGEST_S
    while not condition():
        if health and (
            reasons := [line for line in ask(health, "/metrics").splitlines() if "quarantined_total{" in line]
        ):
            raise SystemExit(f"images went into quarantine: {reasons}")
        if time.monotonic() > end:
            raise TimeoutError("waited for an hour")
        time.sleep(0.02)


def send(paths: Sequence[Path], senders: int, port: int, title: str) -> float:
    """Send by so many processes at once; seconds until all have ended. Raises SystemExit where one failed."""
    start = time.perf_counter()
    processes = []
    for number in range(senders):
        share = paths[number::senders]
        command = ["/usr/bin/storescu", "-pdu", "131072", "-aet", "SCANNER", "-aec", title, "127.0.0.1", str(port)]
        if share:
            listed = [*command, *map(str, share)]
            processes.append(subprocess.Popen(listed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    for process in processes:
        words = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"storescu failed: {words.decode(errors='replace')[-500:]}")
    return time.perf_counter() - start


@contextlib.contextmanager
def orthanc(folder: Path, ports: Ports) -> Iterator[subprocess.Popen[bytes]]:
    """An empty Orthanc."""
    folder.mkdir(parents=True)
    settings = {
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "DicomAet": "ORTHANC",
        "DicomPort": ports.archive,
        "HttpPort": ports.archive_http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
        "DicomModalities": {"medfm": ["MEDFM", "127.0.0.1", ports.node]},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    command = [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(folder / "orthanc.json")]
    with running(
        command, folder, lambda: listens(ports.archive) and bool(ask(ports.archive_http, "/system"))
    ) as process:
        yield process


def with_node(bundle: Path, folder: Path, ports: Ports, paths: Sequence[Path], senders: int) -> dict[str, Any]:
    """Images into a node, reports into Orthanc."""
    settings = {
        "folder": str(folder / "node"),
        "receive": {
            "ae_title": "MEDFM",
            "port": ports.node,
            "senders": [{"ae_title": "SCANNER"}],
            "max_objects_per_minute": 10**6,
            "idle_s": 900,
        },
        "engine": {"bundle": str(bundle.absolute()), "threads": 1, "atypical": "flag", "unverified": True},
        "spool": {"min_free_gb": 0},
        "pacs": [{"name": "archive", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": ports.archive}],
        "operate": {"port": ports.health, "log_level": "warning"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "node.yaml").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "medfm_compress", "serve", str(folder / "node.yaml")]
    began = time.perf_counter()
    with (
        orthanc(folder / "orthanc", ports),
        running(command, folder, lambda: "ok" in ask(ports.health, "/ready")) as process,
    ):
        ready_s = time.perf_counter() - began
        start = time.perf_counter()
        with watched_memory(process.pid, ports.health) as memory:
            received_s = send(paths, senders, ports.node, "MEDFM")
            until(lambda: sent(ports.health) >= len(paths), ports.health)
        delivered_s = time.perf_counter() - start
        until(lambda: len(ask(ports.health, "/metrics")) > 0 and in_state(ports.health, "done") >= len(paths))
        forgotten_s = time.perf_counter() - start
    latencies = delivered_latencies(folder / "node")
    return {
        "peer": "node",
        "received_per_s": len(paths) / received_s,
        "delivered_per_s": len(paths) / delivered_s,
        "forgotten_s": forgotten_s,
        "latency_s": {"p50": float(np.quantile(latencies, 0.5)), "p99": float(np.quantile(latencies, 0.99))},
        "latencies": len(latencies),
        "ready_s": ready_s,
        "resident_mb": summary_of(memory),
    }


def sent(port: int) -> float:
    """Results that the archive has taken."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in ask(port, "/metrics").splitlines()
        if "deliveries_sent_total{" in line
    )


@contextlib.contextmanager
def watched_memory(process: int, health: int) -> Iterator[list[tuple[float, float]]]:
    """Results sent so far and resident MB, every second while the block runs."""
    seen = [(0.0, resident_mb(process))]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            with contextlib.suppress(OSError, StopIteration):
                seen.append((sent(health), resident_mb(process)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def summary_of(memory: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """At the start, the median of each tenth of the images, the most, and the end."""
    last = max(done for done, _ in memory) or 1.0
    tenths: list[list[float]] = [[] for _ in range(10)]
    for done, mb in memory[1:]:
        tenths[min(9, int(10 * done / last))].append(mb)
    return {
        "first": memory[0][1],
        "tenths": [round(statistics.median(values), 1) if values else None for values in tenths],
        "most": max(mb for _, mb in memory),
        "last": memory[-1][1],
    }


def in_state(port: int, state: str) -> float:
    """Images of the spool in ``state``."""
    start = f'medfm_node_instances{{state="{state}"}}'
    return sum(float(line.rpartition(" ")[2]) for line in ask(port, "/metrics").splitlines() if line.startswith(start))


def delivered_latencies(folder: Path) -> list[float]:
    """Seconds from receipt to the archive's answer, of every image, out of the audit trail."""
    received: dict[int, float] = {}
    latencies = []
    for path in sorted((folder / "audit").iterdir()):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            at = datetime.fromisoformat(entry["at"].replace("Z", "+00:00")).timestamp()
            if entry["event"] == "received":
                received[entry["instance"]] = at
            elif entry["event"] == "sent":
                latencies.append(at - received[entry["instance"]])
    return latencies


def resident_mb(process: int) -> float:
    """Memory of a process in RAM."""
    fields = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in fields if line.startswith("VmRSS:")).split()[1]) / 1024


def with_storescp(folder: Path, ports: Ports, paths: Sequence[Path], senders: int) -> dict[str, Any]:
    """Images into dcmtk's receiver."""
    command = ["/usr/bin/storescp", "--fork", "-pdu", "131072", "-od", str(folder), str(ports.store)]
    with running(command, folder, lambda: listens(ports.store)):
        seconds = send(paths, senders, ports.store, "STORESCP")
    return {"peer": "storescp", "received_per_s": len(paths) / seconds}


def with_orthanc(folder: Path, ports: Ports, paths: Sequence[Path], senders: int) -> dict[str, Any]:
    """Images into Orthanc."""
    with orthanc(folder, ports):
        seconds = send(paths, senders, ports.archive, "ORTHANC")
    return {"peer": "orthanc", "received_per_s": len(paths) / seconds}


def main() -> None:
    """Measure, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--senders", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--kind", choices=list(KINDS), nargs="+", default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="also storescp and Orthanc by themselves")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    allowed = Bundle.open(options.bundle).manifest.image_spec.dicom.modalities
    rows = []
    for kind in options.kind:
        with tempfile.TemporaryDirectory() as temporary:
            paths = write_images(Path(temporary) / "images", kind, options.images, allowed)
            for number, senders in (
                (number, senders) for number in range(options.rounds) for senders in options.senders
            ):
                folder = Path(temporary) / f"{number}-{senders}"
                results = [with_node(options.bundle, folder / "n", free_ports(), paths, senders)]
                if options.alone:
                    results.append(with_storescp(folder / "s", free_ports(), paths, senders))
                    results.append(with_orthanc(folder / "o", free_ports(), paths, senders))
                rows += [{"kind": kind, "senders": senders, "images": options.images, **result} for result in results]
                shutil.rmtree(folder)
                print(json.dumps(rows[-len(results) :]), flush=True)  # noqa: T201
    if options.out:
        machine = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
        options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
