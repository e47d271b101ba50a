"""Content items of a structured report (PS3.3 C.17.3), encoded: explicit VR little endian (PS3.5 7.1.2), UTF-8.

A report of fourteen findings has some 1,700 attributes in 500 nested data sets. By way of pydicom's objects they take
50 ms, a good part of reading an image; written as the bytes that they become, a few.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Literal

from medfm_compress.runtime.node.results.codes import Code
from medfm_compress.runtime.node.results.source_study import SourceImage

Relationship = Literal["CONTAINS", "HAS CONCEPT MOD", "HAS OBS CONTEXT", "HAS ACQ CONTEXT"]
Item = bytes
"""One item of a sequence, with its item tag."""
# Keyword → tag and value representation (PS3.6), in the order of the tags, which is that of the encoding.
_ATTRIBUTES = {
    "CodeValue": (0x00080100, "SH"),
    "CodingSchemeDesignator": (0x00080102, "SH"),
    "CodeMeaning": (0x00080104, "LO"),
    "MappingResource": (0x00080105, "CS"),
    "LongCodeValue": (0x00080119, "UC"),
    "URNCodeValue": (0x00080120, "UR"),
    "ReferencedSOPClassUID": (0x00081150, "UI"),
    "ReferencedSOPInstanceUID": (0x00081155, "UI"),
    "ReferencedFrameNumber": (0x00081160, "IS"),
    "ReferencedSOPSequence": (0x00081199, "SQ"),
    "MeasurementUnitsCodeSequence": (0x004008EA, "SQ"),
    "RelationshipType": (0x0040A010, "CS"),
    "ValueType": (0x0040A040, "CS"),
    "ConceptNameCodeSequence": (0x0040A043, "SQ"),
    "ContinuityOfContent": (0x0040A050, "CS"),
    "UID": (0x0040A124, "UI"),
    "TextValue": (0x0040A160, "UT"),
    "ConceptCodeSequence": (0x0040A168, "SQ"),
    "MeasuredValueSequence": (0x0040A300, "SQ"),
    "NumericValue": (0x0040A30A, "DS"),
    "ContentTemplateSequence": (0x0040A504, "SQ"),
    "ContentSequence": (0x0040A730, "SQ"),
    "TemplateIdentifier": (0x0040DB00, "CS"),
}
_LONG = ("SQ", "UC", "UR", "UT")  # a length of four bytes (PS3.5 7.1.2)
_ITEM = b"\xfe\xff\x00\xe0"


def container(name: Code, items: Sequence[Item], *, template: str = "") -> Item:
    """A heading with ``items`` under it."""
    identification = {"MappingResource": "DCMR", "TemplateIdentifier": template}
    own: dict[str, str | bytes] = {"ContinuityOfContent": "SEPARATE", "ContentSequence": b"".join(items)}
    if template:
        own["ContentTemplateSequence"] = _item(identification)
    return _named("CONTAINS", "CONTAINER", name, own)


def code_item(relationship: Relationship, name: Code, value: Code) -> Item:
    """A coded value, e.g. a finding."""
    return _named(relationship, "CODE", name, {"ConceptCodeSequence": _coded(value)})


def text_item(relationship: Relationship, name: Code, value: str) -> Item:
    """Text of any length, not empty."""
    return _named(relationship, "TEXT", name, {"TextValue": value})


def uid_item(relationship: Relationship, name: Code, value: str) -> Item:
    """A UID that is no reference to an object."""
    return _named(relationship, "UIDREF", name, {"UID": value})


def number_item(name: Code, value: str, unit: Code) -> Item:
    """A measured value; ``value`` is a decimal string of at most 16 characters."""
    measured = _item({"NumericValue": value, "MeasurementUnitsCodeSequence": _coded(unit)})
    return _named("CONTAINS", "NUM", name, {"MeasuredValueSequence": measured})


def image_item(name: Code | None, image: SourceImage) -> Item:
    """A reference to an image, and its frame where it has several, with or without its purpose."""
    reference = {
        "ReferencedSOPClassUID": image.sop_class_uid,
        "ReferencedSOPInstanceUID": image.sop_instance_uid,
        **({} if image.frame is None else {"ReferencedFrameNumber": str(image.frame)}),
    }
    return _named("CONTAINS", "IMAGE", name, {"ReferencedSOPSequence": _item(reference)})


def _named(relationship: Relationship, value_type: str, name: Code | None, own: Mapping[str, str | bytes]) -> Item:
    concept = {} if name is None else {"ConceptNameCodeSequence": _coded(name)}
    return _item({"RelationshipType": relationship, "ValueType": value_type, **concept, **own})


def _coded(code: Code) -> Item:
    """Code sequence macro (PS3.3 8.8)."""
    scheme = {"CodingSchemeDesignator": code.scheme, "CodeMeaning": code.meaning}
    return _item({code.value_keyword: code.value, **scheme})


def _item(values: Mapping[str, str | bytes]) -> Item:
    """An item of attributes: text, or the encoded items of a sequence."""
    content = b"".join(_element(keyword, values[keyword]) for keyword in sorted(values, key=_tag))
    return _ITEM + struct.pack("<I", len(content)) + content


def _element(keyword: str, value: str | bytes) -> bytes:
    tag, vr = _ATTRIBUTES[keyword]
    data = value if isinstance(value, bytes) else value.encode("utf-8")
    if len(data) % 2:
        data += b"\0" if vr == "UI" else b" "
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode("ascii"))
    return head + struct.pack("<HI" if vr in _LONG else "<H", *((0,) if vr in _LONG else ()), len(data)) + data


def _tag(keyword: str) -> int:
    return _ATTRIBUTES[keyword][0]
