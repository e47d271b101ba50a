"""DICOM files synthesised for the tests: no patient, one frame, whatever attributes a test wants."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"


def _dataset(stored: np.ndarray, **attributes: Any) -> Any:
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian

    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = DX_FOR_PRESENTATION
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    ds.Modality, ds.PatientName = "DX", "Secret^Patient"
    ds.Rows, ds.Columns = stored.shape[:2]
    ds.SamplesPerPixel = 1 if stored.ndim == 2 else 3
    ds.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
    if stored.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * stored.dtype.itemsize
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    for keyword, value in attributes.items():
        if keyword in ("BitsStored", "PixelRepresentation"):
            setattr(ds, keyword, value)
    ds.HighBit = ds.BitsStored - 1
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


@pytest.fixture
def make_dicom():
    """``make_dicom(stored, **attributes) -> Dataset``: explicit little endian, DX for presentation."""
    return _dataset


@pytest.fixture
def dicom_bytes():
    """``dicom_bytes(ds) -> bytes`` of a DICOM file with preamble."""

    def write(ds: Any) -> bytes:
        buffer = io.BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    return write
