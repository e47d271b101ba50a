"""Values of columns for one image: what the caller gives, and what its DICOM attributes say; checked, then encoded.

A value that the caller gives must not contradict the file. One that the file gives never stands in a message: messages
are logged, and a log holds nothing of a patient. A missing one is what its column declares.

An age (AS, PS3.5 6.2) is a number and a letter, of n days, weeks, months or years that are completed. ``000Y``,
``000M`` and ``000W`` are no ages: they are what systems write that do not know one, and a newborn's is in days.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.columns import (
    CategoricalColumn,
    Column,
    NumericColumn,
    Value,
    Values,
    encode_columns,
    without_unit,
)
from medfm_compress.runtime.dicom.attributes import AGE, AGE_UNITS, representation_of
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.written_numbers import is_number, number_of

MISSING_FLAG = "column-missing"
ARGUMENT, MISSING, IMPUTED = "argument", "missing", "imputed"
_AGE = re.compile(r"([0-9]{1,3})([DWMY])")
_AGE_LETTERS = {"D": "days", "W": "weeks", "M": "months", "Y": "years"}
_OLDEST_DAYS = 125 * 365.25  # nobody on record was older than 122
_CLOSE = 1e-3  # of a number and the same one in a file, which may be rounded


class Filled(NamedTuple):
    """Columns of one image.

    Attributes:
        inputs: column → float32 ``[1, width]``.
        sources: column → where its value comes from: ``argument``, the DICOM keyword, ``imputed`` or ``missing``.
    """

    inputs: dict[str, NDArray[np.float32]]
    sources: dict[str, str]

    @property
    def flags(self) -> tuple[str, ...]:
        """What a prediction says of them: whether one was missing."""
        return (MISSING_FLAG,) if {IMPUTED, MISSING}.intersection(self.sources.values()) else ()


class _FileValue(NamedTuple):
    """What a file says: the value in the column's terms; how far another may be from it; or why it has none."""

    value: float | str | None = None
    slack: float = 0.0
    fault: str = ""


def keywords_of(columns: Sequence[Column]) -> tuple[str, ...]:
    """Keywords of the DICOM attributes that ``columns`` come from."""
    return tuple(column.dicom for column in columns if column.dicom)


def only_by_argument(columns: Sequence[Column]) -> tuple[str, ...]:
    """Names of columns that must be known and that no DICOM attribute gives."""
    return tuple(column.name for column in columns if column.missing == "refuse" and not column.dicom)


def fill_columns(columns: Sequence[Column], given: Values, attributes: Mapping[str, str]) -> Filled:
    """The network's inputs of one image.

    Args:
        columns: of the model.
        given: by the caller; text and numbers alike.
        attributes: of the image's file, keyword → text, see `read_attributes`.

    Raises:
        InputError: a value is given for a column that the model does not have.
        ImageRefused: a value that a column does not take, one that contradicts the file, or one that is missing and may
            not be.
    """
    _check_known(columns, given)
    values: dict[str, Value] = {}
    sources: dict[str, str] = {}
    for column in columns:
        values[column.name], sources[column.name] = _chosen(column, given.get(column.name), attributes)
    return Filled(encode_columns(columns, values), sources)


def _check_known(columns: Sequence[Column], given: Values) -> None:
    unknown = sorted(set(given) - {column.name for column in columns})
    if unknown:
        known = ", ".join(column.name for column in columns)
        takes = f"it takes {known}" if known else "it takes none"
        raise InputError(f"the model takes no column {unknown[0]!r}; {takes}")


def _chosen(column: Column, given: Value, attributes: Mapping[str, str]) -> tuple[Value, str]:
    """The value of one column, and its source."""
    text = attributes.get(column.dicom, "") if column.dicom else ""
    told = _of_file(column, text) if text else _FileValue()
    if given is None and told.fault:
        raise ImageRefused(f"{column.dicom} of the file {told.fault}; give {column.name} as an argument")
    if given is None and told.value is not None:
        _check_taken(column, told.value)
        return told.value, column.dicom
    if given is None:
        return _missing(column)
    given = _as_written(column, given)
    try:
        column.encoded(given)
    except InputError as exc:
        raise ImageRefused(str(exc)) from None
    if told.value is not None and not _agree(column, given, told):
        raise ImageRefused(
            f"{column.name} is given as {given} and {column.dicom} of the file says something else; correct the one "
            "that is wrong, or leave the argument out"
        )
    return given, ARGUMENT


def _as_written(column: Column, given: float | str) -> float | str:
    """A value of the caller; an age may be written as DICOM does, a number with its unit behind it."""
    if isinstance(column, CategoricalColumn) or not isinstance(given, str):
        return given
    text = given.strip()
    if representation_of(column) == AGE and _AGE.fullmatch(text):
        told = _age(column, text)
        if told.value is None:
            raise ImageRefused(f"{column.name} is given as {text}, which {told.fault}")
        return told.value
    number = without_unit(text, column.unit)
    if representation_of(column) == AGE and not is_number(number):
        raise ImageRefused(
            f"{column.name} is given as {text!r}; give a number, in {column.unit}, or an age as DICOM writes it: digits"
            " and D, W, M or Y, such as 050Y"
        )
    return number


def _missing(column: Column) -> tuple[None, str]:
    if column.missing == "refuse":
        where = f", and the file has no {column.dicom}" if column.dicom else ""
        raise ImageRefused(
            f"{column.name} is missing{where}: the model gives no answer without it; give it as an argument, "
            f"{column.allowed}"
        )
    return None, IMPUTED if column.missing == "impute" else MISSING


def _check_taken(column: Column, value: float | str) -> None:
    """Refuse a file's value that the column does not take, without saying it."""
    try:
        column.encoded(value)
    except InputError:
        raise ImageRefused(
            f"{column.dicom} of the file is not what the model takes as {column.name}, {column.allowed}; the model was "
            "not made for this image"
        ) from None


def _of_file(column: Column, text: str) -> _FileValue:
    if "\\" in text:
        return _FileValue(fault="has several values")
    if isinstance(column, CategoricalColumn):
        return _FileValue(column.codes.get(text, text))
    if representation_of(column) == AGE:
        return _age(column, text)
    try:
        number = number_of(text)
    except ValueError:
        return _FileValue(fault="is no number")
    if not math.isfinite(number):
        return _FileValue(fault="is no finite number")
    return _FileValue(number, _CLOSE * abs(number))


def _age(column: NumericColumn, text: str) -> _FileValue:
    match = _AGE.fullmatch(text)
    if match is None:
        return _FileValue(fault="is no age; DICOM writes three digits and D, W, M or Y, such as 063Y")
    count, unit = int(match[1]), _AGE_LETTERS[match[2]]
    if count == 0 and unit != "days":
        return _FileValue(fault=f"is 0 {unit}, which is no age: that of a child is written in smaller units")
    days = AGE_UNITS[unit]
    if count * days > _OLDEST_DAYS:
        return _FileValue(fault="is an age that nobody reaches")
    factor = days / AGE_UNITS[column.unit]
    return _FileValue(count * factor, factor)  # completed units, or rounded ones


def _agree(column: Column, given: float | str, told: _FileValue) -> bool:
    if isinstance(column, CategoricalColumn) or told.value is None:
        return given == told.value
    return abs(float(given) - float(told.value)) <= told.slack
