"""The bytes of a DICOM file to the attributes that decide about pixels, within limits.

A file of kilobytes can hold millions of elements or items, or gigabytes of zeros. So it is inflated here, up to what
the largest image needs, and what pydicom reads of it is metered.
"""

from __future__ import annotations

import io
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from medfm_compress.runtime.dicom.overlays import OVERLAY_TAGS
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.size_limits import MAX_DECODED_BYTES

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.tag import BaseTag

MAX_INFLATED_BYTES = MAX_DECODED_BYTES + 16 * 1024**2  # the largest image, and its other attributes
MAX_SMALL_READS = 500_000  # two or three to an element or item; a single-frame image has hundreds
_SMALL_READ_BYTES = 8
_MAX_VALUE_BYTES = 64 * 1024
_MAX_TABLE_BYTES = 2 * 1024**2  # sequences of lookup tables, and palettes; one table has at most 128 KiB
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_DESCRIBING_GROUPS = (0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0040)
_FIRST_PIXEL_TAG = min(_PIXEL_TAGS)
_FIRST_GROUP = 0x0008
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")  # little endian; of compressed pixels decoders want bytes
_KEYWORDS = (
    *("SOPClassUID", "Modality", "PresentationIntentType", "ViewPosition", "BodyPartExamined", "NumberOfFrames"),
    *("StudyInstanceUID", "ImageLaterality", "FrameLaterality", "Laterality"),
    *("PatientOrientation", "ImageOrientationPatient"),
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "BurnedInAnnotation"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "LossyImageCompression"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation"),
    *("PresentationLUTShape", "PresentationLUTSequence"),
    *(
        f"{kind}{colour}PaletteColorLookupTable{part}"
        for kind, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
        for colour in ("Red", "Green", "Blue")
    ),
    *("AlphaPaletteColorLookupTableData", "SegmentedAlphaPaletteColorLookupTableData"),
    *OVERLAY_TAGS,
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData"),
)


class _MeteredFile(io.BytesIO):
    """Bytes that refuse to be read in more small pieces than the elements of any image make.

    With ``views`` a value longer than any but that of the pixels is no copy: making one takes as long as parsing.
    """

    def __init__(self, data: bytes, name: str, *, views: bool = False) -> None:
        super().__init__(data)
        self._name, self._small_reads = name, 0
        self._view = memoryview(data) if views else None

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and 0 <= size <= _SMALL_READ_BYTES:
            self._small_reads += 1
            if self._small_reads > MAX_SMALL_READS:
                raise ImageRefused(f"{self._name}: more data elements than any image has; export it again")
        if self._view is not None and size is not None and size > _MAX_TABLE_BYTES:
            at = self.tell()
            part = self._view[at : at + size]
            self.seek(at + len(part))
            return part  # type: ignore[return-value]
        return super().read(size)


def parse(data: bytes, name: str, further: Collection[str] = ()) -> Dataset:
    """Read the attributes that decide about pixels.

    Args:
        data: a DICOM file, with or without preamble.
        name: what to call it in an error.
        further: keywords of others to be read.

    Returns:
        A data set with its ``file_meta``, which names a transfer syntax. Native pixels may be a view of ``data``.

    Raises:
        ImageRefused: no transfer syntax, or too many bytes, elements or values, or sequences nested too deep.
    """
    return _checked(data, name, (*_KEYWORDS, *further))


def parse_header(data: bytes, name: str) -> Dataset:
    """Like `parse`, every attribute before the pixels: for who has to say whose image it is."""
    return _checked(data, name, None)


def repeated(data: bytes, tags: Sequence[int], name: str) -> list[int]:
    """Those of ``tags`` that stand more than once in the data set (PS3.5 7.1 allows one), wherever; raises nothing.

    Readers differ in which one they believe. What follows the pixels is looked at as far as it can be read.
    """
    from pydicom.filereader import read_dataset, read_partial

    seen: Counter[int] = Counter()

    def note(tag: Any, _vr: Any, _length: int) -> bool:
        seen[int(tag)] += 1
        return bool(tag.group < _FIRST_GROUP)  # padding

    with suppress(Exception):  # of a damaged file what comes before the damage counts
        deflated_at, _ = _file_meta(data, name)
        if deflated_at is not None:
            inflated = _MeteredFile(_inflated(data[deflated_at:], name), name)
            read_dataset(
                inflated, is_implicit_VR=False, is_little_endian=True, stop_when=note, specific_tags=list(tags)
            )
        else:
            read_partial(_MeteredFile(data, name), stop_when=note, force=True, specific_tags=list(tags))
    return [tag for tag in tags if seen[tag] > 1]


def _checked(data: bytes, name: str, keywords: Sequence[Any] | None) -> Dataset:
    try:
        ds = _parsed(data, name, keywords)
    except (RecursionError, OSError) as exc:
        reason = _reason_of(exc)
        if isinstance(reason, RecursionError):
            raise ImageRefused(f"{name}: sequences are nested deeper than in any image; export it again") from None
        raise reason from None
    _check_values(ds, name, everything=keywords is not None)
    return ds


def _reason_of(exc: RecursionError | OSError) -> Exception:
    """What ended reading: pydicom calls whatever happens in the header of a sequence's item an error of the file."""
    before: BaseException | None = exc
    while before is not None and not isinstance(before, RecursionError | ImageRefused):
        before = before.__context__
    return before or exc


def _parsed(data: bytes, name: str, keywords: Sequence[Any] | None) -> Dataset:
    """The attributes of ``keywords``; all that stand before the pixels where it is None."""
    from pydicom.filereader import read_dataset, read_partial

    tags = list(_tags(tuple(keywords))) if keywords else None
    deflated_at, meta = _file_meta(data, name)
    stop = _Once(tags, name) if tags else _is_behind_attributes
    if deflated_at is not None:
        file = _MeteredFile(_inflated(data[deflated_at:], name), name)
        ds: Dataset = read_dataset(
            file, is_implicit_VR=False, is_little_endian=True, stop_when=stop, specific_tags=tags
        )
        ds.file_meta = meta
        ds.set_original_encoding(is_implicit_vr=False, is_little_endian=True)
        return ds
    views = bool(tags) and meta is not None and meta.TransferSyntaxUID in _NATIVE
    ds = read_partial(_MeteredFile(data, name, views=views), stop, force=True, specific_tags=tags)
    if "TransferSyntaxUID" not in ds.file_meta:
        _assume_transfer_syntax(ds, name)
    return ds


def _is_behind_attributes(tag: int, _vr: str | None, _length: int) -> bool:
    return tag >= _FIRST_PIXEL_TAG


class _Once:
    """Lets each element that is asked for stand once (PS3.5 7.1): readers differ in which of two they believe."""

    def __init__(self, tags: Sequence[int], name: str) -> None:
        self._left, self._asked, self._name = set(tags), frozenset(tags), name

    def __call__(self, tag: int, _vr: str | None, _length: int) -> bool:
        if tag in self._left:
            self._left.remove(tag)
        elif tag in self._asked:
            raise ImageRefused(
                f"{self._name}: attribute {tag >> 16:04x},{tag & 0xFFFF:04x} stands twice; export the image again"
            )
        return False


@lru_cache(maxsize=4)
def _tags(keywords: tuple[Any, ...]) -> tuple[BaseTag, ...]:
    """Looking a hundred keywords up takes as long as all else of a small file."""
    from pydicom.tag import Tag

    return tuple(Tag(keyword) for keyword in keywords)


def _file_meta(data: bytes, name: str) -> tuple[int | None, FileMetaDataset | None]:
    """Where deflated data begin, if they are, and the file meta information (PS3.10 7.1), if there is one."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset, read_preamble

    file = _MeteredFile(data, name)
    if read_preamble(file, force=True) is None:
        return None, None
    meta = read_dataset(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _vr, _length: tag.group != 2
    )
    if "TransferSyntaxUID" not in meta:
        raise ImageRefused(f"{name}: the DICOM file names no transfer syntax (0002,0010); export it again")
    return file.tell() if meta.TransferSyntaxUID == _DEFLATED else None, FileMetaDataset(meta)


def _inflated(deflated: bytes, name: str) -> bytes:
    """PS3.5 A.5, of at most ``MAX_INFLATED_BYTES``."""
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    inflated = inflater.decompress(deflated, MAX_INFLATED_BYTES + 1)
    if len(inflated) > MAX_INFLATED_BYTES:
        raise ImageRefused(f"{name}: inflates to more than {MAX_INFLATED_BYTES} bytes; no image needs that")
    if not inflater.eof:
        raise ImageRefused(f"{name}: its deflated data end early; export the image again")
    return inflated


def _check_values(ds: Dataset, name: str, *, everything: bool) -> None:
    """Refuse a value so long that converting it, which comes later and only where it is needed, would take seconds.

    Vendors' own attributes and colour profiles are long, and nobody asks for them: without ``everything`` they may be.
    """
    from pydicom.datadict import keyword_for_tag

    for element in ds.values():
        value = element.value
        if element.tag in _PIXEL_TAGS or not isinstance(value, (bytes, memoryview)):
            continue
        if not everything and element.tag.group not in _DESCRIBING_GROUPS:
            continue
        is_table = keyword_for_tag(element.tag).endswith(("Sequence", "Data"))
        limit = _MAX_TABLE_BYTES if is_table else _MAX_VALUE_BYTES
        if len(value) > limit:
            raise ImageRefused(
                f"{name}: attribute {element.tag} has {len(value)} bytes; at most {limit} are allowed, export it again"
            )


def _assume_transfer_syntax(ds: Dataset, name: str) -> None:
    """A data set without file meta information is uncompressed, in the encoding that it was found to have."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "PixelData" not in ds:
        raise ImageRefused(f"{name}: not a DICOM image; give a DICOM, PNG, JPEG, TIFF or BMP image")
    if ds["PixelData"].is_undefined_length:
        raise ImageRefused(f"{name}: compressed pixels without a transfer syntax (0002,0010); export it again")
    implicit, little = ds.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
