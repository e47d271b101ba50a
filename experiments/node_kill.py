"""Kill a DICOM node with SIGKILL at random instants while images stream in, are read and delivered, again and again.

    python experiments/node_kill.py --rounds 500 --out docs/results/node/kill.json

In every round a fresh process opens one spool, listens, and does what a node does: it stores what two senders stream to
it over DICOM, makes an object of every image, delivers it (to a file), and forgets what is done. It is killed after a
time drawn evenly from 0 to 0.4 s after it began to listen. Then the spool is opened: a round fails where an image whose
sender had Success is not there, not whole or not another's, where an object that is done was never delivered, or where
a file is left over that no row names.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.node.config import (
    EngineConfig,
    NodeConfig,
    PacsConfig,
    ReceiveConfig,
    SenderConfig,
    SpoolConfig,
)
from medfm_compress.runtime.node.data_set_head import read_file_head
from medfm_compress.runtime.node.receive import Receiver
from medfm_compress.runtime.node.spool.records import ResultObject
from medfm_compress.runtime.node.spool.spool import Spool
from node_sender import Gone, Sender, cr_image

SPOOL = SpoolConfig(min_free_gb=0)
LONGEST_S = 0.4
SENDERS = 2
PIXELS = (8, 64, 200, 500)
"""Sides of the images, of 16 bits a pixel."""


class Nobody:
    """No audit trail and no metrics."""

    def record(self, event: str, /, **facts: Any) -> None:
        """Nothing."""

    def count(self, name: str, /, **labels: Any) -> None:
        """Nothing."""


def main() -> int:
    """Run the rounds; exit code 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), arguments.rounds, arguments.seed)
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    sys.stdout.write(text)
    return 1 if result["failures"] else 0


def run(folder: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Rounds of kill and start; what was acknowledged, and what failed."""
    generator, stream = random.Random(seed), ImageStream(seed)  # noqa: S311 -- instants
    failures: list[str] = []
    counts: Counter[str] = Counter()
    for number in range(rounds):
        port = free_port()
        process = start_node(folder, port)
        senders = [threading.Thread(target=stream.send, args=(port,)) for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        time.sleep(generator.uniform(0, LONGEST_S))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        for sender in senders:
            sender.join()
        failures += [f"round {number}: {uid} was refused" for uid in stream.refused]
        stream.refused.clear()
        failures += [f"round {number}: {problem}" for problem in check(folder, stream.acknowledged, counts)]
    return {
        "rounds": rounds,
        "failures": failures,
        "acknowledged": len(stream.acknowledged),
        "interrupted_while_sent": stream.under_way - len(stream.acknowledged),
        "stored_without_acknowledgement": counts["rows"] - len(stream.acknowledged),
        **{state: counts[state] for state in ("waiting", "read", "done", "quarantined")},
    }


class ImageStream:
    """Images of ever new UIDs, and which of them were acknowledged."""

    def __init__(self, seed: int) -> None:
        self._random, self._lock, self._number = random.Random(seed), threading.Lock(), 0  # noqa: S311 -- pixels
        self.acknowledged: dict[str, str] = {}  # SOP instance UID → digest of the data set
        self.under_way = 0
        self.refused: list[str] = []

    def send(self, port: int) -> None:
        """Send until the node is gone."""
        with suppress(Gone), Sender(port) as sender:
            while True:
                uid, content = self.next_image()
                self.under_way += 1
                if sender.store(uid, content) != 0:
                    self.refused.append(uid)
                    return
                self.acknowledged[uid] = hashlib.sha256(content).hexdigest()

    def next_image(self) -> tuple[str, bytes]:
        """A CR image that nobody has sent yet."""
        with self._lock:
            self._number += 1
            uid = f"1.2.3.{self._number}"
            return uid, cr_image(uid, self._random.choice(PIXELS), self._random.randbytes(1))


def free_port() -> int:
    """A port on loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def node_config(folder: Path, port: int) -> NodeConfig:
    """Of a node that takes images from one modality."""
    return NodeConfig(
        folder=str(folder),
        receive=ReceiveConfig(ae_title="MEDFM", senders=(SenderConfig(ae_title="MODALITY"),), port=port),
        engine=EngineConfig(bundle="none.medfm"),
        spool=SPOOL,
        pacs=(PacsConfig(name="pacs", ae_title="PACS", host="127.0.0.1", port=104),),
    )


def start_node(folder: Path, port: int) -> int:
    """A process that listens when this returns; its number."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            work(folder, port, writer)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        if pipe.read(1) != b"R":
            raise SystemExit("the node did not start; run it by hand to see why")
    return process


def work(folder: Path, port: int, writer: int) -> None:
    """Receive, read, deliver and forget until the end."""
    spool = Spool(folder / "spool", SPOOL)
    receiver = Receiver(node_config(folder, port), spool, Nobody(), Nobody())
    receiver.start()
    os.write(writer, b"R")
    os.close(writer)
    deliver_all(spool, os.open(folder / "delivered", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))


def deliver_all(spool: Spool, delivered: int) -> None:
    """Make an object of every image, write its UID to a file instead of sending it, and forget it; for ever."""
    while True:
        news = spool.news()
        instance = spool.claim()
        if instance is None:
            spool.wait(1.0, news)
            continue
        uid = instance.arrival.sop_instance_uid
        result = ResultObject(
            kind="sr", sop_class_uid="1.2.840.10008.5.1.4.1.1.88.33", sop_instance_uid=f"{uid}.1",
            content=uid.encode() * 1000, destinations=("pacs",),
        )  # fmt: skip
        spool.finish(instance, [result])
        for delivery in spool.due_deliveries("pacs", time.time(), 100):
            if delivery.path.read_bytes() != delivery.sop_instance_uid[:-2].encode() * 1000:
                os._exit(3)
            os.write(delivered, f"{delivery.sop_instance_uid[:-2]}\n".encode())
            spool.sent(delivery.id)
            spool.committed([delivery.id])
        spool.forget_done(time.time())


def check(folder: Path, acknowledged: dict[str, str], counts: Counter[str]) -> list[str]:
    """What is not as it should be after an end without warning."""
    path = folder / "delivered"
    delivered = set(path.read_text().split()) if path.exists() else set()
    spool = Spool(folder / "spool", SPOOL)
    try:
        return check_rows(spool, acknowledged, delivered, counts)
    finally:
        spool.close()


def check_rows(
    spool: Spool, acknowledged: dict[str, str], delivered: set[str] | None, counts: Counter[str]
) -> list[str]:
    """What is not as it should be; ``counts`` gets the number of images by state."""
    rows = {
        row["sop_instance_uid"]: row
        for row in spool._rows("SELECT id, sop_instance_uid, digest, state, file FROM instances")
    }
    problems = [f"{uid} is lost" for uid in acknowledged if uid not in rows]
    problems += [f"{uid} is another" for uid in acknowledged.keys() & rows if rows[uid]["digest"] != acknowledged[uid]]
    for uid, row in rows.items():
        if row["state"] == "done":
            problems += [] if delivered is None or uid in delivered else [f"{uid} was never delivered"]
        elif digest_of(spool.folder / "instances" / row["file"]) != row["digest"]:
            problems.append(f"{uid} is not whole")
    for row in spool._rows(
        "SELECT objects.sop_instance_uid, objects.file FROM objects JOIN instances ON instances.id = instance_id "
        "WHERE instances.state != 'done'"
    ):
        path = spool.folder / "objects" / row["file"]
        if not path.exists() or path.read_bytes() != row["sop_instance_uid"][:-2].encode() * 1000:
            problems.append(f"the result {row['sop_instance_uid']} is not whole")
    if list((spool.folder / "incoming").iterdir()):
        problems.append("files are left in incoming")
    if len(list((spool.folder / "instances").iterdir())) != sum(row["state"] != "done" for row in rows.values()):
        problems.append("files are left in instances")
    counts.clear()
    counts.update(row["state"] for row in rows.values())
    counts["rows"] = len(rows)
    return problems


def digest_of(path: Path) -> str:
    """SHA-256 of the data set in a DICOM file; empty where there is none."""
    try:
        content = path.read_bytes()
        return hashlib.sha256(content[read_file_head(content).data_offset :]).hexdigest()
    except (OSError, ImageRefused):
        return ""


if __name__ == "__main__":
    sys.exit(main())
