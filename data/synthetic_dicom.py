"""Write a synthetic radiograph as a DICOM file, as one of two imaginary sites would.

North writes CR Image Storage (PS3.3 A.2), 12 bits, MONOCHROME1, explicit VR, with a rescale intercept; South writes
Digital X-Ray Image Storage - For Presentation (PS3.3 A.26), 14 bits, MONOCHROME2, implicit VR. UIDs come from the seed
(2.25, PS3.5 B.2) and dates are fixed, so equal seeds give equal bytes.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom import Dataset

_CR = "1.2.840.10008.5.1.4.1.1.1"
_DX = "1.2.840.10008.5.1.4.1.1.1.1"
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_DATE, _TIME = "20200102", "120000"


class Site(NamedTuple):
    """What tells one imaginary site's files from the other's.

    Attributes:
        name: value of Institution Name.
        sop_class: CR or DX.
        photometric: MONOCHROME1 or MONOCHROME2.
        bits: stored, of 16 allocated.
        intercept: of the rescale; the slope is 1.
        transfer_syntax: implicit or explicit VR, little endian.
        contrast: gain of the detector, relative.
        noise: of the detector.
        blur: of its software, 0 to 1.
    """

    name: str
    sop_class: str
    photometric: str
    bits: int
    intercept: int
    transfer_syntax: str
    contrast: float
    noise: float
    blur: float


SITES = (
    Site("north", _CR, "MONOCHROME1", 12, -100, _EXPLICIT, 0.85, 0.014, 0.4),
    Site("south", _DX, "MONOCHROME2", 14, 0, _IMPLICIT, 1.0, 0.010, 0.0),
)


class Subject(NamedTuple):
    """Who and which image; all of it made up.

    Attributes:
        study_key: unique in the synthetic study, e.g. ``seed/patient/image``; all UIDs come from it.
        patient: Patient ID.
        sex: F or M.
        age: in years.
        number: of the image, from 1.
    """

    study_key: str
    patient: str
    sex: str
    age: int
    number: int


def dicom_bytes(density: NDArray[np.float32], site: Site, subject: Subject, gain: float) -> bytes:
    """One DICOM file.

    Args:
        density: ``[rows, columns]``; 0 is air, larger is denser (white on a radiograph).
        site: how it is written.
        subject: whose.
        gain: of this exposure, about 1.
    """
    stored, window = _digitised(density, site, gain)
    dataset = _dataset(site, subject)
    _add_pixels(dataset, stored, site)
    dataset.WindowCenter, dataset.WindowWidth = (str(value) for value in window)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _digitised(density: NDArray[np.float32], site: Site, gain: float) -> tuple[NDArray[np.uint16], tuple[int, int]]:
    """Stored values, and the window (center, width) that shows them, in units after the rescale."""
    top = 2**site.bits - 1
    levels = np.clip((0.08 + 0.5 * gain * site.contrast * density) * top, 0, top)
    stored = np.rint(levels if site.photometric == "MONOCHROME2" else top - levels).astype(np.uint16)
    low, high = (int(value) for value in np.percentile(stored, (1, 99.5 if site.intercept == 0 else 99)))
    width = max(high - low, 64)
    return stored, (low + width // 2 + site.intercept, width)


def _dataset(site: Site, subject: Subject) -> Dataset:
    from pydicom.dataset import Dataset, FileMetaDataset

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = site.transfer_syntax
    ds.file_meta.ImplementationClassUID = _uid("medfm-compress")
    ds.file_meta.ImplementationVersionName = "MEDFM_SYNTHETIC"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = site.sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = _uid(f"{subject.study_key}/image")
    ds.StudyInstanceUID = _uid(f"{subject.study_key}/study")
    ds.SeriesInstanceUID = _uid(f"{subject.study_key}/series")
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = _DATE
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = _TIME
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"Synthetic^{subject.patient}", subject.patient, ""
    ds.PatientSex, ds.PatientAge = subject.sex, f"{subject.age:03d}Y"
    ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "1", "1", str(subject.number)
    ds.Manufacturer, ds.ManufacturerModelName = "medfm-compress", "synthetic radiograph"
    ds.InstitutionName, ds.StationName = site.name, site.name.upper()
    ds.BodyPartExamined, ds.ViewPosition, ds.PatientOrientation = "CHEST", "PA", ["L", "F"]
    ds.ImageType, ds.BurnedInAnnotation = ["DERIVED", "PRIMARY"], "NO"
    ds.DerivationDescription = "drawn by a program; shows no person"
    ds.LossyImageCompression = "00"
    if site.sop_class == _CR:
        ds.Modality = "CR"
    else:
        _add_dx(ds)
    return ds


def _add_dx(ds: Dataset) -> None:
    """What the DX modules require beyond CR (PS3.3 C.8.11.1 to C.8.11.5)."""
    ds.Modality, ds.PresentationIntentType = "DX", "FOR PRESENTATION"
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    view = _code("399348003", "SCT", "postero-anterior")
    view.ViewModifierCodeSequence = []
    ds.ViewCodeSequence = [view]
    ds.PositionerType = ""
    ds.AcquisitionContextSequence = []
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", 1
    ds.PresentationLUTShape = "IDENTITY"
    ds.DetectorType = "SCINTILLATOR"
    ds.DetectorConfiguration = "AREA"
    ds.ImagerPixelSpacing = ["2.5", "2.5"]


def _add_pixels(ds: Dataset, stored: NDArray[np.uint16], site: Site) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, site.photometric
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, site.bits, site.bits - 1, 0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(site.intercept), "1", "US"
    ds.PixelData = stored.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _uid(key: str) -> str:
    return f"2.25.{int.from_bytes(hashlib.sha256(key.encode()).digest()[:15], 'big')}"
