"""A label map as a DICOM Segmentation (PS3.3 A.51): one bit a pixel, a frame and a segment for every structure.

It lies on the pixels of the image that it was made of, which it refers to, frame by frame. Where the image has a
patient's geometry (PS3.3 C.7.6.2), the object has it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import Refused
from medfm_compress.runtime.images.quiet_decoders import quiet
from medfm_compress.runtime.node.results.assessment import Assessment
from medfm_compress.runtime.node.results.codes import Code, finding_code, shortened
from medfm_compress.runtime.node.results.document import coded, file_bytes, new_document, series_description

if TYPE_CHECKING:
    from pydicom import Dataset

    from medfm_compress.runtime.segmentation.result import Segmentation

SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.66.4"
"""Segmentation Storage."""
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_SERIES_NUMBER = 9903
_DERIVATION = Code("113076", "DCM", "Segmentation")
_SOURCE_PURPOSE = Code("121322", "DCM", "Source image for image processing operation")
_FAMILY = Code("123110", "DCM", "Artificial Intelligence")
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_LOSSY = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")


def segmentation_object(assessment: Assessment, segmentation: Segmentation) -> bytes:
    """The DICOM file (PS3.10); equal arguments give equal bytes.

    Raises:
        Refused: the image has several frames, is a whole slide, or is not of the label map's size.
    """
    header = assessment.header
    reason = why_none(header, segmentation.label_map)
    if reason:
        raise Refused(reason)
    ds = new_document(assessment, "seg", SOP_CLASS_UID, _SERIES_NUMBER)
    ds.Modality = "SEG"
    ds.SeriesDescription = series_description(assessment, "AI segmentation")
    ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "SEGMENTATION", "AI segmentation", ""
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.ImageComments = shortened(" ".join(assessment.remarks), 1000)
    ds.LossyImageCompression = "01" if "lossy-compressed" in assessment.prediction.flags else "00"
    if ds.LossyImageCompression == "01":
        _copy(header, ds, *_LOSSY)
    ds.SegmentationType, ds.SegmentsOverlap = "BINARY", "NO"
    ds.SegmentSequence = [
        _segment(assessment, number, name) for number, name in enumerate(segmentation.structures, start=1)
    ]
    _add_dimensions(assessment, ds, len(segmentation.structures))
    _add_geometry(header, ds)
    _add_reference(assessment, ds)
    _add_pixels(ds, segmentation)
    return file_bytes(ds)


def why_none(header: Dataset, label_map: NDArray[np.uint8]) -> str:
    """Why no object can be made that lies on the pixels of an image; empty where one can."""
    with quiet():
        frames, sop_class = header.get("NumberOfFrames"), str(header.get("SOPClassUID", ""))
        size = (header.get("Rows"), header.get("Columns"))
    if (frames is not None and int(frames) > 1) or sop_class == _WHOLE_SLIDE:
        return (
            "no DICOM Segmentation is made of an image of several frames or a whole slide; of single 2-D images it is "
            "(CR, DX, MG, US, SC, a photograph, one slice)"
        )
    if size != label_map.shape:
        return (
            f"the label map is {label_map.shape[0]} × {label_map.shape[1]} px the image says {size[0]} × {size[1]}: "
            "no DICOM Segmentation is made that does not lie on its pixels"
        )
    return ""


def _segment(assessment: Assessment, number: int, name: str) -> Dataset:
    """Item of Segment Sequence (C.8.20.4)."""
    from pydicom import Dataset

    config, read_by = assessment.config, assessment.read_by
    category = config.segment_categories.get(name)
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [coded(_FAMILY)]
    algorithm.AlgorithmName = shortened(read_by.name, 64)
    algorithm.AlgorithmVersion = shortened(assessment.algorithm_version, 64)
    algorithm.AlgorithmParameters = shortened("; ".join(assessment.parameters), 1000)
    item = Dataset()
    item.SegmentNumber, item.SegmentLabel = number, shortened(name, 64)
    item.SegmentAlgorithmType, item.SegmentAlgorithmName = "AUTOMATIC", shortened(read_by.name, 64)
    item.SegmentationAlgorithmIdentificationSequence = [algorithm]
    item.SegmentedPropertyCategoryCodeSequence = [
        coded(ABNORMAL if category is None else Code(category.value, category.scheme, category.meaning))
    ]
    item.SegmentedPropertyTypeCodeSequence = [coded(finding_code(name, config.findings.get(name)))]
    item.TrackingID = shortened(name, 64)
    item.TrackingUID = assessment.uid("segment", name)
    return item


def _add_dimensions(assessment: Assessment, ds: Dataset, count: int) -> None:
    """Frames in the order of their segments (C.7.6.17), and the functional groups of each (C.7.6.16)."""
    from pydicom import Dataset
    from pydicom.tag import Tag

    organization = Dataset()
    organization.DimensionOrganizationUID = assessment.uid("dimensions")
    index = Dataset()
    index.DimensionOrganizationUID = organization.DimensionOrganizationUID
    index.DimensionIndexPointer = Tag("ReferencedSegmentNumber")
    index.FunctionalGroupPointer = Tag("SegmentIdentificationSequence")
    index.DimensionDescriptionLabel = "Segment Number"
    ds.DimensionOrganizationSequence, ds.DimensionIndexSequence = [organization], [index]
    groups = []
    for number in range(1, count + 1):
        content, identification, frame = Dataset(), Dataset(), Dataset()
        content.DimensionIndexValues = number
        identification.ReferencedSegmentNumber = number
        frame.FrameContentSequence, frame.SegmentIdentificationSequence = [content], [identification]
        frame.DerivationImageSequence = [_derivation(assessment)]
        groups.append(frame)
    ds.PerFrameFunctionalGroupsSequence = groups


def _derivation(assessment: Assessment) -> Dataset:
    """Item of Derivation Image Sequence (C.7.6.16.2.6)."""
    from pydicom import Dataset

    source, derivation = _reference(assessment), Dataset()
    source.PurposeOfReferenceCodeSequence = [coded(_SOURCE_PURPOSE)]
    source.SpatialLocationsPreserved = "YES"
    derivation.DerivationCodeSequence, derivation.SourceImageSequence = [coded(_DERIVATION)], [source]
    return derivation


def _reference(assessment: Assessment) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID = assessment.image.sop_class_uid
    item.ReferencedSOPInstanceUID = assessment.image.sop_instance_uid
    if assessment.image.frame is not None:
        item.ReferencedFrameNumber = str(assessment.image.frame)
    return item


def _add_geometry(header: Dataset, ds: Dataset) -> None:
    """Plane and frame of reference as the image has them: all of it, or none, and then of PixelSpacing alone."""
    from pydicom import Dataset

    shared, position, orientation = Dataset(), Dataset(), Dataset()
    measures = Dataset()
    _copy(header, measures, "PixelSpacing")
    if "PixelSpacing" in measures:
        _copy(header, measures, "SliceThickness", "SpacingBetweenSlices")
        shared.PixelMeasuresSequence = [measures]
    _copy(header, position, "ImagePositionPatient")
    _copy(header, orientation, "ImageOrientationPatient")
    frame_of_reference = Dataset()
    _copy(header, frame_of_reference, "FrameOfReferenceUID")
    if all(map(len, (measures, position, orientation, frame_of_reference))):
        shared.PlaneOrientationSequence = [orientation]
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = frame_of_reference.FrameOfReferenceUID, ""
        for frame in ds.PerFrameFunctionalGroupsSequence:
            frame.PlanePositionSequence = [position]
    else:
        ds.PatientOrientation = ""  # it must be there where the plane is not (C.7.6.1.1.1)
    ds.SharedFunctionalGroupsSequence = [shared]


def _add_reference(assessment: Assessment, ds: Dataset) -> None:
    """Common Instance Reference (C.12.2)."""
    from pydicom import Dataset

    series, instance = Dataset(), Dataset()
    instance.ReferencedSOPClassUID = assessment.image.sop_class_uid
    instance.ReferencedSOPInstanceUID = assessment.image.sop_instance_uid
    series.SeriesInstanceUID, series.ReferencedInstanceSequence = assessment.image.series_uid, [instance]
    ds.ReferencedSeriesSequence = [series]


def _add_pixels(ds: Dataset, segmentation: Segmentation) -> None:
    """One bit a pixel, frame behind frame without a gap, the first pixel in the lowest bit (PS3.5 8.1.1)."""
    label_map, count = segmentation.label_map, len(segmentation.structures)
    frames = np.stack([label_map == number for number in range(1, count + 1)])
    data = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
    ds.NumberOfFrames = str(count)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = label_map.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 1, 1, 0, 0
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"


def _copy(source: Dataset, target: Dataset, *keywords: str) -> None:
    """Attributes that are there and whole."""
    with quiet():
        for keyword in keywords:
            try:
                element = source[keyword]
                values = element.value if element.VM > 1 else [element.value]
                if element.VM and all(str(value).strip() for value in values):
                    target[keyword] = element
            except Exception:  # noqa: BLE001, S112 -- absent or damaged, which is as if it were not said
                continue
