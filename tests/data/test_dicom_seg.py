"""DICOM Segmentations lie on the image that they refer to, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset

from medfm_compress.data.convert_masks import conversion_from, convert_masks
from medfm_compress.data.dicom_seg import segmentation_of
from medfm_compress.data.masks import label_map
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.data.synthetic import draw_study
from medfm_compress.runtime.errors import ImageRefused, StudyError

SEG = "1.2.840.10008.5.1.4.1.1.66.4"


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return draw_study(tmp_path_factory.mktemp("masked"), patients=20, seed=3, size_px=64, masks=True)


@pytest.fixture
def image(masked: Study) -> Path:
    return masked.root.parent / masked.cases[0].image


FIRST, SECOND = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
FIRST[3:20, 5:30], SECOND[40:50, 33:60] = 1, 1


def write_seg(path: Path, image: Path, frames: list[np.ndarray], **changes: Any) -> Path:
    """A binary or fractional segmentation, a frame a segment; ``changes`` are of the data set."""
    header, bits = dcmread(image), 8 if changes.get("SegmentationType") in ("FRACTIONAL", "LABELMAP") else 1
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SegmentationType = SEG, "2.25.7", "BINARY"
    ds.Rows, ds.Columns = frames[0].shape
    ds.NumberOfFrames, ds.SamplesPerPixel, ds.PhotometricInterpretation = len(frames), 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = bits
    ds.HighBit, ds.PixelRepresentation = bits - 1, 0
    ds.SegmentSequence, ds.PerFrameFunctionalGroupsSequence = [], []
    for number, label in enumerate(("Opacity", "other thing"), start=1):
        segment, group, source, derivation, identity = (Dataset() for _ in range(5))
        segment.SegmentNumber, segment.SegmentLabel = number, label
        ds.SegmentSequence.append(segment)
        source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        derivation.SourceImageSequence = [source]
        identity.ReferencedSegmentNumber = number
        group.DerivationImageSequence, group.SegmentIdentificationSequence = [derivation], [identity]
        if number <= len(frames):
            ds.PerFrameFunctionalGroupsSequence.append(group)
    stacked = np.stack(frames).reshape(-1)
    data = (np.packbits(stacked, bitorder="little") if bits == 1 else stacked.astype(np.uint8)).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"
    for name, value in changes.items():
        if callable(value):
            value(ds)
        else:
            setattr(ds, name, value)
    ds.save_as(path, enforce_file_format=True)
    return path


def test_binary_frames_are_read_by_label_or_number(tmp_path: Path, image: Path) -> None:
    seg = write_seg(tmp_path / "seg.dcm", image, [FIRST, SECOND])
    assert np.array_equal(segmentation_of(seg, image, [("opacity", ())]), FIRST)
    assert np.array_equal(segmentation_of(seg, image, [("b", (2,)), ("a", (1,))]), FIRST * 2 + SECOND)
    assert np.array_equal(segmentation_of(seg, image, [("both", (1, 2))]), FIRST + SECOND)
    with pytest.raises(ImageRefused, match="no segment for 'lesion'; it has 1 'Opacity', 2 'other thing'"):
        segmentation_of(seg, image, [("lesion", ())])


def test_fractional_and_label_map_segmentations(tmp_path: Path, image: Path) -> None:
    levels = [FIRST * 100 + SECOND * 49, SECOND * 50]
    seg = write_seg(
        tmp_path / "a.dcm", image, levels, SegmentationType="FRACTIONAL", MaximumFractionalValue=100,
        SegmentationFractionalType="PROBABILITY",
    )  # fmt: skip
    assert np.array_equal(segmentation_of(seg, image, [("a", (1,)), ("b", (2,))]), FIRST + SECOND * 2)
    seg = write_seg(tmp_path / "b.dcm", image, [FIRST + SECOND * 2], SegmentationType="LABELMAP")
    assert np.array_equal(segmentation_of(seg, image, [("b", (2,))]), SECOND)


def _of_another(ds: Dataset) -> None:
    for group in ds.PerFrameFunctionalGroupsSequence:
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "2.25.99"


def _of_nothing(ds: Dataset) -> None:
    for group in ds.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence


def _twice(ds: Dataset) -> None:
    ds.PerFrameFunctionalGroupsSequence[1].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1


def _other_spacing(ds: Dataset) -> None:
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [9.0, 9.0]
    shared.PixelMeasuresSequence = [measures]
    ds.SharedFunctionalGroupsSequence = [shared]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"_": _of_another}, "refers to another image"),
        ({"_": _of_nothing}, "does not say which image"),
        ({"_": _twice}, "in several frames"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "no segmentation"),
        ({"NumberOfFrames": 3}, "damaged"),
    ],
)
def test_what_does_not_lie_on_the_image_is_refused(
    tmp_path: Path, image: Path, change: dict[str, Any], match: str
) -> None:
    seg = write_seg(tmp_path / "seg.dcm", image, [FIRST, SECOND], **change)
    with pytest.raises(ImageRefused, match=match):
        segmentation_of(seg, image, [("opacity", (1,))])


def test_geometry_and_size_must_agree(tmp_path: Path, image: Path) -> None:
    header = dcmread(image)
    header.PixelSpacing = [0.2, 0.2]
    header.save_as(tmp_path / "spaced.dcm")
    seg = write_seg(tmp_path / "seg.dcm", image, [FIRST, SECOND], _=_other_spacing)
    with pytest.raises(ImageRefused, match="PixelSpacing differ"):
        segmentation_of(seg, tmp_path / "spaced.dcm", [("opacity", ())])
    small = write_seg(tmp_path / "small.dcm", image, [FIRST[:32], SECOND[:32]])
    with pytest.raises(ImageRefused, match="64×32 px and the image 64×64"):
        segmentation_of(small, image, [("opacity", ())])


def test_two_structures_at_one_pixel_are_refused(tmp_path: Path, image: Path) -> None:
    seg = write_seg(tmp_path / "seg.dcm", image, [FIRST, FIRST])
    with pytest.raises(ImageRefused, match="425 pixels of two structures"):
        segmentation_of(seg, image, [("a", (1,)), ("b", (2,))])
    assert np.array_equal(segmentation_of(seg, image, [("a", (1,))]), FIRST)


def test_a_table_with_segmentations_becomes_a_study_of_masks(tmp_path: Path, masked: Study) -> None:
    folder, rows = masked.root.parent, ["image,split,mask"]
    for number, case in enumerate(masked.cases[:4]):
        drawn = label_map(masked, case)
        write_seg(tmp_path / f"{number}.dcm", folder / case.image, [drawn, 1 - drawn])
        rows.append(f"{folder / case.image},{'train' if number else 'val'},{number}.dcm")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(StudyError, match="DICOM file; 'medfm-compress study masks'"):
        open_study(tmp_path, structures=("opacity",))
    convert_masks(tmp_path, conversion_from(["opacity"], (), False, 1, False), tmp_path / "out")
    opened = open_study(tmp_path / "out")
    for case, original in zip(opened.cases, masked.cases, strict=False):
        assert np.array_equal(label_map(opened, case), label_map(masked, original))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("highdicom/seg_image_cr_binary.dcm", 1),
        ("highdicom/seg_image_ct_binary.dcm", 1),
        ("highdicom/seg_image_ct_binary_fractional.dcm", 1),
        ("pydicom-data/liver_expb.dcm", 1),
        ("pydicom-data/liver_j2k.dcm", 1),
    ],
)
def test_real_segmentations(shared_data: Path, tmp_path: Path, name: str, segment: int) -> None:
    path = shared_data / "dicom" / name
    seg = dcmread(path)
    group = seg.PerFrameFunctionalGroupsSequence[0]
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    header.SOPInstanceUID = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
    header.Rows, header.Columns = seg.Rows, seg.Columns
    header.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    drawn = segmentation_of(path, tmp_path / "image.dcm", [("a", (segment,))])
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    limit = 2 * int(seg.get("MaximumFractionalValue", 1)) / 4
    assert np.array_equal(drawn, frames[0] >= limit)
    if "PlanePositionSequence" in group:
        header.ImagePositionPatient = [0, 0, 12345]
        header.save_as(tmp_path / "moved.dcm", enforce_file_format=True)
        with pytest.raises(ImageRefused, match="ImagePositionPatient differ"):
            segmentation_of(path, tmp_path / "moved.dcm", [("a", (segment,))])
    with pytest.raises(ImageRefused):
        segmentation_of(path, shared_data / "dicom" / "highdicom" / "dx_image.dcm", [("a", (segment,))])
