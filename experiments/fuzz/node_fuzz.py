"""Damaged DICOM files through the node's ways in and its reader, in this process: nothing acknowledged may be lost.

    python experiments/fuzz/node_fuzz.py OUT --mutants 20000 --seconds 55

Mutants with odd numbers come as files (`take`), the others as data sets of C-STORE (`Storing`); a tenth keep the SOP
Instance UID of their seed, so that they meet others of the same. After every `CHUNK` the spool must hold every
acknowledged image as read or in quarantine, for a reason other than an error of the node, and nothing else: no image
that waits, no file that came in halfway. What breaks that stands in OUT/findings with the mutant's number. What is
counted stands in OUT/counts.json; run again, it goes on where it was. MEDFM_SHARED as for `fuzz.py`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from kinds import KINDS, Place, prepare
from medfm_compress.runtime.errors import MedfmError
from medfm_compress.runtime.images.quiet_decoders import quiet
from medfm_compress.runtime.node.audit import Audit
from medfm_compress.runtime.node.config import (
    EngineConfig,
    NodeConfig,
    PacsConfig,
    ReceiveConfig,
    SenderConfig,
    SpoolConfig,
)
from medfm_compress.runtime.node.data_set_head import read_file_head
from medfm_compress.runtime.node.identifiers import Marks
from medfm_compress.runtime.node.log import set_up_log
from medfm_compress.runtime.node.metrics import Metrics
from medfm_compress.runtime.node.progress import Progress
from medfm_compress.runtime.node.read_instances import Reader
from medfm_compress.runtime.node.spool.records import Arrival
from medfm_compress.runtime.node.spool.spool import Spool, SpoolFull
from medfm_compress.runtime.node.storing import Storing, TooLarge
from medfm_compress.runtime.node.take_file import Intake, take

CHUNK = 250
_PIECE = 8192
_SEEDS_UID = "1.2.826.0.1.3680043.10.1.99999999"
_ENDS = frozenset(
    (
        *("read", "done", "image-refused", "header-unreadable", "uid-mismatch", "no-study", "no-patient-id"),
        *("other-patient", "character-set", "same-uid", "missing-decoder", "identity-twice"),
    )
)
_ARBITRARY_CR = "1.2.840.10008.5.1.4.1.1.1"


def seeds(place: Place) -> list[tuple[str, bytes]]:
    """Those of `fuzz.py`, with a patient and a study, so that they get as far as the engine."""
    made = []
    for name, data in KINDS["dicom"].seeds(place):
        with suppress(ValueError):  # one of a transfer syntax that cannot be written
            made.append((name, _with_patient(data)))
    return made


def _with_patient(data: bytes) -> bytes:
    from pydicom import dcmread

    with quiet():
        dataset = dcmread(io.BytesIO(data), force=True)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = _SEEDS_UID
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = _ARBITRARY_CR
        dataset.PatientID, dataset.PatientName = "PAT-0815", "Zzyzx^Quentin"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.4.5", "1.2.3.4.5.6"
        if dataset.get("Modality") is None:
            dataset.Modality = "CR"
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


class Scene:
    """A node without its network: spool, reader, audit trail."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.config = NodeConfig(
            folder=str(folder),
            receive=ReceiveConfig(ae_title="MEDFM", senders=(SenderConfig(ae_title="CT"),), max_object_mb=64),
            engine=EngineConfig(bundle=str(bundle), threads=1),
            spool=SpoolConfig(min_free_gb=0),
            pacs=(PacsConfig(name="archive", ae_title="PACS", host="127.0.0.1", port=4242),),
        )
        self.spool = Spool(folder / "spool", self.config.spool)
        self.audit = Audit(folder, Marks(b"k" * 32))
        self.reader = Reader(self.config, self.spool, audit=self.audit, metrics=Metrics(), progress=Progress())

    def give(self, number: int, data: bytes) -> tuple[str, int]:
        """How the mutant was answered, and its number in the spool."""
        pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)]
        if number % 2:
            try:
                return "acknowledged", take(pieces, Intake(self.spool, "watch", 5, 64 * 10**6)).instance_id
            except (MedfmError, SpoolFull) as exc:
                return getattr(exc, "code", type(exc).__name__), 0
        return self._store(data)

    def _store(self, data: bytes) -> tuple[str, int]:
        try:
            syntax, offset = read_file_head(data)
        except MedfmError:  # the sender negotiates something, whatever the file says
            syntax, offset = "1.2.840.10008.1.2.1", min(len(data), 300)
        uid = data[data.find(b"1.2.826") :][: len(_SEEDS_UID)].decode("latin-1")
        arrival = Arrival(
            sop_class_uid=_ARBITRARY_CR, sop_instance_uid=uid, transfer_syntax_uid=syntax, sender="CT", priority=5
        )
        storing = Storing(self.spool, self.config.receive, arrival)
        try:
            for at in range(offset, len(data), _PIECE):
                storing.write(data[at : at + _PIECE])
        except TooLarge:
            return "too-large", 0
        answer = storing.finish()
        return answer.reason or "acknowledged", answer.instance_id

    def read_all(self) -> None:
        """Until nothing waits."""
        while (claimed := self.spool.claim()) is not None:
            self.reader.read(claimed)

    def close(self) -> None:
        """Give everything back."""
        self.reader.stop(5)
        self.spool.close()
        self.audit.close()


def mutant(number: int, seed: int, files: list[tuple[str, bytes]]) -> bytes:
    """The same bytes for the same numbers and seed files."""
    choose = random.Random(f"{seed}:node:{number}")  # noqa: S311 - not for secrets
    data = choose.choice(files)[1]
    if number % 10:
        data = data.replace(_SEEDS_UID.encode(), f"{_SEEDS_UID[:-8]}{10_000_000 + number}".encode())
    return KINDS["dicom"].damage(data, choose)


def run_chunk(
    numbers: range, seed: int, files: list[tuple[str, bytes]], bundle: Path
) -> tuple[Counter[str], list[Any]]:
    """What became of these mutants, and what should not have."""
    counts: Counter[str] = Counter()
    findings: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="node-fuzz-") as folder:
        scene = Scene(Path(folder), bundle)
        given: dict[int, int] = {}
        for number in numbers:
            try:
                answer, instance = scene.give(number, mutant(number, seed, files))
            except Exception as exc:  # noqa: BLE001 - exactly that is looked for
                findings.append([number, f"the way in raised {type(exc).__name__}: {exc}"])
                continue
            counts[f"answer {answer}"] += 1
            if answer == "acknowledged":
                given[instance] = number
        if list((Path(folder) / "spool" / "incoming").iterdir()):
            findings.append([numbers.start, "files are left in incoming"])
        scene.read_all()
        for instance, number in given.items():
            found = scene.spool.instance(instance)
            state = "lost" if found is None else found.reason_code or found.state
            counts[f"became {state}"] += 1
            if found is None or state not in _ENDS:
                findings.append([number, state, "" if found is None else found.reason])
        counts["distinct acknowledged"] += len(given)
        scene.close()
    return counts, findings


def main() -> None:
    """Run some chunks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    shared = Path(os.environ["MEDFM_SHARED"]) / "data" if "MEDFM_SHARED" in os.environ else None
    place = Place(options.out / "work", shared)
    prepare(place)
    set_up_log("text", "error", Marks(b"k" * 32))
    files = seeds(place)
    record = options.out / "counts.json"
    done: dict[str, Any] = (
        json.loads(record.read_text()) if record.is_file() else {"next": 0, "counts": {}, "findings": []}
    )
    until = time.monotonic() + options.seconds
    while done["next"] < options.mutants and time.monotonic() < until:
        numbers = range(done["next"], min(done["next"] + CHUNK, options.mutants))
        counts, findings = run_chunk(numbers, options.seed, files, place.work / "model.medfm")
        done = {
            "next": numbers.stop,
            "counts": dict(sorted((Counter(done["counts"]) + counts).items())),
            "findings": [*done["findings"], *findings],
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
        record.write_text(json.dumps(done, indent=1) + "\n")
    sys.stdout.write(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
