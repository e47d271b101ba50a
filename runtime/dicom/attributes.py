"""Attributes of a DICOM data set that stand for a column beside the image, as text; and which may stand for one.

Only attributes that describe a patient's body or how an image was taken may: by their value representation ages, codes
and numbers (PS3.5 6.2), which leaves out every name, date, identifier and free text; and of these none that names,
counts or dates something. What is read is what the columns name, nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from medfm_compress.runtime.columns import CategoricalColumn, Column, NumericColumn
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

AGE = "AS"
NUMBERS = ("DS", "IS", "FD", "FL", "US", "SS", "UL", "SL")
_CODES = ("CS",)
AGE_UNITS = MappingProxyType({"days": 1.0, "weeks": 7.0, "months": 365.25 / 12, "years": 365.25})
"""Days of each unit that a column of an age may have."""
UNITS = MappingProxyType(
    {
        "PatientWeight": "kg",
        "PatientSize": "m",
        "PatientBodyMassIndex": "kg/m2",
        "BodyPartThickness": "mm",
        "CompressionForce": "N",
        "KVP": "kV",
        "XRayTubeCurrent": "mA",
        "ExposureTime": "ms",
        "Exposure": "mAs",
        "DistanceSourceToDetector": "mm",
        "DistanceSourceToPatient": "mm",
        "SliceThickness": "mm",
        "MagneticFieldStrength": "T",
        "EchoTime": "ms",
        "RepetitionTime": "ms",
        "FlipAngle": "degrees",
    }
)
"""Units of DICOM (PS3.3); a column of another unit would read a number that means something else."""
_TERMS = MappingProxyType(
    {
        "PatientSex": ("F", "M", "O"),
        "ImageLaterality": ("R", "L", "U", "B"),
        "Laterality": ("R", "L"),
        "BreastImplantPresent": ("YES", "NO"),
        "SmokingStatus": ("YES", "NO", "UNKNOWN"),
        "PregnancyStatus": ("1", "2", "3", "4"),
    }
)
"""All that these may say (PS3.3)."""
_GROUPS = (0x0008, 0x0010, 0x0018, 0x0020, 0x0028, 0x0040, 0x0054)
_IDENTIFYING = re.compile(
    r"ID(?![a-z])|UID|Name|Birth|Identif|Serial|Accession|Number|Date|Responsible|Comment|Consent"
)


def check_attributes(columns: Iterable[Column]) -> None:
    """Check that the attributes that columns come from may be read for them.

    Raises:
        InputError: a keyword that DICOM does not know, one that identifies or is of no fitting kind, or another unit or
            other codes than DICOM's.
    """
    for column in columns:
        if column.dicom:
            _check_attribute(column)


def read_attributes(ds: Dataset, keywords: Iterable[str]) -> dict[str, str]:
    """Keyword → what the data set says, as text; absent and empty ones are left out, several values are one text.

    The text is what stands in the file: nothing is converted but numbers that are stored in binary.
    """
    texts = {keyword: _text(ds, keyword) for keyword in keywords if keyword in ds}
    return {keyword: text for keyword, text in texts.items() if text}


def _text(ds: Dataset, keyword: str) -> str:
    element: Any = ds.get_item(keyword)
    value = element.value
    if isinstance(value, bytes):
        if _representation(keyword) in ("FD", "FL", "US", "SS", "UL", "SL"):
            value = ds[keyword].value
        else:
            return value.decode("ascii", "replace").strip(" \0")
    if value is None:
        return ""
    several = not isinstance(value, str) and hasattr(value, "__len__")
    return "\\".join(str(item) for item in value) if several else str(value).strip(" \0")


def _check_attribute(column: Column) -> None:
    keyword, name = column.dicom, column.name
    representation = _representation(keyword)
    if not representation:
        import difflib  # of a fault alone

        near = difflib.get_close_matches(keyword, ("PatientAge", "ViewPosition", *UNITS, *_TERMS), 1)
        hint = f"; do you mean {near[0]!r}?" if near else ""
        raise InputError(f"column {name!r} comes from {keyword!r}, which is no DICOM keyword{hint}")
    if _group(keyword) not in _GROUPS or _IDENTIFYING.search(keyword):
        raise InputError(
            f"column {name!r} comes from {keyword}, which may identify a patient, a device or an examination; a model "
            "must not see it: take an attribute of the body or of the exposure, or leave 'dicom' empty"
        )
    fitting = (AGE, *NUMBERS) if isinstance(column, NumericColumn) else _CODES
    if representation not in fitting:
        kind = "a number" if isinstance(column, NumericColumn) else "a code"
        raise InputError(
            f"column {name!r} comes from {keyword}, of value representation {representation} and not {kind}; "
            f"{', '.join(fitting)} may be read"
        )
    if isinstance(column, NumericColumn):
        _check_unit(column, representation)
    else:
        _check_codes(column)


def _check_unit(column: NumericColumn, representation: str) -> None:
    if representation == AGE and column.unit not in AGE_UNITS:
        raise InputError(
            f"column {column.name!r} is in {column.unit!r} and comes from {column.dicom}, an age; its unit must be "
            f"{', '.join(AGE_UNITS)}"
        )
    unit = UNITS.get(column.dicom, column.unit)
    if unit != column.unit:
        raise InputError(f"column {column.name!r} is in {column.unit!r}; {column.dicom} is in {unit!r} (DICOM PS3.3)")


def _check_codes(column: CategoricalColumn) -> None:
    terms = _TERMS.get(column.dicom)
    if terms and not any(column.codes.get(term, term) in column.categories for term in terms):
        raise InputError(
            f"column {column.name!r} has the categories {', '.join(column.categories)}, and {column.dicom} says "
            f"{', '.join(terms)}: no file would be taken; say in 'codes' which category each stands for"
        )


def representation_of(column: Column) -> str:
    """Value representation of the attribute that a column comes from, e.g. ``AS``; empty where there is none."""
    return _representation(column.dicom) if column.dicom else ""


def _representation(keyword: str) -> str:
    """Value representation of an attribute, e.g. ``AS``; empty for one that DICOM does not know.

    Where DICOM allows several (``US or SS``) the first counts.
    """
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(keyword)
    return "" if tag is None else str(dictionary_VR(tag)).split(" ")[0]


def _group(keyword: str) -> int:
    from pydicom.datadict import tag_for_keyword

    return (tag_for_keyword(keyword) or 0) >> 16
