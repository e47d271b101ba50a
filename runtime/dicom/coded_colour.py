"""In which colour a compressed frame is coded: what its stream says, held against what the DICOM file says.

Photometric Interpretation describes the frame as it is coded (PS3.5 8.2), but transcoders change the one and forget
the other, and then colours are converted twice or never. The stream is nearer to the pixels, so it is believed, with
a flag; where it contradicts itself the image is refused. Sources: PS3.5 8.2.1 (JPEG) and 8.2.4 (JPEG 2000), T.800 A.6.1
(multiple component transformation), T.871 (JFIF), T.872 6.5.3 (Adobe's APP14).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from medfm_compress.runtime.dicom.codestream import JpegHeader
from medfm_compress.runtime.dicom.jpeg_2000 import Coding, Colour, Wrapped
from medfm_compress.runtime.errors import ImageRefused

LABEL_CONTRADICTED = "colour-label-contradicted"

Coded = Literal["RGB", "YBR_FULL", "YBR_RCT", "YBR_ICT"]
_YBR = ("YBR_FULL", "YBR_FULL_422")
_TRANSFORMED = ("YBR_RCT", "YBR_ICT")
_RGB_IDS = (b"RGB", b"rgb")
_REMEDY = "export the image uncompressed"


class CodedColour(NamedTuple):
    """How the frame is coded, as a photometric interpretation, and whether the file's own is wrong."""

    photometric: Coded
    is_label_wrong: bool = False


def jpeg_2000_colour(label: str, wrapped: Wrapped, coding: Coding, name: str) -> CodedColour:
    """Colour of a JPEG 2000 frame of three components.

    Decoders undo the multiple component transformation, which always starts from RGB; without it they return the
    components as they are.

    Args:
        label: Photometric Interpretation of the file.
        wrapped: what JP2 boxes say, if any.
        coding: what the code stream says.
        name: what to call the file in an error.

    Raises:
        ImageRefused: the channels are remapped or subsampled, or label, boxes and stream leave no one reading.
    """
    if wrapped.is_remapped:
        raise ImageRefused(f"{name}: its JP2 header reorders the channels or adds a palette; {_REMEDY}")
    if coding.is_subsampled:
        raise ImageRefused(f"{name}: a JPEG 2000 frame with subsampled components has no one decoding; {_REMEDY}")
    if wrapped.colour in ("grey", "other"):
        raise ImageRefused(f"{name}: its JP2 header names a colour space other than RGB and YCbCr; {_REMEDY}")
    if coding.has_colour_transform:
        if wrapped.colour == "YBR":
            raise ImageRefused(
                f"{name}: its JP2 header says YCbCr and its code stream says a transform from RGB; {_REMEDY}"
            )
        return CodedColour("YBR_RCT" if coding.is_reversible else "YBR_ICT", label in _YBR)
    if label in _TRANSFORMED:
        raise ImageRefused(
            f"{name}: labelled {label}, which its code stream contradicts (no colour transform); {_REMEDY}"
        )
    return _agreed(label, {wrapped.colour} if wrapped.colour else set(), name)


def jpeg_colour(label: str, header: JpegHeader, name: str) -> CodedColour:
    """Colour of a JPEG or JPEG-LS frame of three components.

    Args:
        label: Photometric Interpretation of the file.
        header: what the stream says.
        name: what to call the file in an error.

    Raises:
        ImageRefused: the stream contradicts itself, or contradicts the label in a process whose decoders follow
            neither for certain, or the label is one of JPEG 2000.
    """
    coded = _agreed(label, jpeg_evidence(header), name)
    if coded.is_label_wrong and not header.is_dct:
        raise ImageRefused(f"{name}: labelled {label}, which its JPEG header contradicts; {_REMEDY}")
    return coded


def jpeg_evidence(header: JpegHeader) -> set[Colour]:
    """What each mark in the header says of the coded colour; empty where there is none."""
    marks: set[Colour] = set()
    if header.adobe_transform is not None:
        transforms: dict[int, Colour] = {0: "RGB", 1: "YBR"}
        marks.add(transforms.get(header.adobe_transform, "other"))
    if header.is_jfif or header.is_chroma_subsampled:
        marks.add("YBR")
    if header.component_ids in _RGB_IDS:
        marks.add("RGB")
    return marks


def _agreed(label: str, marks: set[Colour], name: str) -> CodedColour:
    """The one colour that the marks agree on; the label's where there are none."""
    if len(marks) > 1 or not marks <= {"RGB", "YBR"}:
        raise ImageRefused(f"{name}: its compressed frame contradicts itself about RGB or YCbCr; {_REMEDY}")
    if not marks and label in _TRANSFORMED:
        raise ImageRefused(f"{name}: labelled {label}, which only JPEG 2000 can be; {_REMEDY}")
    said = marks.pop() if marks else ("RGB" if label == "RGB" else "YBR")
    if said == "RGB":
        return CodedColour("RGB", label != "RGB")
    return CodedColour("YBR_FULL", label not in _YBR)
