"""A node's surroundings for tests: a bundle, a configuration, DICOM images, free ports."""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import Any

import numpy as np
import tiny_bundle

from medfm_compress.data.synthetic_dicom import SITES, Subject, dicom_bytes
from medfm_compress.runtime.images.quiet_decoders import quiet
from medfm_compress.runtime.node.config import (
    EngineConfig,
    NodeConfig,
    OperateConfig,
    PacsConfig,
    ReceiveConfig,
    RetryConfig,
    SenderConfig,
    SpoolConfig,
)
from medfm_compress.runtime.node.spool.records import Arrival

PATIENT_NAME, PATIENT_ID = "Zzyzx^Quentin", "PAT-0815-XYZ"


def image(number: int = 0, *, study: str = "", side: int = 48, change: dict[str, Any] | None = None) -> bytes:
    """A DICOM file of the imaginary patient; ``change``: keyword → value, None removes. Deterministic."""
    from pydicom import dcmread

    random = np.random.default_rng(number)
    density = random.random((side, side), np.float32)
    subject = Subject(f"{study or number}/{number}", PATIENT_ID, "F", 60, number + 1)
    dataset = dcmread(io.BytesIO(dicom_bytes(density, SITES[0], subject, 1.0)))
    if study:
        dataset.StudyInstanceUID = f"2.25.{int.from_bytes(study.encode(), 'big')}"
    dataset.PatientName = PATIENT_NAME
    file = io.BytesIO()
    with quiet():  # what a test changes may be against the standard
        for keyword, value in (change or {}).items():
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def uid_of(data: bytes) -> str:
    """SOP Instance UID of a file."""
    from pydicom import dcmread

    return str(dcmread(io.BytesIO(data), stop_before_pixels=True).SOPInstanceUID)


def free_port() -> int:
    """One that nobody listens at just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def config(folder: Path, *, pacs_port: int = 0, **changes: Any) -> NodeConfig:
    """Of a node in ``folder``, with a tiny bundle; ``changes`` are sections."""
    bundle = folder / "tiny.medfm"
    if not bundle.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tiny_bundle.bundle(bundle)
    sections: dict[str, Any] = {
        "folder": str(folder / "node"),
        "receive": ReceiveConfig(ae_title="MEDFM", port=free_port(), senders=(SenderConfig(ae_title="SCANNER"),)),
        "engine": EngineConfig(bundle=str(bundle), threads=1),
        "spool": SpoolConfig(min_free_gb=0),
        "pacs": (
            PacsConfig(
                name="archive",
                ae_title="ORTHANC",
                host="127.0.0.1",
                port=pacs_port or free_port(),
                commitment_wait_s=5,
                retry=RetryConfig(first_s=0.2, longest_s=1),
            ),
        ),
        "operate": OperateConfig(port=free_port(), stop_s=10),
    }
    return NodeConfig(**(sections | changes))


def accept(spool: Any, data: bytes, **changes: Any) -> int:
    """Put a file into the spool as a receiver would; the instance's id."""
    from pydicom import dcmread

    with quiet():
        meta = dcmread(io.BytesIO(data), specific_tags=["SOPClassUID"]).file_meta
    start = 132 + 12 + int(meta.FileMetaInformationGroupLength)
    facts = {
        "sop_class_uid": str(meta.MediaStorageSOPClassUID),
        "sop_instance_uid": str(meta.MediaStorageSOPInstanceUID),
        "transfer_syntax_uid": str(meta.TransferSyntaxUID),
        "sender": "SCANNER",
    }
    with spool.incoming() as incoming:
        incoming.write_header(data[:start])
        incoming.write(data[start:])
        return int(spool.accept(incoming, Arrival(**(facts | changes))).instance_id)
