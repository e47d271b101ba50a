"""How fast the node receives beside dcmtk's storescp: the same files from one storescu, in turns, a fresh process each.

    python experiments/node_receive_speed.py --out docs/results/node/receive-speed.json

The node syncs every image before it answers; storescp does not. With ``+B`` it writes data sets as they come, as the
node does, instead of parsing them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from medfm_compress.runtime.node.data_set_head import file_header
from medfm_compress.runtime.node.receive import Receiver
from medfm_compress.runtime.node.spool.spool import Spool
from node_kill import SPOOL, Nobody, free_port, node_config
from node_sender import CR_IMAGE, Gone, Sender, cr_image

_EXPLICIT = "1.2.840.10008.1.2.1"


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--side", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.port)
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), arguments.images, arguments.side, arguments.repeats)
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    sys.stdout.write(text)
    return 0


def run(folder: Path, images: int, side: int, repeats: int) -> dict[str, Any]:
    """Seconds of every transfer."""
    files = [folder / f"{number}.dcm" for number in range(images)]
    for number, path in enumerate(files):
        uid = f"1.2.3.{number}"
        path.write_bytes(file_header(CR_IMAGE, uid, _EXPLICIT) + cr_image(uid, side, bytes([number])))
    peer = ["/usr/bin/storescp", "-pdu", "131072", "-aet", "MEDFM", "-od"]
    commands: dict[str, Callable[[Path, int], list[str]]] = {
        "node": lambda place, port: [sys.executable, __file__, "--serve", str(place), "--port", str(port)],
        "storescp": lambda place, port: [*peer, str(place), str(port)],
        "storescp +B": lambda place, port: [*peer, str(place), "+B", str(port)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            seconds[name].append(transfer(command, folder / "received", files))
    size = sum(path.stat().st_size for path in files)
    return {
        "images": images,
        "bytes": size,
        "seconds": {name: [round(value, 2) for value in values] for name, values in seconds.items()},
        "mb_per_s": {name: round(size / 1e6 / statistics.median(values), 1) for name, values in seconds.items()},
    }


def transfer(command: Callable[[Path, int], list[str]], place: Path, files: list[Path]) -> float:
    """Seconds that storescu takes to send the files to a receiver of its own."""
    place.mkdir()
    port = free_port()
    process = subprocess.Popen(command(place, port))
    try:
        wait_for(port)
        sender = ["/usr/bin/storescu", "-pdu", "131072", "-aet", "MODALITY", "-aec", "MEDFM", "127.0.0.1", str(port)]
        start = time.perf_counter()
        subprocess.run([*sender, *map(str, files)], check=True)
        return time.perf_counter() - start
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        shutil.rmtree(place)
        os.sync()


def wait_for(port: int) -> None:
    """Return once somebody listens there."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            Sender(port).close()
            return
        except Gone:
            time.sleep(0.05)
    raise SystemExit("the receiver did not start")


def serve(folder: Path, port: int) -> None:
    """Receive until the end."""
    config = node_config(folder, port)
    Receiver(config, Spool(folder / "spool", SPOOL), Nobody(), Nobody()).start()
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
