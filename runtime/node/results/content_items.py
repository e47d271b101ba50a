"""Content items of a structured report (PS3.3 C.17.3): one function a value type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from medfm_compress.runtime.node.results.codes import Code
from medfm_compress.runtime.node.results.document import coded

if TYPE_CHECKING:
    from pydicom import Dataset

Relationship = Literal["CONTAINS", "HAS CONCEPT MOD", "HAS OBS CONTEXT", "HAS ACQ CONTEXT"]


def container(name: Code, items: Sequence[Dataset], *, template: str = "", is_root: bool = False) -> Dataset:
    """A heading with ``items`` under it; the root of a document has no relationship."""
    from pydicom import Dataset

    item = Dataset() if is_root else _item("CONTAINS")
    item.ValueType = "CONTAINER"
    item.ConceptNameCodeSequence = [coded(name)]
    item.ContinuityOfContent = "SEPARATE"
    if template:
        identification = Dataset()
        identification.MappingResource, identification.TemplateIdentifier = "DCMR", template
        item.ContentTemplateSequence = [identification]
    item.ContentSequence = list(items)
    return item


def code_item(relationship: Relationship, name: Code, value: Code, items: Sequence[Dataset] = ()) -> Dataset:
    """A coded value, e.g. a finding."""
    item = _named(relationship, "CODE", name)
    item.ConceptCodeSequence = [coded(value)]
    if items:
        item.ContentSequence = list(items)
    return item


def text_item(relationship: Relationship, name: Code, value: str) -> Dataset:
    """Text of any length, on as many lines as it has."""
    item = _named(relationship, "TEXT", name)
    item.TextValue = value
    return item


def uid_item(relationship: Relationship, name: Code, value: str) -> Dataset:
    """A UID that is no reference to an object."""
    item = _named(relationship, "UIDREF", name)
    item.UID = value
    return item


def number_item(name: Code, value: str, unit: Code) -> Dataset:
    """A measured value; ``value`` is a decimal string of at most 16 characters."""
    from pydicom import Dataset

    item = _named("CONTAINS", "NUM", name)
    measured = Dataset()
    measured.NumericValue = value
    measured.MeasurementUnitsCodeSequence = [coded(unit)]
    item.MeasuredValueSequence = [measured]
    return item


def image_item(name: Code | None, reference: Dataset) -> Dataset:
    """A reference to an image, with or without its purpose."""
    item = _item("CONTAINS") if name is None else _named("CONTAINS", "IMAGE", name)
    item.ValueType = "IMAGE"
    item.ReferencedSOPSequence = [reference]
    return item


def _item(relationship: Relationship) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.RelationshipType = relationship
    return item


def _named(relationship: Relationship, value_type: str, name: Code) -> Dataset:
    item = _item(relationship)
    item.ValueType = value_type
    item.ConceptNameCodeSequence = [coded(name)]
    return item
