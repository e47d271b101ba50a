"""A listener on a free port with its spool, and small images to send to it."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset

from medfm_compress.runtime.node.config import (
    EngineConfig,
    NodeConfig,
    PacsConfig,
    ReceiveConfig,
    SenderConfig,
    SpoolConfig,
)
from medfm_compress.runtime.node.receive import Receiver
from medfm_compress.runtime.node.spool.spool import Spool

CR_IMAGE = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
TITLE, SENDER = "MEDFM", "MODALITY"


def free_port() -> int:
    """A port on loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Notes:
    """Audit trail and metrics that only remember."""

    def __init__(self) -> None:
        self.counts: list[tuple[str, dict[str, Any]]] = []
        self.records: list[tuple[str, dict[str, Any]]] = []

    def count(self, name: str, /, **labels: Any) -> None:
        self.counts.append((name, labels))

    def record(self, event: str, /, **facts: Any) -> None:
        self.records.append((event, facts))

    def reasons(self) -> list[str]:
        """Of what was refused."""
        return [labels["reason"] for name, labels in self.counts if name == "refused"]


def image_dataset(uid: str, size: int = 16, filling: bytes = b"\x10") -> Dataset:
    """A CR image of ``size`` × ``size`` pixels of 16 bits, by all who send it to be taken for a real one."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = EXPLICIT
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CR_IMAGE
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid
    ds.PatientName, ds.PatientID, ds.Modality = "Secret^Patient", "SECRET-1", "CR"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    ds.Rows = ds.Columns = size
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = filling * (2 * size * size)
    ds["PixelData"].VR = "OW"
    return ds


def image_file(uid: str, size: int = 16, filling: bytes = b"\x10") -> bytes:
    """The same as a DICOM file."""
    buffer = io.BytesIO()
    image_dataset(uid, size, filling).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def node_config(folder: Path, spool: dict[str, Any] | None = None, **receive: Any) -> NodeConfig:
    """A configuration whose listener has a free port on loopback."""
    receive.setdefault("senders", (SenderConfig(ae_title=SENDER),))
    receive.setdefault("port", free_port())
    return NodeConfig(
        folder=str(folder),
        receive=ReceiveConfig(ae_title=TITLE, **receive),
        engine=EngineConfig(bundle="none.medfm"),
        spool=SpoolConfig(**{"min_free_gb": 0, **(spool or {})}),
        pacs=(PacsConfig(name="pacs", ae_title="PACS", host="127.0.0.1", port=104),),
    )


@contextmanager
def receiving(
    folder: Path, spool: dict[str, Any] | None = None, commitment: Any = None, reports: Any = None, **receive: Any
) -> Iterator[tuple[Receiver, Spool, Notes]]:
    """A listener that runs inside the block."""
    config = node_config(folder, spool, **receive)
    notes = Notes()
    own_spool = Spool(folder / "spool", config.spool)
    receiver = Receiver(config, own_spool, notes, notes, commitment=commitment, reports=reports)
    receiver.start()
    try:
        yield receiver, own_spool, notes
    finally:
        receiver.stop(1.0)
        own_spool.close()


def accepted_uids(spool: Spool) -> set[str]:
    """SOP instance UIDs of all that the spool has, each with its file whole."""
    rows = spool._rows("SELECT sop_instance_uid, file, bytes FROM instances")
    assert all(spool._is_whole(row["file"], row["bytes"]) for row in rows)
    return {row["sop_instance_uid"] for row in rows}
