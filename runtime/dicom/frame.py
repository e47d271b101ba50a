"""A compressed frame of a DICOM file, made plain for the decoders: checked, out of its wrapping, of one colour."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from medfm_compress.runtime.dicom.checks import Layout
from medfm_compress.runtime.dicom.coded_colour import CodedColour, jpeg_2000_colour, jpeg_colour
from medfm_compress.runtime.dicom.codestream import (
    Extent,
    is_complete,
    jpeg_header,
    with_sequential_scan,
    without_colour_marks,
)
from medfm_compress.runtime.dicom.gdcm_process import DEEP_BITS
from medfm_compress.runtime.dicom.jpeg_2000 import coding_of, has_too_many_segments, is_jpeg_2000, unwrap
from medfm_compress.runtime.dicom.rle import HEADER_BYTES, segment_starts
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.completeness import check_scans
from medfm_compress.runtime.images.jpeg_markers import check_header

_MAX_FRAGMENTS = 100_000
_ITEM = b"\xfe\xff\x00\xe0"
_EXTENDED, _JPEG_LS = 0xC1, 0xF7
# Of the code in the frame, by transfer syntax (PS3.5 A.4): SOFn of JPEG; JPEG 2000 and HTJ2K are one family.
_PROCESSES = {
    "1.2.840.10008.1.2.4.50": (0xC0, 0xC1, 0xC2),  # progressive has lost its own, and is met here
    "1.2.840.10008.1.2.4.51": (0xC0, 0xC1, 0xC2),
    "1.2.840.10008.1.2.4.57": (0xC3,),
    "1.2.840.10008.1.2.4.70": (0xC3,),
    "1.2.840.10008.1.2.4.80": (_JPEG_LS,),
    "1.2.840.10008.1.2.4.81": (_JPEG_LS,),
}
_SIGN = {False: "unsigned", True: "signed"}


class PlainFrame(NamedTuple):
    """A frame for the decoders, and what its header says of it.

    Attributes:
        data: the frame.
        colour: that it is coded in where it has three samples.
        is_lossy: whether it was coded with loss.
        precision: bits of a sample; fewer than Bits Stored leave the image darker than the file's range says.
    """

    data: bytes
    colour: CodedColour | None
    is_lossy: bool
    precision: int


def check_fragments(pixel_data: bytes, name: str) -> None:
    """Refuse pixel data in more fragments (PS3.5 A.4) than one frame has, before each is looked at.

    Raises:
        ImageRefused: there are more than 100 000.
    """
    if pixel_data.count(_ITEM) > _MAX_FRAGMENTS:
        raise ImageRefused(f"{name}: its frame lies in more than {_MAX_FRAGMENTS} fragments; export the image again")


def check_rle(frame: bytes, layout: Layout, name: str) -> None:
    """Refuse an RLE frame (PS3.5 G) whose segments expand to far more than the image, before they do.

    Raises:
        ImageRefused: a segment has more than twice the bytes of its plane, or the header names none or too many.
    """
    starts = segment_starts(frame)
    plane = layout.rows * layout.columns
    for start, end in pairwise(starts):
        if start < HEADER_BYTES or end < start or _expanded_length(frame[start:end], 2 * plane) > 2 * plane:
            raise ImageRefused(f"{name}: its RLE segments do not fit Rows and Columns; export the image again")


def _expanded_length(segment: bytes, limit: int) -> int:
    """Bytes that the runs of a segment stand for (G.3.2); counting stops above ``limit``."""
    at = length = 0
    while at < len(segment) and length <= limit:
        control = segment[at]
        if control < 128:
            length, at = length + control + 1, at + control + 2
        else:
            length, at = length + (257 - control if control > 128 else 0), at + (2 if control > 128 else 1)
    return length


def check_process(frame: bytes, syntax: str, name: str) -> None:
    """Refuse a frame that is coded otherwise than the transfer syntax says, as where it changes within a file.

    Raises:
        ImageRefused: it is, or its header has far more segments or fill bytes than an image needs.
    """
    if not is_jpeg_2000(frame):
        check_header(frame, name, is_jpeg_ls=_JPEG_LS in _PROCESSES.get(syntax, ()))
    header = None if is_jpeg_2000(frame) else jpeg_header(frame)
    if syntax in _PROCESSES:
        fits = not is_jpeg_2000(frame) and (header is None or header.process in _PROCESSES[syntax])
    else:
        fits = header is None
    if not fits:  # what is neither is damaged, which plain_frame says
        raise ImageRefused(
            f"{name}: its frame is coded otherwise than its transfer syntax says; export the image again"
        )


def plain_frame(frame: bytes, layout: Layout, name: str) -> PlainFrame:
    """Check a JPEG, JPEG-LS or JPEG 2000 frame and take off what decoders disagree about.

    Args:
        frame: as the file holds it.
        layout: what the file's attributes say of it.
        name: what to call the file in an error.

    Raises:
        ImageRefused: damaged, truncated, of another size than Rows and Columns, or of uncertain colour.
    """
    return (_plain_jpeg_2000 if is_jpeg_2000(frame) else _plain_jpeg)(frame, layout, name)


def _plain_jpeg_2000(frame: bytes, layout: Layout, name: str) -> PlainFrame:
    wrapped = unwrap(frame)
    if wrapped is None:
        raise ImageRefused(f"{name}: the JP2 boxes around the compressed frame are damaged; export the image again")
    stream = wrapped.code_stream
    if has_too_many_segments(stream):
        raise ImageRefused(
            f"{name}: the JPEG 2000 code stream has far more marker segments than an image needs; export the image "
            "again"
        )
    coding = coding_of(stream)
    _check_whole(stream, coding and Extent(coding.height, coding.width, coding.components), layout, name)
    if coding is None:  # refused above; this tells the type checker
        raise AssertionError
    if coding.is_signed != layout.is_signed:
        # Read by the other sign, half of the range lands at its far end.
        raise ImageRefused(
            f"{name}: Pixel Representation is {int(layout.is_signed)} ({_SIGN[layout.is_signed]}), and its JPEG 2000 "
            f"code stream holds {_SIGN[coding.is_signed]} values; export the image uncompressed"
        )
    if layout.samples != 3 and wrapped.is_remapped:
        raise ImageRefused(f"{name}: its JP2 header adds a palette to its pixels; export the image uncompressed")
    colour = jpeg_2000_colour(layout.photometric, wrapped, coding, name) if layout.samples == 3 else None
    return PlainFrame(stream, colour, not coding.is_reversible, coding.precision)


def _plain_jpeg(frame: bytes, layout: Layout, name: str) -> PlainFrame:
    header = jpeg_header(frame)
    _check_whole(frame, header and header.extent, layout, name)
    if header is None:  # refused above; this tells the type checker
        raise AssertionError
    if header.process != _JPEG_LS:  # which has a scan for each component at most, or no decoder reads it
        check_scans(frame, layout.rows, layout.columns, name)
    if layout.samples != 3:
        is_deep = header.process == _EXTENDED and header.precision == DEEP_BITS
        return PlainFrame(with_sequential_scan(frame) if is_deep else frame, None, False, header.precision)
    colour = jpeg_colour(layout.photometric, header, name)
    plain = without_colour_marks(frame) if header.is_dct else frame
    return PlainFrame(plain, colour, header.is_dct, header.precision)


def _check_whole(frame: bytes, extent: Extent | None, layout: Layout, name: str) -> None:
    if not is_complete(frame):
        raise ImageRefused(f"{name}: the compressed pixel data are truncated (no end marker); export it again")
    if extent != Extent(layout.rows, layout.columns, layout.samples):
        raise ImageRefused(
            f"{name}: the compressed frame is damaged or has another size than Rows and Columns; export it again"
        )
