"""A spool with results in it that are owed to destinations, for the tests of those who deliver."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset

from medfm_compress.runtime.node.config import SpoolConfig
from medfm_compress.runtime.node.spool.records import Arrival, ResultObject
from medfm_compress.runtime.node.spool.spool import Spool

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
CR_IMAGE = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


def open_spool(folder: Path, **settings: Any) -> Spool:
    """A spool that does not mind how full the disk is."""
    return Spool(folder / "spool", SpoolConfig(min_free_gb=0, **settings))


def structured_report(uid: str, syntax: str = EXPLICIT, sop_class: str = COMPREHENSIVE_SR, text: str = "x") -> bytes:
    """A small DICOM file of that class; of a structured report it has what a PACS indexes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Secret^Patient", "SECRET-1", "SR"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "SEPARATE"
    dataset.ContentDate, dataset.TextValue = "20200101", text
    buffer = io.BytesIO()
    dataset.save_as(buffer, implicit_vr=syntax == IMPLICIT, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()


def owe(spool: Spool, objects: Sequence[ResultObject], uid: str = "1.2.9.1") -> int:
    """Take an instance in, read it, and owe ``objects``; the instance's id."""
    with spool.incoming() as incoming:
        incoming.file.write(uid.encode())
        accepted = spool.accept(
            incoming,
            Arrival(sop_class_uid=CR_IMAGE, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT, sender="MODALITY"),
        )
    instance = spool.claim()
    assert instance is not None and instance.id == accepted.instance_id
    spool.finish(instance, objects)
    return instance.id


def reports(count: int, destination: str = "pacs", syntax: str = EXPLICIT, characters: int = 1) -> list[ResultObject]:
    """So many structured reports for one destination, of UIDs 1.2.7.0, 1.2.7.1, …"""
    return [
        ResultObject(
            kind="sr",
            sop_class_uid=COMPREHENSIVE_SR,
            sop_instance_uid=f"1.2.7.{number}",
            content=structured_report(f"1.2.7.{number}", syntax, text="x" * characters),
            destinations=(destination,),
        )
        for number in range(count)
    ]


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What ``condition`` returns as soon as it is true; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return value


def states(spool: Spool, destination: str = "pacs") -> dict[str, int]:
    """Number of deliveries by state."""
    return {state: count for state, count in spool.counts().deliveries.get(destination, {}).items() if count}
