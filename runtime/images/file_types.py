"""What a file is, told from its first bytes.

Sources: DICOM PS3.10 7.1 (preamble and ``DICM``) and PS3.5 7.1 (data elements), PNG (RFC 2083), JPEG (ITU-T T.81),
TIFF 6.0, NIfTI-1 and NIfTI-2 headers, NRRD, MetaImage.
"""

from __future__ import annotations

import zlib
from typing import Literal

HEAD_BYTES = 4096

Kind = Literal["dicom", "raster", "other"]

RASTERS: dict[bytes, str] = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"BM": "BMP",
}

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
# Images that nothing here reads: whoever looks for images names them, and does not pass them over.
UNREAD_SUFFIXES = (".webp", ".heic", ".heif", ".gif", ".avif", ".jxl", ".jp2", ".j2k", ".svs", ".ndpi", ".mrxs")
VOLUME_SUFFIXES = {
    ".nii": "NIfTI", ".nii.gz": "NIfTI", ".mha": "MetaImage", ".mhd": "MetaImage", ".nrrd": "NRRD", ".mgz": "MGH",
    ".mgh": "MGH",
}  # fmt: skip
_VOLUME = "a {} 3-D volume, which is out of scope; give one 2-D slice of it as DICOM, PNG, JPEG, TIFF or BMP"
_PLAIN = "not a DICOM, PNG, JPEG, TIFF or BMP image"
_OTHERS: dict[bytes, str] = {
    b"NRRD": _VOLUME.format("NRRD"),
    b"ObjectType": _VOLUME.format("MetaImage"),
    b"NDims": _VOLUME.format("MetaImage"),
    b"II+\x00": "a BigTIFF file; give a plain TIFF, PNG or DICOM",
    b"MM\x00+": "a BigTIFF file; give a plain TIFF, PNG or DICOM",
    b"GIF8": "a GIF image, which may be animated and holds 256 colours; give PNG, JPEG, TIFF, BMP or DICOM",
    b"RIFF": "a RIFF file (WebP or video); give PNG, JPEG, TIFF, BMP or DICOM",
    b"\x00\x00\x00\x0cjP  ": "a JPEG 2000 file; give it as DICOM, PNG or TIFF",
    b"\xff\x4f\xff\x51": "a JPEG 2000 codestream; give it as DICOM, PNG or TIFF",
    b"\x89HDF": "an HDF5 file; give one 2-D image as DICOM, PNG, JPEG, TIFF or BMP",
    b"\x93NUMPY": "a NumPy file; load it and pass the array",
    b"PK\x03\x04": "a zip archive; unpack it and give one image",
    b"%PDF": "a PDF document; give the image itself",
}
_VALUE_REPRESENTATIONS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)


def kind_of(head: bytes) -> Kind:
    """Which decoder the first bytes call for; ``head`` should have ``HEAD_BYTES`` bytes where the file has them."""
    if head[128:132] == b"DICM" or _is_bare_dicom(head):
        return "dicom"
    return "raster" if raster_format(head) else "other"


def names_an_image(name: str) -> bool:
    """Whether a file's name claims that it is an image, of whatever kind."""
    return name.lower().endswith((*_SUFFIXES, *UNREAD_SUFFIXES, *VOLUME_SUFFIXES))


def raster_format(head: bytes) -> str | None:
    """Pillow's name of the format, or None."""
    return next((name for magic, name in RASTERS.items() if head.startswith(magic)), None)


def refusal_of(head: bytes) -> str:
    """Why a file that :func:`kind_of` calls ``other`` cannot be read, and what to give instead."""
    if not head:
        return "the file is empty; give a DICOM, PNG, JPEG, TIFF or BMP image"
    if _is_nifti(head):
        return _VOLUME.format("NIfTI")
    if head.startswith(b"\x1f\x8b"):
        return _VOLUME.format("NIfTI") if _is_nifti(_inflated(head)) else f"a gzip archive, {_PLAIN}; unpack it first"
    return next((reason for magic, reason in _OTHERS.items() if head.lstrip().startswith(magic)), _PLAIN)


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\x00", b"ni1\x00") or head[4:8] in (b"n+2\x00", b"ni2\x00")


def _inflated(head: bytes) -> bytes:
    """The first bytes inside a gzip file; bounded, so that a small file cannot fill the memory."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 1024)
    except zlib.error:
        return b""


def _is_bare_dicom(head: bytes) -> bool:
    """A data set without preamble: its first element is of group 0002 or 0008, in either encoding and byte order."""
    if len(head) < 8:
        return False
    if head[:2] in (b"\x02\x00", b"\x08\x00"):
        implicit_length = int.from_bytes(head[4:8], "little")
        return head[4:6] in _VALUE_REPRESENTATIONS or implicit_length <= 512
    return head[:2] in (b"\x00\x02", b"\x00\x08") and head[4:6] in _VALUE_REPRESENTATIONS
