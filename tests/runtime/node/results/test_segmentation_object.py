"""A DICOM Segmentation: valid, and read back by another library equal pixel for pixel."""

from __future__ import annotations

import io

import highdicom
import node_results
import numpy as np
import pydicom
import pytest
from msgspec.structs import replace

from medfm_compress.runtime.errors import Refused
from medfm_compress.runtime.node.config import CodeConfig, ResultsConfig
from medfm_compress.runtime.node.results.assessment import assess
from medfm_compress.runtime.node.results.segmentation_object import segmentation_object
from medfm_compress.runtime.segmentation.result import Segmentation

STRUCTURES = ("opacity", "effusion")


def prediction(height: int = 64, width: int = 64):
    rng = np.random.default_rng(4)
    label_map = rng.integers(0, 3, (height, width)).astype(np.uint8)
    return replace(
        node_results.PREDICTION,
        probabilities={"opacity": 0.9, "effusion": 0.7},
        findings={"opacity": True, "effusion": True},
        segmentation=Segmentation(label_map, STRUCTURES, 0.2),
    )


@pytest.mark.parametrize("site", [0, 1])
def test_dciodvfy_finds_no_error(site, complaints) -> None:
    made = node_results.made(node_results.synthetic(site), prediction())
    assert complaints(made["seg"]) == []


def sliced(**attributes):
    """One slice of a CT with its place in the patient."""
    return node_results.synthetic(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2",
        Modality="CT",
        FrameOfReferenceUID="2.25.77",
        ImagePositionPatient=["-100", "-50", "12.5"],
        ImageOrientationPatient=["1", "0", "0", "0", "1", "0"],
        PixelSpacing=["0.5", "0.75"],
        SliceThickness="3",
        **attributes,
    )


def test_an_image_with_a_place_in_the_patient_gives_it_to_the_segmentation(complaints) -> None:
    made = node_results.made(sliced(), prediction())["seg"]
    assert complaints(made) == []
    seg = pydicom.dcmread(io.BytesIO(made.content))
    assert seg.FrameOfReferenceUID == "2.25.77"
    shared, frame = seg.SharedFunctionalGroupsSequence[0], seg.PerFrameFunctionalGroupsSequence[1]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.5, 0.75]
    assert frame.PlanePositionSequence[0].ImagePositionPatient == [-100, -50, 12.5]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("size", [(64, 64), (61, 67)])
def test_highdicom_reads_every_pixel_back(size) -> None:
    header, said = node_results.synthetic(Rows=size[0], Columns=size[1]), prediction(*size)
    content = node_results.made(header, said)["seg"].content
    seg = highdicom.seg.segread(io.BytesIO(content))
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == [*STRUCTURES]
    planes = seg.get_pixels_by_source_instance(
        [header.SOPInstanceUID], combine_segments=True, ignore_spatial_locations=True
    )
    assert np.array_equal(planes[0], said.segmentation.label_map)


def test_codes_are_the_configured_ones() -> None:
    config = ResultsConfig(
        findings={"opacity": CodeConfig(value="128601007", scheme="SCT", meaning="Lung consolidation")},
        segment_categories={"effusion": CodeConfig(value="91720002", scheme="SCT", meaning="Body Substance")},
    )
    made = node_results.made(node_results.synthetic(), prediction(), config)
    first, second = pydicom.dcmread(io.BytesIO(made["seg"].content)).SegmentSequence
    assert first.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Lung consolidation"
    assert second.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Body Substance"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "effusion"
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("chest", "release 7")


def test_it_is_made_of_segmentations_alone_and_may_be_left_out() -> None:
    header = node_results.synthetic()
    assert "seg" not in node_results.made(header)
    assert "seg" not in node_results.made(header, prediction(), ResultsConfig(seg=False))
    assert node_results.made(header, prediction())["seg"] == node_results.made(header, prediction())["seg"]


@pytest.mark.parametrize(
    ("header", "size", "reason"),
    [
        ({"NumberOfFrames": "3"}, (64, 64), "several frames or a whole slide"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.6"}, (64, 64), "several frames or a whole slide"),
        ({}, (64, 32), "does not lie on its pixels"),
    ],
)
def test_what_it_cannot_lie_on_is_refused_and_the_report_is_made_all_the_same(header, size, reason) -> None:
    image, said = node_results.synthetic(**header), prediction(*size)
    assert [*node_results.made(image, said)] == ["sr", "fhir"]
    assessment = assess(image, said, node_results.READ_BY, node_results.CONFIG, node_results.ARRIVED)
    with pytest.raises(Refused, match=reason):
        segmentation_object(assessment, said.segmentation)
