"""Columns of a study that look as if they identified patients.

By name: the words of DICOM's basic profile for names, dates, numbers and addresses (PS3.15, table E.1-1) and what
hospitals call them. By content: full dates, or a value of its own in nearly every row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from medfm_compress.runtime.written_numbers import is_number

_WORDS = re.compile(
    r"(^|[_\W])(name|surname|firstname|lastname|birth|dob|born|accession|mrn|ssn|nhs|insurance|address|street|zip|"
    r"postcode|phone|telephone|mobile|e?mail|physician|operator|uid|record|date|time|"
    r"(file|case|patient|subject|participant|person|study|exam|examination|visit)[_\W]*"
    r"(ids?|key|code|number|no|nr|identifier))([_\W]|$)",
    re.IGNORECASE,
)
# The whole name, without what is no letter.
_PATIENT = re.compile(
    r"(patient|subject|participant|person)s?(ids?|uid|key|code|number|no|nr|identifier)?|mrn|pid", re.IGNORECASE
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_DATE = re.compile(r"\d{4}[-./]?[01]\d[-./]?[0-3]\d([T ].*)?|[0-3]?\d[-./][0-3]?\d[-./]\d{2,4}")
_FEWEST = 10
_NEARLY_ALL = 0.9


def identifying(column: str, values: Sequence[str]) -> str:
    """Why ``column`` may identify patients; empty where nothing says so.

    Args:
        column: its name.
        values: of every case, empty where not recorded.
    """
    if _WORDS.search(_CAMEL.sub("_", column)) or is_patient_key(column):
        return "by its name"
    filled = [value for value in values if value]
    if len(filled) < _FEWEST:
        return ""
    if sum(bool(_DATE.fullmatch(value.strip())) for value in filled) >= _NEARLY_ALL * len(filled):
        return "it holds dates"
    if len(set(filled)) >= _NEARLY_ALL * len(filled) and not all(map(_is_measure, filled)):
        return "nearly every row has a value of its own"
    return ""


def is_patient_key(column: str) -> bool:
    """Whether a name says that a column tells patients apart: ``Patient``, ``patient_id``, ``SubjectID``, ``MRN``."""
    return _PATIENT.fullmatch(re.sub(r"[\W_]+", "", column)) is not None


def _is_measure(value: str) -> bool:
    """Whether ``value`` is a number as measurements are: with a fraction, or of at most three digits."""
    if not is_number(value):
        return False
    return "." in value or len(value.strip().lstrip("+-")) <= 3
