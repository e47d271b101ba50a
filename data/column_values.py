"""What a table or a header says of a case in the terms of a column: a number in its unit, one of its words, or nothing.

An age is in years unless it says another unit (``045Y``, ``6 months``); a plain number is in the column's own unit. A
range such as ``60-69`` is no number: which one it stands for nobody knows. Words are compared in their normal form; of
``PatientSex`` also the words that tables have for DICOM's F, M and O (PS3.3 C.7.1.1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

from medfm_compress.data.ages import age_range, is_possible
from medfm_compress.data.missing_values import is_missing, is_no_label
from medfm_compress.data.recorded_groups import is_age
from medfm_compress.data.written_forms import normal_form
from medfm_compress.runtime.columns import CategoricalColumn, Column, NumericColumn
from medfm_compress.runtime.dicom.attributes import AGE_UNITS
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.written_numbers import has_only_ascii_digits, number_of

AGE, SEX = "PatientAge", "PatientSex"
PER_YEAR: Mapping[str, float] = MappingProxyType({unit: AGE_UNITS["years"] / days for unit, days in AGE_UNITS.items()})
"""Unit of a column of ages → how many of it a year has."""
_SEXES = MappingProxyType({"female": "f", "woman": "f", "male": "m", "man": "m", "other": "o"})
_COMMA = re.compile(r"(?<=\d),(?=\d)")
_NO_AGE = re.compile(r"0+[wmy]", re.IGNORECASE)


def column_value(column: Column, text: str) -> float | str | None:
    """The value of ``column`` that ``text`` stands for; None where it stands for none.

    Raises:
        InputError: no number, a range, or an age that nobody has.
    """
    if isinstance(column, CategoricalColumn):
        return _category(column, text)
    if is_no_label(text):
        return None
    if is_age(column.name) or column.dicom == AGE:
        return _age(column, text)
    return _number(column, text)


def _category(column: CategoricalColumn, text: str) -> str | None:
    by_form = {normal_form(category): category for category in column.categories}
    form = normal_form(column.codes.get(text, text))
    if form in by_form:
        return by_form[form]
    if is_missing(text) or is_no_label(text):
        return None
    return by_form.get(_SEXES.get(form, form), text) if column.dicom == SEX else text


def _number(column: NumericColumn, text: str) -> float:
    number = _plain_number(text)
    if not math.isfinite(number):
        raise InputError(f"{column.name} is {text!r}, which is no number; give one, in {column.unit}")
    return number


def _plain_number(text: str) -> float:
    """Also with a decimal comma; NaN where it is none, as the device sees it: of ASCII digits."""
    try:
        return number_of(_COMMA.sub(".", normal_form(text))) if has_only_ascii_digits(text) else math.nan
    except ValueError:
        return math.nan


def _age(column: NumericColumn, text: str) -> float:
    """In the column's unit."""
    number = _plain_number(text)
    if math.isfinite(number):
        return number
    low, high = age_range(text) if has_only_ascii_digits(text) else (math.nan, math.nan)
    per_year = PER_YEAR.get(column.unit)
    if low != high or not is_possible(low, high) or _NO_AGE.fullmatch(text.strip()):
        raise InputError(
            f"{column.name} is {text!r}, which is no exact age; write it as 57, 045Y or 6 months, below a year as 011M "
            "or 005D"
        )
    if per_year is None:
        raise InputError(
            f"{column.name} is {text!r} and the column's unit is {column.unit!r}; ages are in {', '.join(PER_YEAR)}"
        )
    return low * per_year
