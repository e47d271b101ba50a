"""What of an image has to be certain before a result may name its patient; whatever is not goes to quarantine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.quiet_decoders import decoding
from medfm_compress.runtime.node.spool.records import Arrival

if TYPE_CHECKING:
    from pydicom import Dataset

_ASCII_TERMS = ("", "ISO_IR 6", "ISO 2022 IR 6")
_GROUPS = (0x0008, 0x0010, 0x0020, 0x0032, 0x0040)  # what results copy stands in these
_IDENTITY = (
    *("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "SpecificCharacterSet"),
)
_ESCAPE = 0x1B
_NAME = "the image"


class Unusable(Exception):
    """An image that goes to quarantine.

    Attributes:
        code: a word for metrics.
        reason: a sentence, without patient data.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


def read_header(data: bytes) -> Dataset:
    """Every attribute of a DICOM file before its pixels.

    Raises:
        Unusable: it is none, or damaged.
    """
    from medfm_compress.runtime.dicom.parse import parse_header

    try:
        with decoding(_NAME, "DICOM"):
            return parse_header(data, _NAME)
    except ImageRefused as exc:
        raise Unusable("header-unreadable", str(exc)) from None


def check_identity(data: bytes) -> None:
    """Raise Unusable where a DICOM file says twice whose or which image it is: another reader may believe the other."""
    from pydicom.datadict import keyword_for_tag, tag_for_keyword

    from medfm_compress.runtime.dicom.parse import repeated

    with decoding(_NAME, "DICOM"):
        twice = repeated(data, [tag for keyword in _IDENTITY if (tag := tag_for_keyword(keyword))], _NAME)
    if twice:
        raise Unusable(
            "identity-twice", f"the data set has {keyword_for_tag(twice[0])} more than once; export it again"
        )


def check_header(header: Dataset, arrival: Arrival, *, needs_patient_id: bool) -> None:
    """Raise Unusable where it is not certain which image of which patient this is.

    Args:
        header: of the data set as it was stored.
        arrival: what the sender said of it.
        needs_patient_id: whether an image without Patient ID is refused.
    """
    for keyword, said in (("SOPInstanceUID", arrival.sop_instance_uid), ("SOPClassUID", arrival.sop_class_uid)):
        if text_of(header, keyword) != said:
            raise Unusable("uid-mismatch", f"{keyword} in the data set is another than the sender announced")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not text_of(header, keyword):
            raise Unusable("no-study", f"the data set has no {keyword}, so no result could be filed with it")
    check_character_set(header)
    if needs_patient_id and not text_of(header, "PatientID"):
        raise Unusable("no-patient-id", "the data set has no Patient ID (0010,0020); correct it and send it again")


def patient_of(header: Dataset) -> str:
    """What tells one patient from another: the ID, and who issued it."""
    return "\n".join(text_of(header, keyword) for keyword in ("PatientID", "IssuerOfPatientID"))


def text_of(header: Dataset, keyword: str) -> str:
    """The value of an attribute without padding; empty where it is absent."""
    with decoding(_NAME, "DICOM"):
        value = header.get(keyword)
        return "" if value is None else str(value).strip(" \0")


def check_character_set(header: Dataset) -> None:
    """Raise Unusable where a text cannot be decoded for certain (PS3.5 6.1, PS3.3 C.12.1.1.2)."""
    from pydicom.charset import convert_encodings, python_encoding

    terms = _terms(header)
    unknown = [term for term in terms if term not in python_encoding]
    if unknown:
        raise Unusable("character-set", "the data set names a Specific Character Set (0008,0005) that is none")
    with decoding(_NAME, "DICOM"):
        encodings = convert_encodings(list(terms))
    for tag in header.keys():  # noqa: SIM118 -- iterating a data set decodes it
        if tag.group in _GROUPS and not _is_decodable(header, tag, terms, encodings):
            raise Unusable(
                "character-set", f"the text of attribute {tag} is not of its Specific Character Set (0008,0005)"
            )


def _terms(header: Dataset) -> tuple[str, ...]:
    with decoding(_NAME, "DICOM"):
        value = header.get("SpecificCharacterSet") or ""
        terms = (value,) if isinstance(value, str) else tuple(value)
    return tuple(term.strip() for term in terms) or ("",)


def _is_decodable(header: Dataset, tag: object, terms: tuple[str, ...], encodings: list[str]) -> bool:
    from pydicom.charset import decode_bytes
    from pydicom.datadict import dictionary_VR
    from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, PN_DELIMS, TEXT_VR_DELIMS

    with decoding(_NAME, "DICOM"):  # of a representation that there is none of, a value is asked for here
        element = header.get_item(tag)
    value = getattr(element, "value", None)
    if not isinstance(value, bytes):
        return True
    try:
        representation = element.VR if element.VR not in (None, "UN") else dictionary_VR(tag)
    except KeyError:  # private
        return True
    if representation != "PN" and representation not in CUSTOMIZABLE_CHARSET_VR:
        return True
    if _ESCAPE not in value and terms[0] in _ASCII_TERMS:
        return value.isascii()
    if not _has_known_escapes(value, encodings):
        return False
    delimiters = {*TEXT_VR_DELIMS, 0x5C} | (set(PN_DELIMS) if representation == "PN" else set())
    with decoding(_NAME, "DICOM"):
        return "\ufffd" not in decode_bytes(value, encodings, delimiters)


def _has_known_escapes(value: bytes, encodings: list[str]) -> bool:
    """Whether every escape sequence of ``value`` belongs to a declared character set; back to ASCII always does."""
    from pydicom.charset import CODES_TO_ENCODINGS, default_encoding

    declared = [code for code, name in CODES_TO_ENCODINGS.items() if name in (*encodings, default_encoding)]
    return all(
        any(value.startswith(code, place) for code in declared) for place, byte in enumerate(value) if byte == _ESCAPE
    )
