"""What every DICOM object of a node shares: study, series and equipment modules, and writing it as a file (PS3.10)."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

from medfm_compress import __version__
from medfm_compress.runtime.node.results.assessment import MODEL_NAME, Assessment
from medfm_compress.runtime.node.results.codes import Code, shortened
from medfm_compress.runtime.node.results.uids import UUID_ROOT, make_uid
from medfm_compress.runtime.remarks import RESEARCH

if TYPE_CHECKING:
    from pydicom import Dataset

_EXPLICIT = "1.2.840.10008.1.2.1"
_IMPLEMENTATION = make_uid(UUID_ROOT, "medfm-compress", "implementation")
_CONTENT_SEQUENCE = b"\x40\x00\x30\xa7SQ\0\0"
_LONGEST = 64  # characters of a LO


def new_document(assessment: Assessment, kind: str, sop_class_uid: str, series_number: int) -> Dataset:
    """Patient, study, general series, general equipment and SOP common modules of an object of ``kind``.

    Args:
        assessment: of the image.
        kind: ``sr`` or ``sc``.
        sop_class_uid: of the object.
        series_number: of the series of all such objects of a study.
    """
    from pydicom import Dataset

    ds = Dataset()
    ds.update(assessment.study)
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, assessment.uid(kind)
    ds.SeriesInstanceUID, ds.SeriesNumber = assessment.series_uid(kind), str(series_number)
    ds.InstanceNumber = str(assessment.image.instance_number)
    ds.Manufacturer = shortened(assessment.config.manufacturer, _LONGEST)
    ds.ManufacturerModelName = MODEL_NAME
    ds.DeviceSerialNumber = shortened(assessment.config.device_serial_number, _LONGEST)
    ds.SoftwareVersions = shortened(__version__, _LONGEST)
    if assessment.institution:
        ds.InstitutionName = shortened(assessment.institution, _LONGEST)
    ds.ContentDate, ds.ContentTime = (assessment.made_at.strftime(form) for form in ("%Y%m%d", "%H%M%S"))
    return ds


def series_description(assessment: Assessment, content: str) -> str:
    """``content`` with the mark of research where it is due."""
    return f"{content}: {RESEARCH.lower()}" if assessment.is_research else content


def coded(code: Code) -> Dataset:
    """Item of a code sequence (PS3.3 8.8)."""
    from pydicom import Dataset

    item = Dataset()
    setattr(item, code.value_keyword, code.value)
    item.CodingSchemeDesignator, item.CodeMeaning = code.scheme, code.meaning
    return item


def file_bytes(ds: Dataset, content: bytes = b"") -> bytes:
    """``ds`` as a file, explicit VR little endian; equal data sets give equal bytes.

    Args:
        ds: without Content Sequence, and without attributes of a higher tag where ``content`` is given.
        content: encoded items of Content Sequence (0040,A730).
    """
    from pydicom.dataset import FileMetaDataset

    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = _EXPLICIT
    ds.file_meta.ImplementationClassUID = _IMPLEMENTATION
    ds.file_meta.ImplementationVersionName = f"MEDFM_{__version__}"[:16]
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    if content:
        file.write(_CONTENT_SEQUENCE + struct.pack("<I", len(content)) + content)
    return file.getvalue()
