"""Let the power fail under a DICOM node at random instants, with any of the writes lost that no fsync had made durable.

    python experiments/node_unsynced.py --images 60 --failures 2000 --out docs/results/node/unsynced.json

A node receives, reads, delivers and forgets under strace, which writes down what it does to its files. Then, for
every failure, a moment is drawn, the folder is laid out as such a failure may leave it (`unsynced_writes`), and the
spool is opened there. It fails where that is not possible, where an image that the node had promised to answer with
Success is not there or not whole, or where a result that is owed is not whole.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from medfm_compress.runtime.errors import MedfmError
from medfm_compress.runtime.node.receive import Receiver
from medfm_compress.runtime.node.spool.records import Arrival
from medfm_compress.runtime.node.spool.spool import Accepted, IncomingFile, Spool
from node_kill import SPOOL, Nobody, check_rows, deliver_all, free_port, node_config
from node_sender import Gone, Sender, cr_image
from unsynced_writes import CALLS, Recording, lay_out

_LONGEST_STRING = 1_000_000
_START_S = 60.0
_SIZES = (4, 32, 90)


def main() -> int:
    """Record, and fail; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--failures", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--leave-out", choices=("file", "folder", "commit"), help="of what is synced: must fail")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.port, arguments.leave_out)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), arguments.images, arguments.failures, arguments.seed, arguments.leave_out)
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    sys.stdout.write(text)
    return 1 if result["failed"] else 0


def run(folder: Path, images: int, failures: int, seed: int, leave_out: str | None = None) -> dict[str, Any]:
    """One recording, and what is left of it after many failures."""
    generator = random.Random(seed)  # noqa: S311 -- instants
    digests = record(folder, images, generator, ["--leave-out", leave_out] if leave_out else [])
    recording = Recording(folder / "log", folder / "node" / "spool", folder / "marks")
    failed: list[str] = []
    counts: Counter[str] = Counter()
    for number in range(failures):
        line = generator.choice(recording.operations).began + generator.randrange(3)
        promised = {mark.text: digests[mark.text] for mark in recording.marks if mark.ended < line}
        with tempfile.TemporaryDirectory(dir=folder) as left:
            counts["lost"] += lay_out(recording, line, Path(left) / "spool", generator)
            problems = problems_of(Path(left), promised)
        failed += [f"failure {number} at line {line}: {problem}" for problem in problems]
        counts["promised"] += len(promised)
    return {
        "images": images,
        "operations": len(recording.operations),
        "of_them_never_synced": sum(operation.durable is None for operation in recording.operations),
        "failures": failures,
        "operations_lost": counts["lost"],
        "images_promised_in_all": counts["promised"],
        "failed": failed,
    }


def record(folder: Path, images: int, generator: random.Random, options: list[str]) -> dict[str, str]:
    """Let a node work under strace; digests of the images that it got."""
    port = free_port()
    command = ["strace", "-f", "-xx", "-s", str(_LONGEST_STRING), "-e", f"trace={CALLS}", "-o", str(folder / "log")]
    script = [sys.executable, "-W", "ignore", __file__, "--serve", str(folder), "--port", str(port), *options]
    process = subprocess.Popen([*command, *script])
    try:
        sender = connect(port)
        digests = {}
        for number in range(images):
            uid, content = f"1.2.3.{number}", b""
            content = cr_image(uid, generator.choice(_SIZES), generator.randbytes(1))
            digests[uid] = hashlib.sha256(content).hexdigest()
            if sender.store(uid, content) != 0:
                raise SystemExit("the node refused an image; run it by hand to see why")
        sender.close()
        time.sleep(0.2)  # for some of what is read and delivered
    finally:
        end_all(process.pid)
        process.wait()
    return digests


def connect(port: int) -> Sender:
    """An association with the node, once it listens."""
    end = time.monotonic() + _START_S
    while True:
        try:
            return Sender(port)
        except Gone:
            if time.monotonic() > end:
                raise SystemExit("the node did not start; run it by hand to see why") from None
            time.sleep(0.05)


def end_all(tracer: int) -> None:
    """Kill what strace runs; it ends then."""
    children = Path(f"/proc/{tracer}/task/{tracer}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)


class PromisingSpool(Spool):
    """Writes a mark as soon as an image may be answered with success."""

    marks = -1

    def accept(self, incoming: IncomingFile, arrival: Arrival) -> Accepted:
        """As a spool does."""
        accepted = super().accept(incoming, arrival)
        os.write(self.marks, f"{arrival.sop_instance_uid}\n".encode())
        return accepted


def serve(folder: Path, port: int, leave_out: str | None) -> None:
    """Be the node, until the end."""
    spool = PromisingSpool(folder / "node" / "spool", SPOOL)
    spool.marks = os.open(folder / "marks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if leave_out == "file":
        IncomingFile.sync = lambda _: None  # type: ignore[method-assign, assignment]
    elif leave_out == "folder":
        spool._disk.sync_folder = lambda _: None  # type: ignore[method-assign, assignment]
    elif leave_out == "commit":
        spool._connection.execute("PRAGMA synchronous = NORMAL")
    Receiver(node_config(folder / "node", port), spool, Nobody(), Nobody()).start()
    deliver_all(spool, os.open(os.devnull, os.O_WRONLY))


def problems_of(folder: Path, promised: dict[str, str]) -> list[str]:
    """What is not as it should be in a spool that a failure left."""
    try:
        spool = Spool(folder / "spool", SPOOL)
    except MedfmError as exc:
        return [str(exc)] if promised else []  # a spool that was still being made has promised nothing
    try:
        return check_rows(spool, promised, None, Counter())
    finally:
        spool.close()


if __name__ == "__main__":
    sys.exit(main())
