"""Numbers with units, as people write them on a command line."""

from __future__ import annotations

import math
from collections.abc import Mapping

from medfm_compress.runtime.errors import InputError

_TIMES = {"ms": 1.0, "s": 1000.0, "": 1.0}
_SIZES = {"kb": 0.001, "mb": 1.0, "gb": 1000.0, "": 1.0}


def parse_number(text: str, option: str) -> float:
    """A number; raises InputError for anything else."""
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{option} is {text!r}; give a number") from None


def milliseconds(text: str, option: str) -> float:
    """``10ms``, ``0.02s`` or a plain number of milliseconds.

    Raises:
        InputError: anything else, or a time not above 0.
    """
    return _quantity(text, option, _TIMES, "a time above 0, e.g. 10ms")


def megabytes(text: str, option: str) -> float:
    """``6MB``, ``500kB``, ``1GB`` or a plain number of 10^6 bytes.

    Raises:
        InputError: anything else, or a size not above 0.
    """
    return _quantity(text, option, _SIZES, "a size above 0, e.g. 6MB")


def _quantity(text: str, option: str, units: Mapping[str, float], wanted: str) -> float:
    plain = text.strip().lower()
    unit = next(name for name in units if plain.endswith(name))
    value = parse_number(plain.removesuffix(unit).strip(), option) * units[unit]
    if not 0 < value < math.inf:
        raise InputError(f"{option} is {text!r}; give {wanted}")
    return value
