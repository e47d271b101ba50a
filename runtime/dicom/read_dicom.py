"""DICOM to presentation values: what is not one certain image is refused.

Only the attributes that decide about pixels are read from a file, and those that columns name (see `attributes`); name,
number and birth date of the patient are never in memory, and no message or log record holds a value of the file other
than codes and sizes.

The order is: attributes (`checks`) → the compressed frame's own header (`frame`) → decoding by pydicom's plugins
(`decoders`) → grey values (`grey`) or colour (`colour`). ICC profiles are not applied: images that networks are trained
on do not carry them.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.dicom.attributes import read_attributes
from medfm_compress.runtime.dicom.checks import Layout, check_object, code, layout_of
from medfm_compress.runtime.dicom.coded_colour import LABEL_CONTRADICTED
from medfm_compress.runtime.dicom.codes import codes_of, native_pixels
from medfm_compress.runtime.dicom.codestream import jpeg_header
from medfm_compress.runtime.dicom.colour import rgb_pixels
from medfm_compress.runtime.dicom.decoders import decode_frame, import_decoders, is_heard, plugins_for, plugins_of_frame
from medfm_compress.runtime.dicom.examination import examination
from medfm_compress.runtime.dicom.frame import check_fragments, check_process, check_rle, plain_frame
from medfm_compress.runtime.dicom.grey import MOST_TABLED_BITS, WHITE, deep_p_values, p_value_table
from medfm_compress.runtime.dicom.multi_frame import (
    MOST_FRAMES,
    Frame,
    all_encapsulated,
    chosen_frame,
    frame_bits,
    frame_count,
    numbered,
    with_attributes_of,
    with_pixels_of,
)
from medfm_compress.runtime.dicom.orientation import turn_of, turned
from medfm_compress.runtime.dicom.overlays import overlay_bits
from medfm_compress.runtime.dicom.parse import parse
from medfm_compress.runtime.dicom.rle import rle_pixels
from medfm_compress.runtime.dicom.rules import check_rules
from medfm_compress.runtime.dicom.spacing import mean_and_aspect
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.images.completeness import lacks_scans, with_noise_behind_scans, with_noise_for_end
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.images.quiet_decoders import decoding
from medfm_compress.runtime.images.size_limits import read_limited
from medfm_compress.runtime.images.tabled import Tabled

if TYPE_CHECKING:
    from pydicom import Dataset

LOSSY = "lossy-compressed"
BURNED_IN = "burned-in-annotation"
LOW_PRECISION = "precision-below-bits-stored"

_ANY = DicomRules()
_DATASET = "DICOM dataset"
# PS3.5 A.4: these always lose; plain JPEG 2000 (.91) and HTJ2K (.203) may be reversible and then say so.
_ALWAYS_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81")
_DCT = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_MAYBE_LOSSY = ("1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203")
_RLE = "1.2.840.10008.1.2.5"
_CODES_WITH_SIZE = "1.2.840.10008.1.2.4."  # JPEG, JPEG-LS, JPEG 2000 and HTJ2K
_PIXEL_KEYWORDS = (
    "SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip


def read_dicom(
    source: str | Path | bytes | Dataset, rules: DicomRules = _ANY, attributes: Collection[str] = ()
) -> Pixels:
    """Decode one DICOM image, of several frames the one that the rules name.

    Args:
        source: path of, or bytes of, a DICOM file with or without preamble, or a pydicom ``Dataset`` with its
            ``file_meta``; a data set is not changed.
        rules: which images are accepted, and how they are windowed.
        attributes: keywords of those to be read along (see `read_attributes`).

    Returns:
        Grey: uint16 P-values, 0 black and 65535 white, MONOCHROME1 inverted. Colour: RGB, uint8 or uint16. Flags:
        ``lossy-compressed``, ``burned-in-annotation``, ``no-window`` where the file should give one and does not,
        ``colour-label-contradicted`` where the compressed frame is coded in another colour than the file says,
        ``precision-below-bits-stored`` where it has fewer bits a sample than the file says, so that the image may be
        too dark, and ``second-decoder`` where the first decoder raised and a later one read the pixels.

    Raises:
        ImageRefused: not an image, not one the rules allow, several frames and no rule for them, damaged, truncated,
            too large, without a transfer syntax, or in one that no installed decoder reads.
        MissingDependency: pydicom or a decoder is missing, or installed and broken.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        return decode_dicom(read_limited(path), path.name, rules, attributes)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_dicom(bytes(source), "DICOM data", rules, attributes)
    import_decoders()
    with decoding(_DATASET, "DICOM"):
        _check_syntax(source)
        return _with_attributes(_pixels(source, rules, _DATASET), source, attributes)


def dataset_frames(source: Dataset, rules: DicomRules, attributes: Collection[str] = ()) -> Iterator[Pixels]:
    """:func:`read_dicom` for each frame of a data set in turn; ``rules`` take all of them."""
    import_decoders()
    with decoding(_DATASET, "DICOM"):
        _check_syntax(source)
    yield from _frames(source, rules, _DATASET, attributes)


def decoded_frames(data: bytes, name: str, rules: DicomRules, attributes: Collection[str] = ()) -> Iterator[Pixels]:
    """:func:`decode_dicom` for each frame of a file in turn; ``rules`` take all of them."""
    import_decoders()
    with decoding(name, "DICOM"):
        ds = parse(data, name, attributes)
    yield from _frames(ds, rules, name, attributes)


def _frames(ds: Dataset, rules: DicomRules, name: str, attributes: Collection[str]) -> Iterator[Pixels]:
    with decoding(name, "DICOM"):
        check_object(ds, name)
        count = frame_count(ds, name)
        if count > MOST_FRAMES:
            raise ImageRefused(f"{name}: {count} frames; at most {MOST_FRAMES} are answered for, give a part of them")
        is_encapsulated = count > 1 and ds.file_meta.TransferSyntaxUID.is_encapsulated
        coded = all_encapsulated(ds, count, name) if is_encapsulated else iter(())
    for number in range(1, count + 1):
        with decoding(name, "DICOM"):
            pixels = _pixels(ds, numbered(rules, number), name, next(coded, b""))
            pixels = _with_attributes(pixels, ds, attributes)
        yield pixels


def _check_syntax(ds: Dataset) -> None:
    if not getattr(ds, "file_meta", None):
        raise ImageRefused(f"{_DATASET}: no transfer syntax; set ds.file_meta.TransferSyntaxUID")


def decode_dicom(data: bytes, name: str, rules: DicomRules, attributes: Collection[str] = ()) -> Pixels:
    """:func:`read_dicom` for the bytes of a file that errors call ``name``."""
    import_decoders()
    with decoding(name, "DICOM"):
        ds = parse(data, name, attributes)
        return _with_attributes(_pixels(ds, rules, name), ds, attributes)


def _with_attributes(pixels: Pixels, ds: Dataset, keywords: Collection[str]) -> Pixels:
    return pixels._replace(attributes=read_attributes(ds, keywords)) if keywords else pixels


def _pixels(ds: Dataset, rules: DicomRules, name: str, coded: bytes = b"") -> Pixels:
    check_object(ds, name)
    frame = chosen_frame(ds, rules, name)
    ds = with_attributes_of(ds, frame, name)
    check_rules(ds, rules, name)
    turn = turn_of(ds, rules, name)
    return turned(_presented(ds, frame, rules, name, coded), turn)


def _presented(ds: Dataset, frame: Frame, rules: DicomRules, name: str, coded: bytes) -> Pixels:
    """Presentation values as they are stored, not turned."""
    layout = layout_of(ds, name)
    # The table comes before the pixels: a bad window is found without decoding anything.
    tabled = layout.is_grey and layout.bits_stored <= MOST_TABLED_BITS
    table, flags = p_value_table(ds, layout, rules, name) if tabled else (None, ())
    flags += _quality_flags(ds, name)
    ds = with_pixels_of(ds, frame, layout, name, coded)
    values, remarks = _stored(ds, layout, name)
    flags += tuple(remark for remark in remarks if remark not in flags)
    if not layout.is_grey:
        pixels = rgb_pixels(ds, layout, values, name)
        return pixels._replace(flags=flags + pixels.flags, **_context(ds))
    # What an image went through before does not matter here, only whether this frame's own code loses.
    lossy = LOSSY in remarks or str(ds.file_meta.TransferSyntaxUID) in _ALWAYS_LOSSY
    codes = codes_of(values, layout, name, overlays=overlay_bits(ds, layout), lossy=lossy)
    if table is None:
        shown, said = deep_p_values(ds, layout, rules, codes, name)
        return Pixels.from_integers(shown, said + flags)._replace(**_context(ds))
    return Pixels(Tabled(codes, table), 0.0, float(WHITE), flags, **_context(ds))


def _context(ds: Dataset) -> dict[str, Any]:
    """What statistics need to know of an image beside its pixels."""
    spacing, aspect = mean_and_aspect(ds)
    return {"spacing_mm": spacing, "aspect": aspect, "examination": examination(ds), "is_dicom": True}


def _quality_flags(ds: Dataset, name: str) -> tuple[str, ...]:
    declared, syntax = code(ds, "LossyImageCompression", name), str(ds.file_meta.TransferSyntaxUID)
    lossy = declared == "01" or syntax in _ALWAYS_LOSSY or (syntax in _MAYBE_LOSSY and declared != "00")
    burned_in = code(ds, "BurnedInAnnotation", name) == "YES"
    return (LOSSY,) * lossy + (BURNED_IN,) * burned_in


def _stored(ds: Dataset, layout: Layout, name: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Decode the one frame; colour comes out as RGB. Second comes what there is to remark.

    Raises:
        ImageRefused: no decoder, too few bytes, or an encoded size that differs from Rows and Columns.
    """
    flags: tuple[str, ...] = ()
    syntax, plugins = ds.file_meta.TransferSyntaxUID, plugins_for(ds, name)
    if not syntax.is_encapsulated:
        _check_length(ds, layout, name)
        if layout.samples == 1 and layout.bits_allocated > 1 and syntax.is_little_endian:
            return native_pixels(ds.PixelData, layout), ()
    else:
        check_fragments(ds.PixelData, name)
        if str(syntax).startswith(_CODES_WITH_SIZE):
            ds, flags = _with_plain_frame(ds, layout, name)
            plugins = plugins_of_frame(ds, _frame(ds), plugins)
        elif syntax == _RLE:
            coded = _frame(ds)
            plain = rle_pixels(coded, layout)
            if plain is not None:
                return plain, ()
            check_rle(coded, layout, name)
    values, remarks = decode_frame(ds, plugins, layout, name)
    if str(syntax) in (*_DCT, *_LOSSLESS_JPEG):
        _check_blocks(ds, values, plugins, layout, name)
    expected = (layout.rows, layout.columns, 3)[: 2 + (layout.samples == 3)]
    if values.shape != expected:
        raise ImageRefused(f"{name}: decoded to shape {values.shape} instead of {expected}; export the image again")
    native: NDArray[Any] = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    return native, flags + remarks


def _check_length(ds: Dataset, layout: Layout, name: str) -> None:
    """PS3.5 8.1.1; data for a whole further frame are no padding either."""
    expected, actual = -(-frame_bits(layout) // 8), len(ds.PixelData)
    if actual < expected:
        raise ImageRefused(f"{name}: the pixel data are truncated, {actual} of {expected} bytes; export it again")
    if layout.photometric == "YBR_FULL_422" and 3 * expected <= 2 * actual < 4 * expected:
        raise ImageRefused(
            f"{name}: labelled YBR_FULL_422, but its {actual} bytes are those of three full samples a pixel (4:4:4), "
            "YBR_FULL or RGB; correct the label"
        )
    if actual >= 2 * expected and expected > 1:
        raise ImageRefused(f"{name}: {actual} bytes of pixel data for {expected}, so more than one frame; give one")


def _with_plain_frame(ds: Dataset, layout: Layout, name: str) -> tuple[Dataset, tuple[str, ...]]:
    """A data set with the Image Pixel Module and the frame alone, checked, unwrapped and labelled as it is coded.

    Raises:
        ImageRefused: the frame is damaged, truncated, of another size than Rows and Columns, or of uncertain colour.
    """
    from pydicom import Dataset
    from pydicom.encaps import encapsulate

    coded = _frame(ds)
    check_process(coded, str(ds.file_meta.TransferSyntaxUID), name)
    frame = plain_frame(coded, layout, name)
    plain = Dataset()
    plain.file_meta = ds.file_meta
    for keyword in _PIXEL_KEYWORDS:
        if keyword in ds:
            plain[keyword] = ds[keyword]
    if layout.samples > 1:
        plain.PlanarConfiguration = 0  # the frame says how its samples lie, whatever the file says (PS3.5 8.2)
    plain.PhotometricInterpretation = frame.colour.photometric if frame.colour else layout.photometric
    plain.PixelData = encapsulate([frame.data])
    plain["PixelData"].is_undefined_length = True
    wrong_label = frame.colour is not None and frame.colour.is_label_wrong
    too_few_bits = frame.precision < layout.bits_stored and not layout.is_palette
    return plain, (LABEL_CONTRADICTED,) * wrong_label + (LOSSY,) * frame.is_lossy + (LOW_PRECISION,) * too_few_bits


def _check_blocks(ds: Dataset, values: NDArray[Any], plugins: tuple[str, ...], layout: Layout, name: str) -> None:
    """Refuse a JPEG that lacks blocks or scans before its end marker; decoders fill them in silence.

    With mid-grey in the DCT processes, so that another last pixel proves them whole. The lossless processes repeat what
    came before, and GDCM says so on standard error: where that is not heard, they are decoded twice.
    """
    frame = _frame(ds)
    header = jpeg_header(frame)
    precision = header.precision if header else layout.bits_stored
    if str(ds.file_meta.TransferSyntaxUID) in _LOSSLESS_JPEG:
        altered = frame if is_heard(plugins) else with_noise_for_end(frame)
    elif np.all(values[-1, -1] == 2 ** (precision - 1)):
        altered = with_noise_behind_scans(frame)
    else:
        altered = frame
    is_whole = altered is not None and not lacks_scans(frame)
    if altered is not None and is_whole and altered != frame:
        is_whole = _decodes_to(values, altered, ds, plugins, layout, name)
    if not is_whole:
        raise ImageRefused(f"{name}: the compressed pixel data are truncated (blocks are missing); export it again")


def _decodes_to(
    values: NDArray[Any], frame: bytes, ds: Dataset, plugins: tuple[str, ...], layout: Layout, name: str
) -> bool:
    from pydicom.encaps import encapsulate

    other = copy.copy(ds)
    other.PixelData = encapsulate([frame])
    other["PixelData"].is_undefined_length = True
    try:
        return np.array_equal(decode_frame(other, plugins, layout, name)[0], values)
    except ImageRefused:
        return False


def _frame(ds: Dataset) -> bytes:
    from pydicom.encaps import get_frame

    offsets = None
    if "ExtendedOffsetTable" in ds and "ExtendedOffsetTableLengths" in ds:
        offsets = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths)
    frame: bytes = get_frame(ds.PixelData, 0, number_of_frames=1, extended_offsets=offsets)
    return frame
