"""Decimal attributes, one value or several, of which some may be empty (PS3.5 6.2, DS; 6.4, multiplicity)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.runtime.errors import ImageRefused

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
    values = value if hasattr(value, "__len__") and not isinstance(value, str) else [value]
    return [_number(ds, keyword, item, name) for item in values[:most]]


def _number(ds: Dataset, keyword: str, value: object, name: str) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise ImageRefused(f"{name}: {keyword} {_fault(ds, keyword)}; export the image again") from None
    if not np.isfinite(number):
        raise ImageRefused(f"{name}: {keyword} is not a finite number; export the image again")
    return number


def _fault(ds: Dataset, keyword: str) -> str:
    """Why the attribute is no number, without its value."""
    raw = ds.get_item(keyword).value
    text = raw.decode("latin-1") if isinstance(raw, bytes) else str(raw)
    return "is written with a comma, and DICOM takes a decimal point only" if "," in text else "is text, not a number"
