"""The one frame of a multi-frame image that the rules name, as a data set of a single frame.

Frames are counted from 1 (PS3.3 C.7.6.6). Native frames follow each other without padding, those of one bit a pixel
within a byte too (PS3.5 8.1.1); encapsulated ones are found by an offset table, or are one fragment each (PS3.5 A.4).
All that comes after sees the frame alone, so that it is checked and decoded as a single-frame image is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from medfm_compress.runtime.dicom.checks import Layout, whole_number
from medfm_compress.runtime.dicom.frame import check_fragments
from medfm_compress.runtime.dicom.functional_groups import has_groups, with_groups_of
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import DicomRules

if TYPE_CHECKING:
    from pydicom import Dataset

MOST_FRAMES = 10_000
"""That are answered for: five minutes of a film, and at some milliseconds a frame as long to answer."""

_BIG_ENDIAN = "1.2.840.10008.1.2.2"


class Frame(NamedTuple):
    """Which frame, counted from 1, and of how many."""

    number: int
    of: int


def chosen_frame(ds: Dataset, rules: DicomRules, name: str) -> Frame:
    """The frame that the rules name.

    Raises:
        ImageRefused: there are several and no rule, there is none of that number, or the object is an enhanced one and
            there is no rule.
    """
    if rules.frame is not msgspec.UNSET:
        return _named_frame(frame_count(ds, name), rules, name)
    frames = whole_number(ds, "NumberOfFrames", name, default=1)
    if frames != 1:
        raise ImageRefused(
            f"{name}: {frames} frames, a multi-frame object or 3-D volume, out of scope; give one frame, or a model "
            "with a frame rule"
        )
    if has_groups(ds):
        raise ImageRefused(
            f"{name}: an enhanced multi-frame object, out of scope; give a classic single-frame image, or a model with "
            "a frame rule"
        )
    return Frame(1, 1)


def _named_frame(frames: int, rules: DicomRules, name: str) -> Frame:
    if rules.frame == "all" and frames > 1:
        raise ImageRefused(
            f"{name}: {frames} frames, and one image is needed here; this network answers for all of them when it "
            "predicts"
        )
    number = {"first": 1, "all": 1, "middle": (frames + 1) // 2}.get(str(rules.frame), rules.frame_number or 1)
    if number > frames:
        raise ImageRefused(f"{name}: has {frames} frames, and this network was made for frame {number}")
    return Frame(number, frames)


def frame_count(ds: Dataset, name: str) -> int:
    """Number of Frames, 1 where it is absent.

    Raises:
        ImageRefused: it is no number, or below 1.
    """
    frames = whole_number(ds, "NumberOfFrames", name, default=1)
    if frames < 1:
        raise ImageRefused(f"{name}: its Number of Frames is {frames}; export it again")
    return frames


def numbered(rules: DicomRules, number: int) -> DicomRules:
    """``rules`` for one frame of those that they all take."""
    return msgspec.structs.replace(rules, frame="numbered", frame_number=number, frame_aggregation=msgspec.UNSET)


def with_attributes_of(ds: Dataset, frame: Frame, name: str) -> Dataset:
    """``ds`` with the attributes that its functional groups give the frame; itself where it has none."""
    return with_groups_of(ds, frame.number, frame.of, name) if has_groups(ds) else ds


def with_pixels_of(ds: Dataset, frame: Frame, layout: Layout, name: str, alone: bytes = b"") -> Dataset:
    """``ds`` with the pixels of the frame alone; itself where it is the only one.

    Args:
        ds: of all frames.
        frame: which.
        layout: of each.
        name: what to call the file in an error.
        alone: its pixel data where it was already found, see `all_encapsulated`.

    Raises:
        ImageRefused: the pixel data are not those of so many frames, or it is not certain where the frame lies.
    """
    if frame.of == 1:
        return ds
    from pydicom import DataElement, Dataset

    single = Dataset()
    single.update(ds)
    single.file_meta = ds.file_meta
    for keyword in ("NumberOfFrames", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in single:
            del single[keyword]
    is_encapsulated = ds.file_meta.TransferSyntaxUID.is_encapsulated
    pixels = alone or (_encapsulated(ds, frame, name) if is_encapsulated else _native(ds, frame, layout, name))
    # A new element: the data sets share the others.
    single["PixelData"] = DataElement(ds["PixelData"].tag, ds["PixelData"].VR, pixels)
    single["PixelData"].is_undefined_length = is_encapsulated
    return single


def _native(ds: Dataset, frame: Frame, layout: Layout, name: str) -> bytes:
    bits = frame_bits(layout)
    actual, expected = len(ds.PixelData), -(-frame.of * bits // 8)
    if actual < expected:
        raise ImageRefused(f"{name}: the pixel data are truncated, {actual} of {expected} bytes; export it again")
    if 8 * actual >= (frame.of + 1) * bits and bits > 16:
        raise ImageRefused(f"{name}: {actual} bytes of pixel data for {expected}, so more than {frame.of} frames")
    if bits % 8:  # one bit a pixel, the first in the lowest (PS3.5 8.1.1)
        start = (frame.number - 1) * bits
        around = np.frombuffer(ds.PixelData[start // 8 : -(-(start + bits) // 8)], np.uint8)
        own = np.unpackbits(around, bitorder="little")[start % 8 : start % 8 + bits]
        return np.packbits(own, bitorder="little").tobytes()
    if ds.file_meta.TransferSyntaxUID == _BIG_ENDIAN and layout.bits_allocated == 8 and bits % 16:
        # Bytes are swapped within words there (PS3.5 A.3 and annex D), and here a word belongs to two frames.
        raise ImageRefused(f"{name}: big-endian frames of an odd number of bytes; export it in little endian")
    data: bytes = ds.PixelData
    return data[(frame.number - 1) * bits // 8 : frame.number * bits // 8]


def frame_bits(layout: Layout) -> int:
    """Bits of a native frame; YBR_FULL_422 has two luma to one pair of chroma (PS3.3 C.7.6.3.1.2)."""
    samples = 2 if layout.photometric == "YBR_FULL_422" else layout.samples
    return layout.rows * layout.columns * samples * layout.bits_allocated


def _encapsulated(ds: Dataset, frame: Frame, name: str) -> bytes:
    from pydicom.encaps import encapsulate, get_frame

    extended = _checked_offsets(ds, frame.of, name)
    alone = get_frame(ds.PixelData, frame.number - 1, number_of_frames=frame.of, extended_offsets=extended)
    encapsulated: bytes = encapsulate([alone])
    return encapsulated


def all_encapsulated(ds: Dataset, count: int, name: str) -> Iterator[bytes]:
    """Pixel data of each frame alone, in one pass: to look each up by itself takes the square of their number.

    Raises:
        ImageRefused: it is not certain where frames lie.
    """
    from pydicom.encaps import encapsulate, generate_frames

    extended = _checked_offsets(ds, count, name)
    for alone in generate_frames(ds.PixelData, number_of_frames=count, extended_offsets=extended):
        yield encapsulate([alone])


def _checked_offsets(ds: Dataset, count: int, name: str) -> tuple[bytes, bytes] | None:
    """The extended offset table, if there is one; there are as many frames as Number of Frames says."""
    from pydicom.encaps import parse_basic_offsets, parse_fragments

    check_fragments(ds.PixelData, name)
    if "ExtendedOffsetTable" in ds and "ExtendedOffsetTableLengths" in ds:
        extended = ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths
        found = len(ds.ExtendedOffsetTable) // 8
    else:
        data, extended = io.BytesIO(ds.PixelData), None
        offsets = parse_basic_offsets(data)
        found = len(offsets) if offsets else parse_fragments(data)[0]
        if offsets != sorted(set(offsets)):
            raise ImageRefused(f"{name}: its offset table names no order of frames; export it again")
    if found != count:
        raise ImageRefused(f"{name}: its pixel data name {found} frames, its Number of Frames is {count}")
    return extended
