"""The Store Instances Response Module (PS3.18 annex I.2), as DICOM JSON (annex F) and as XML (PS3.19 annex A.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

import msgspec


class Outcome(NamedTuple):
    """Of one instance of a request.

    Attributes:
        failure: Failure Reason (0008,1197); 0 for stored.
    """

    sop_class_uid: str
    sop_instance_uid: str
    failure: int


class _Element(NamedTuple):
    tag: str
    vr: str
    keyword: str
    value: str | int | None


def as_json(outcomes: Sequence[Outcome]) -> bytes:
    """The module as one JSON object."""
    module: dict[str, object] = {"00081190": {"vr": "UR"}}
    for tag, _, items in _sequences(outcomes):
        module[tag] = {"vr": "SQ", "Value": [{element.tag: _json(element) for element in item} for item in items]}
    return msgspec.json.encode(module)


def as_xml(outcomes: Sequence[Outcome]) -> bytes:
    """The module as a Native DICOM Model."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<NativeDicomModel xml:space="preserve">']
    lines.append('<DicomAttribute tag="00081190" vr="UR" keyword="RetrieveURL"/>')
    for tag, keyword, items in _sequences(outcomes):
        lines.append(f'<DicomAttribute tag="{tag}" vr="SQ" keyword="{keyword}">')
        for number, item in enumerate(items, 1):
            lines.append(f'<Item number="{number}">{"".join(_xml(element) for element in item)}</Item>')
        lines.append("</DicomAttribute>")
    return "\n".join([*lines, "</NativeDicomModel>"]).encode()


def _sequences(outcomes: Sequence[Outcome]) -> list[tuple[str, str, list[list[_Element]]]]:
    stored = [_item(outcome) for outcome in outcomes if not outcome.failure]
    failed = [
        [*_item(outcome), _Element("00081197", "US", "FailureReason", outcome.failure)]
        for outcome in outcomes
        if outcome.failure
    ]
    both = (("00081198", "FailedSOPSequence", failed), ("00081199", "ReferencedSOPSequence", stored))
    return [sequence for sequence in both if sequence[2]]


def _item(outcome: Outcome) -> list[_Element]:
    elements = [
        _Element("00081150", "UI", "ReferencedSOPClassUID", outcome.sop_class_uid or None),
        _Element("00081155", "UI", "ReferencedSOPInstanceUID", outcome.sop_instance_uid or None),
    ]
    if not outcome.failure:
        elements.append(_Element("00081190", "UR", "RetrieveURL", None))
    return elements


def _json(element: _Element) -> dict[str, object]:
    return {"vr": element.vr} if element.value is None else {"vr": element.vr, "Value": [element.value]}


def _xml(element: _Element) -> str:
    start = f'<DicomAttribute tag="{element.tag}" vr="{element.vr}" keyword="{element.keyword}"'
    if element.value is None:
        return f"{start}/>"
    return f'{start}><Value number="1">{escape(str(element.value))}</Value></DicomAttribute>'
