"""The heat map over the image, as a secondary capture (PS3.3 A.8.1): a picture that any viewer shows.

It shows the image as the network saw it (resized, cropped), or at its own size, warm where a place speaks for the
finding, and says below it what it is, for a picture travels without its report.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.heat_map import ACTIVATION, CLASS_TOKEN_ATTENTION, OCCLUSION, HeatMap, overlay
from medfm_compress.runtime.heat_map_legend import legend_lines, with_legend
from medfm_compress.runtime.node.results.assessment import Assessment
from medfm_compress.runtime.node.results.codes import Code, one_line, shortened
from medfm_compress.runtime.node.results.document import (
    coded,
    file_bytes,
    new_document,
    series_description,
)
from medfm_compress.runtime.node.results.source_study import copied_value
from medfm_compress.runtime.remarks import RESEARCH

if TYPE_CHECKING:
    from pydicom import Dataset

SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary Capture Image Storage."""
_SERIES_NUMBER = 9902
_METHODS = MappingProxyType(
    {
        OCCLUSION: "Occlusion sensitivity",
        ACTIVATION: "Class activation map",
        CLASS_TOKEN_ATTENTION: "Values of the last attention of the class token",
    }
)
_LEAST_SIDE_PX = 512
_SOURCE_PURPOSE = Code("121322", "DCM", "Source image for image processing operation")


def secondary_capture(assessment: Assessment, heat: HeatMap) -> bytes:
    """The picture as a DICOM file (PS3.10), RGB, 8 bits."""
    ds = new_document(assessment, "sc", SOP_CLASS_UID, _SERIES_NUMBER)
    ds.Modality, ds.ConversionType = "OT", "WSD"
    ds.SeriesDescription = series_description(assessment, "AI heat map")
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.PatientOrientation = ""
    laterality = copied_value(assessment.header, "Laterality")
    ds.Laterality = laterality if laterality in ("L", "R") else ""
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    ds.DerivationDescription = shortened(f"{_METHODS[heat.method]} of {heat.finding}", 1024)
    ds.SourceImageSequence = [_source_reference(assessment)]
    ds.LossyImageCompression = "01" if "lossy-compressed" in assessment.prediction.flags else "00"
    if "burned-in-annotation" in assessment.prediction.flags:
        ds.BurnedInAnnotation = "YES"
    ds.ImageComments = shortened(" ".join(assessment.remarks), 1000)
    pixels = _picture(assessment, heat)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    data = pixels.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"
    return file_bytes(ds)


def _source_reference(assessment: Assessment) -> Dataset:
    """Item of Source Image Sequence (C.7.6.1.1.4)."""
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID = assessment.image.sop_class_uid
    item.ReferencedSOPInstanceUID = assessment.image.sop_instance_uid
    if assessment.image.frame is not None:
        item.ReferencedFrameNumber = str(assessment.image.frame)
    item.PurposeOfReferenceCodeSequence = [coded(_SOURCE_PURPOSE)]
    return item


def _picture(assessment: Assessment, heat: HeatMap) -> NDArray[np.uint8]:
    """The overlay, enlarged by a whole number, and its legend below it."""
    from PIL import Image

    shown = Image.fromarray(overlay(heat))
    times = -(-_LEAST_SIDE_PX // min(shown.size))
    shown = shown.resize((shown.width * times, shown.height * times), Image.Resampling.BICUBIC)
    return with_legend(heat, _words(assessment, heat), np.asarray(shown))


def _words(assessment: Assessment, heat: HeatMap) -> list[str]:
    """Lines of ASCII, which the built-in font has; a finding's name beyond it is given by its code."""
    finding = next(item for item in assessment.findings if item.name == heat.finding)
    name = one_line(finding.name) if finding.name.isascii() else f"{finding.code.scheme} {finding.code.value}"
    research = [RESEARCH.upper()] if assessment.is_research else []
    return [*research, *legend_lines(heat, shortened(name, 40), finding.probability)]
