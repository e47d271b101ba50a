"""Which text is a number: ASCII digits with a sign, a decimal point and an exponent (as DICOM's DS and IS, PS3.5 6.2).

Python also reads ``1_0`` as 10 and the digits of every script. Nobody writes a measurement so, and what was meant is
unknown: a column that slipped, a key, two values run together. Spaces and padding around a number are none of it.
"""

from __future__ import annotations

import re

_PADDING = " \t\r\n\0"
_DECIMAL = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?[0-9]+")


def number_of(text: str) -> float:
    """The number that ``text`` is; infinite or NaN where it says so, or says more than a float holds.

    Raises:
        ValueError: it is none.
    """
    plain = text.strip(_PADDING)
    if not _DECIMAL.fullmatch(plain):
        raise ValueError("not how a number is written")
    return float(plain)


def whole_number_of(text: str) -> int:
    """The integer that ``text`` is, written without a point.

    Raises:
        ValueError: it is none, or one of thousands of digits.
    """
    plain = text.strip(_PADDING)
    if not _WHOLE.fullmatch(plain):
        raise ValueError("not how an integer is written")
    return int(plain)


def is_number(text: str) -> bool:
    """Whether ``text`` is how a number is written."""
    return bool(_DECIMAL.fullmatch(text.strip(_PADDING)))


def has_only_ascii_digits(text: str) -> bool:
    """Whether no character of ``text`` is a digit of another script, raised, circled or a fraction."""
    return all(character.isascii() or not character.isnumeric() for character in text)
