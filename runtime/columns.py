"""Columns: what a network is told of a patient beside the image, and how a value becomes its input.

A numeric column x, with mean μ and standard deviation σ of the training cases:

    (x − μ) / σ                             where a missing value is refused, or imputed as μ (then 0)
    ((x − μ) / σ, 0)  or  (0, 1)            where missing is a category of its own

A categorical column of K categories is a row of K zeros with a 1 at its category; K + 1 where missing is a category of
its own. Every column is one named input of the network, float32 ``[n, width]``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.written_numbers import number_of

Value = float | str | None
Values = Mapping[str, Value]
"""Column → what it says; None, like a column that is left out, is a missing value."""
Missing = Literal["refuse", "impute", "category"]
"""What becomes of a case without a value: no answer, the value of the training cases, or a category of its own."""
MOST_COLUMNS, MOST_CATEGORIES = 64, 256
_LEAST_DEVIATION = 1e-9  # of the range: with less, values between its ends are no numbers that a network takes
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_KEYWORD = re.compile(r"[A-Z][A-Za-z0-9]{1,62}")


class NumericColumn(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="numeric"
):
    """A number with a unit and a range.

    Attributes:
        name: of the study's column and of the network's input.
        unit: that values are in, e.g. ``years``; it may stand behind a value that is text (``63 years``).
        minimum: smallest value that is accepted.
        maximum: largest one.
        mean: μ of the training cases, within the range.
        standard_deviation: σ of them, > 0.
        missing: see `Missing`; ``impute`` takes the mean.
        dicom: keyword of the DICOM attribute that has it, e.g. ``PatientAge``; empty where none has.
    """

    name: str
    unit: str
    minimum: float
    maximum: float
    mean: float = 0.0
    standard_deviation: float = 1.0
    missing: Missing = "refuse"
    dicom: str = ""

    def __post_init__(self) -> None:
        _check_names(self.name, self.dicom)
        for field in ("minimum", "maximum", "mean", "standard_deviation"):  # 0 and 0.0 are one bundle, of one digest
            msgspec.structs.force_setattr(self, field, float(getattr(self, field)))
        numbers = (self.minimum, self.maximum, self.mean, self.standard_deviation)
        if not all(map(math.isfinite, numbers)) or not self.minimum < self.maximum:
            raise InputError(
                f"column {self.name!r} has the range {self.minimum:g} to {self.maximum:g}, mean {self.mean:g} and "
                f"standard deviation {self.standard_deviation:g}; they must be finite and the range not empty"
            )
        least = _LEAST_DEVIATION * min(self.maximum - self.minimum, 1 / _LEAST_DEVIATION)
        if not self.minimum <= self.mean <= self.maximum or not 0 < least <= self.standard_deviation:
            raise InputError(
                f"column {self.name!r}: the mean {self.mean:g} must lie in the range {self.minimum:g} to "
                f"{self.maximum:g} and the standard deviation {self.standard_deviation:g} be above 0 and at least a "
                "billionth of its width"
            )
        if not self.unit:
            raise InputError(f"column {self.name!r} has no unit; name it, or write '1' for a number without one")

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        return f"{self.minimum:g} to {self.maximum:g} {self.unit}"

    @property
    def imputes(self) -> str:
        """What stands for a missing value that is imputed, in words."""
        return f"{self.mean:g} {self.unit}"

    @property
    def width(self) -> int:
        """Numbers that the network is given."""
        return 2 if self.missing == "category" else 1

    def encoded(self, value: Value) -> NDArray[np.float32]:
        """``[width]`` float32 of ``value``, in the column's unit; None where it is missing.

        Raises:
            InputError: no number, outside the range, or missing where that is refused.
        """
        if value is None:
            _check_may_be_missing(self.name, self.missing)
            return np.array([0, 1] if self.missing == "category" else [0], np.float32)
        number = _number(self.name, value, self.unit)
        if not self.minimum <= number <= self.maximum:
            raise InputError(
                f"{self.name} is {number:g} {self.unit}; the model takes {self.minimum:g} to {self.maximum:g}"
            )
        standardised = (number - self.mean) / self.standard_deviation
        return np.array([standardised, 0] if self.missing == "category" else [standardised], np.float32)


class CategoricalColumn(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="categorical"
):
    """One of a few words.

    Attributes:
        name: of the study's column and of the network's input.
        categories: at least two, unique, in the order of the network's input.
        missing: see `Missing`; ``impute`` takes `imputed`.
        imputed: the most frequent category of the training cases; empty where missing is not imputed.
        dicom: keyword of the DICOM attribute that has it, e.g. ``PatientSex``; empty where none has.
        codes: what the attribute says → category, where the two differ, e.g. ``F`` → ``female``.
    """

    name: str
    categories: tuple[str, ...]
    missing: Missing = "refuse"
    imputed: str = ""
    dicom: str = ""
    codes: dict[str, str] = {}

    def __post_init__(self) -> None:
        _check_names(self.name, self.dicom)
        if not 2 <= len(self.categories) <= MOST_CATEGORIES or len(set(self.categories)) != len(self.categories):
            raise InputError(
                f"column {self.name!r} has the categories {self.categories}; give 2 to {MOST_CATEGORIES} different ones"
            )
        if not all(category.strip() == category and category for category in self.categories):
            raise InputError(f"column {self.name!r}: a category is empty or has spaces around it: {self.categories}")
        if (self.missing == "impute") != bool(self.imputed) or (self.imputed and self.imputed not in self.categories):
            raise InputError(
                f"column {self.name!r}: missing is {self.missing!r} and imputed is {self.imputed!r}; with 'impute' "
                "name one of the categories, else none"
            )
        strange = sorted(set(self.codes.values()) - set(self.categories))
        if strange or (self.codes and not self.dicom) or len(self.codes) > MOST_CATEGORIES:
            what = f"codes for {strange[0]!r}, which is no category" if strange else "codes and no DICOM keyword"
            what = what if len(self.codes) <= MOST_CATEGORIES else f"{len(self.codes)} codes"
            raise InputError(f"column {self.name!r} has {what}; codes say which category a DICOM value stands for")

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        return f"one of {', '.join(self.categories)}"

    @property
    def imputes(self) -> str:
        """What stands for a missing value that is imputed, in words."""
        return self.imputed

    @property
    def width(self) -> int:
        """Numbers that the network is given."""
        return len(self.categories) + (self.missing == "category")

    def encoded(self, value: Value) -> NDArray[np.float32]:
        """``[width]`` float32 of ``value``, one of the categories; None where it is missing.

        Raises:
            InputError: an unknown category, or missing where that is refused.
        """
        if value is None:
            _check_may_be_missing(self.name, self.missing)
            value = self.imputed or None
        elif value not in self.categories:
            raise InputError(f"{self.name} is {str(value)!r}; the model takes {', '.join(self.categories)}")
        row = np.zeros(self.width, np.float32)
        row[self.categories.index(str(value)) if value is not None else -1] = 1
        return row


Column = NumericColumn | CategoricalColumn


def check_columns(columns: Sequence[Column]) -> None:
    """Check columns of one model together.

    Raises:
        InputError: two of one name, or too many.
    """
    names = [column.name for column in columns]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"two columns are called {twice[0]!r}; each is an input of the network with a name of its own")
    if len(columns) > MOST_COLUMNS:
        raise InputError(f"{len(columns)} columns; a model takes at most {MOST_COLUMNS}")


def encode_columns(columns: Sequence[Column], values: Values) -> dict[str, NDArray[np.float32]]:
    """Inputs of the network for one case: name → float32 ``[1, width]``; a column that ``values`` lacks is missing.

    Raises:
        InputError: a value that a column does not take, or one for a column that there is not.
    """
    unknown = sorted(set(values) - {column.name for column in columns})
    if unknown:
        known = ", ".join(column.name for column in columns) or "none"
        raise InputError(f"the model takes no column {unknown[0]!r}; it takes {known}")
    return {column.name: column.encoded(values.get(column.name))[None] for column in columns}


def _check_names(name: str, dicom: str) -> None:
    if not _NAME.fullmatch(name) or name in ("image", "logits"):
        raise InputError(
            f"a column is called {name!r}; use small letters, digits and '_', a letter first; not 'image' or 'logits'"
        )
    if dicom and not _KEYWORD.fullmatch(dicom):
        raise InputError(f"column {name!r} comes from the DICOM keyword {dicom!r}; give one such as 'PatientAge'")


def _check_may_be_missing(name: str, missing: Missing) -> None:
    if missing == "refuse":
        raise InputError(f"{name} is missing, and the model gives no answer without it; give its value")


def without_unit(text: str, unit: str) -> str:
    """``text`` without spaces around it and without ``unit``, if that stands behind a space at its end."""
    number, _, behind = text.strip().partition(" ")
    return number if behind.strip() == unit else text.strip()


def _number(name: str, value: float | str, unit: str) -> float:
    """In ``unit``, which may stand behind it."""
    try:
        number = number_of(without_unit(value, unit)) if isinstance(value, str) else _plain(value)
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"{name} is {value!r}; give a number, in {unit}") from None
    if not math.isfinite(number):
        raise InputError(f"{name} is {value!r}; give a finite number, in {unit}")
    return number


def _plain(value: object) -> float:
    """A caller's number; ``True`` is no 1, and bytes are no text."""
    if isinstance(value, bool | np.bool_ | bytes | bytearray):
        raise TypeError("not a number")
    return float(value)  # type: ignore[arg-type]
