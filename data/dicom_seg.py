"""A 2-D DICOM Segmentation (PS3.3 A.51, also of type LABELMAP) as a label map of the image that it refers to.

A frame belongs to an image by the image's SOP Instance UID in its Derivation Image Sequence (C.7.6.16.2.6); where no
frame has one, by the one instance that the whole object refers to (C.12.2). It must lie on the image's pixels: equal
rows and columns and, where both files say them, equal spacing, orientation and position. Fractional segments
(C.8.20.2) are drawn where the stored value is at least half of Maximum Fractional Value.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.written_forms import normal_form
from medfm_compress.runtime.dicom.checks import whole_number
from medfm_compress.runtime.dicom.numbers import numbers
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.quiet_decoders import decoding
from medfm_compress.runtime.images.size_limits import check_extent, read_limited

if TYPE_CHECKING:
    from pydicom import Dataset

_SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_OF_IMAGE = (
    *("SOPInstanceUID", "Rows", "Columns", "NumberOfFrames", "PixelSpacing", "ImageOrientationPatient"),
    "ImagePositionPatient",
)
_GEOMETRY = (
    ("PixelMeasuresSequence", "PixelSpacing", 0.01),
    ("PlaneOrientationSequence", "ImageOrientationPatient", 0.01),
    ("PlanePositionSequence", "ImagePositionPatient", 0.1),
)
_MOST_FRAMES = 100_000


def segmentation_of(path: Path, image: Path, wanted: Sequence[tuple[str, Sequence[int]]]) -> NDArray[np.uint8]:
    """The label map of one image, uint8 ``[rows, columns]``: 0 background, k the k-th of what is wanted.

    Args:
        path: of the segmentation.
        image: of the DICOM image that it segments.
        wanted: name of each structure, and its segment numbers; without numbers its label in the file counts, or the
            file's only segment stands for the only structure.

    Raises:
        ImageRefused: not such an object, of another image, not on its pixels, or two structures at one pixel.
    """
    with decoding(path.name, "DICOM"):
        from pydicom import dcmread

        seg = dcmread(io.BytesIO(read_limited(path)))
        if str(seg.get("SOPClassUID", "")) not in _SOP_CLASSES:
            raise ImageRefused(f"{path.name} is a DICOM file, but no segmentation; give a PNG mask or a DICOM SEG")
        header = dcmread(image, stop_before_pixels=True, specific_tags=list(_OF_IMAGE))
        if whole_number(header, "NumberOfFrames", image.name, default=1) > 1:
            raise ImageRefused(f"{image.name} has several frames; a mask is of one 2-D image")
        check_extent(int(seg.Rows), int(seg.Columns), path.name)
        if (seg.Rows, seg.Columns) != (header.get("Rows"), header.get("Columns")):
            raise ImageRefused(
                f"{path.name} is {seg.Columns}×{seg.Rows} px and the image {header.get('Columns')}×"
                f"{header.get('Rows')}; a segmentation must lie on the image's pixels"
            )
        structure_of = _structures(seg, wanted, path.name)
        frames = _frames_of(seg, str(header.get("SOPInstanceUID", "")), path.name)
        for number in frames:
            _check_geometry(seg, number, header, path.name)
        return _merged(seg, frames, structure_of, path.name)


def _structures(seg: Dataset, wanted: Sequence[tuple[str, Sequence[int]]], name: str) -> dict[int, int]:
    """Segment number → k of the structure."""
    labels = {int(item.SegmentNumber): str(item.get("SegmentLabel", "")) for item in seg.SegmentSequence}
    there = ", ".join(f"{number} {label!r}" for number, label in labels.items())
    found: dict[int, int] = {}
    for k, (structure, given) in enumerate(wanted, start=1):
        chosen = list(given) or [n for n, label in labels.items() if normal_form(label) == normal_form(structure)]
        if not chosen and len(wanted) == len(labels) == 1:
            chosen = list(labels)
        if not chosen or not all(number in labels for number in chosen):
            raise ImageRefused(
                f"{name} has no segment for {structure!r}; it has {there}: say which with --structure NAME=NUMBER"
            )
        found |= dict.fromkeys(chosen, k)
    return found


def _frames_of(seg: Dataset, image: str, name: str) -> list[int]:
    """Numbers, from 0, of the frames that belong to an image."""
    count = whole_number(seg, "NumberOfFrames", name, default=1)
    groups = seg.get("PerFrameFunctionalGroupsSequence") or []
    if not 1 <= count <= _MOST_FRAMES or len(groups) != count:
        raise ImageRefused(f"{name} has {count} frames and {len(groups)} functional groups; it is damaged")
    sources = [_sources(group) or _sources(_shared(seg)) for group in groups]
    if not any(sources):
        whole = {
            str(item.ReferencedSOPInstanceUID)
            for series in seg.get("ReferencedSeriesSequence") or []
            for item in series.get("ReferencedInstanceSequence") or []
        }
        sources = [whole if len(whole) == 1 else set() for _ in groups]
    if not any(sources):
        raise ImageRefused(f"{name} does not say which image it segments; no mask is made of it")
    frames = [number for number, source in enumerate(sources) if image in source]
    if not frames:
        raise ImageRefused(f"{name} refers to another image than that of its row; correct the table")
    if any(len(sources[number]) > 1 for number in frames):
        raise ImageRefused(f"{name} has a frame that was made of several images; give one of single images")
    return frames


def _sources(group: Dataset) -> set[str]:
    return {
        str(item.ReferencedSOPInstanceUID)
        for derivation in group.get("DerivationImageSequence") or []
        for item in derivation.get("SourceImageSequence") or []
    }


def _shared(seg: Dataset) -> Dataset:
    from pydicom import Dataset

    shared = seg.get("SharedFunctionalGroupsSequence")
    return shared[0] if shared else Dataset()


def _check_geometry(seg: Dataset, number: int, header: Dataset, name: str) -> None:
    """Refuse what both files say differently: spacing by more than 1%, orientation 0.01, position 0.1 mm."""
    for sequence, keyword, tolerance in _GEOMETRY:
        for group in (seg.PerFrameFunctionalGroupsSequence[number], _shared(seg)):
            items = group.get(sequence)
            said = numbers(items[0], keyword, name) if items else []
            of_image = numbers(header, keyword, "the image")
            if not said or not of_image:
                continue
            a, b = np.array(said, np.float64), np.array(of_image, np.float64)
            scale = b if keyword == "PixelSpacing" else 1.0
            if a.shape != b.shape or not (np.abs(a - b) <= tolerance * np.abs(scale)).all():
                raise ImageRefused(f"{name} does not lie on the image's pixels: their {keyword} differ; resample it")


def _merged(seg: Dataset, frames: Sequence[int], structure_of: Mapping[int, int], name: str) -> NDArray[np.uint8]:
    from pydicom.pixels import pixel_array

    merged = np.zeros((int(seg.Rows), int(seg.Columns)), np.uint8)
    seen: set[int] = set()
    is_label_map = str(seg.get("SegmentationType", "")) == "LABELMAP"
    for number in frames:
        segment = 0 if is_label_map else _segment_of(seg, number)
        if segment in seen:
            raise ImageRefused(f"{name} draws segment {segment} of the image in several frames; a mask has one")
        seen.add(segment)
        if not is_label_map and segment not in structure_of:
            continue
        values = np.asarray(pixel_array(seg, index=number, raw=True))
        for drawn, k in _drawn(seg, values, segment, structure_of, is_label_map):
            if (both := int((drawn & (merged > 0) & (merged != k)).sum())) > 0:
                raise ImageRefused(f"{name} draws {both} pixels of two structures; structures exclude each other")
            merged[drawn] = k
    return merged


def _segment_of(seg: Dataset, number: int) -> int:
    group, shared = seg.PerFrameFunctionalGroupsSequence[number], _shared(seg)
    items: Any = group.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
    return int(items[0].ReferencedSegmentNumber)


def _drawn(
    seg: Dataset, values: NDArray[Any], segment: int, structure_of: Mapping[int, int], is_label_map: bool
) -> list[tuple[NDArray[np.bool_], int]]:
    if is_label_map:
        return [(np.asarray(values == number), k) for number, k in structure_of.items()]
    if str(seg.get("SegmentationType", "")) == "FRACTIONAL":
        return [(np.asarray(2 * values.astype(np.int64) >= int(seg.MaximumFractionalValue)), structure_of[segment])]
    return [(np.asarray(values > 0), structure_of[segment])]
