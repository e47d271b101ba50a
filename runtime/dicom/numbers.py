"""Decimal attributes, one value or several, of which some may be empty (PS3.5 6.2, DS; 6.4, multiplicity).

pydicom makes numbers of text as Python does, which also reads ``1_0``. So the text that stands in the file is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.written_numbers import number_of, whole_number_of

if TYPE_CHECKING:
    from pydicom import Dataset


def first_number(ds: Dataset, keyword: str, name: str) -> float | None:
    """The first value of a decimal attribute, or None where it is absent or empty.

    Raises:
        ImageRefused: text, a decimal comma (PS3.5 6.2 wants a point), infinite or NaN.
    """
    return next(iter(numbers(ds, keyword, name, most=1)), None)


def numbers(ds: Dataset, keyword: str, name: str, most: int = 1_000) -> list[float | None]:
    """The first ``most`` values of a decimal attribute, None for each that is empty; none where it is absent.

    Raises:
        ImageRefused: as for :func:`first_number`.
    """
    try:
        value = ds.get(keyword)  # pydicom converts text to numbers here
    except (ValueError, TypeError, OverflowError):
        raise ImageRefused(f"{name}: {keyword} {_fault(ds, keyword)}; export the image again") from None
    if value is None or value == "":
        return []
    values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    return [_number(ds, keyword, item, name) for item in values[:most]]


def decimal_from(value: object) -> float:
    """A value that pydicom gives, by its text in the file where it has one; may be infinite or NaN.

    Raises:
        ValueError, TypeError, OverflowError: it is no number.
    """
    text = _written(value)
    return number_of(text) if isinstance(text, str) else float(text)  # type: ignore[arg-type]


def integer_from(value: object) -> int:
    """Like `decimal_from`, an integer; a float that is none is refused too.

    Raises:
        ValueError, TypeError, OverflowError: it is no integer.
    """
    text = _written(value)
    if isinstance(text, str):
        return whole_number_of(text)
    number = int(text)  # type: ignore[call-overload]
    if number != text:
        raise ValueError("not an integer")
    return int(number)


def _written(value: object) -> object:
    """The text of a decimal or integer string, the number of a binary one."""
    if isinstance(value, bytes):
        raise TypeError("bytes of no value representation that holds numbers")
    text: object = getattr(value, "original_string", value)
    if isinstance(text, bytes):  # of a person's name
        raise TypeError("text of a value representation that holds no numbers")
    return text


def _number(ds: Dataset, keyword: str, value: object, name: str) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = decimal_from(value)
    except (ValueError, TypeError, OverflowError):
        raise ImageRefused(f"{name}: {keyword} {_fault(ds, keyword)}; export the image again") from None
    if not np.isfinite(number):
        raise ImageRefused(f"{name}: {keyword} is not a finite number; export the image again")
    return number


def _fault(ds: Dataset, keyword: str) -> str:
    """Why the attribute is no number, without its value."""
    raw = ds.get_item(keyword).value
    parts = raw if hasattr(raw, "__iter__") else [raw]
    text = raw.decode("latin-1") if isinstance(raw, bytes) else "".join(map(str, parts))
    return "is written with a comma, and DICOM takes a decimal point only" if "," in text else "is text, not a number"
