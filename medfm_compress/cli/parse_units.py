"""Values as people write them on a command line: numbers, numbers with units, ``NAME=VALUE``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.written_numbers import number_of, whole_number_of

_UNITS: Mapping[str, tuple[Mapping[str, float], str]] = MappingProxyType(
    {
        "ms": ({"ms": 1.0, "s": 1000.0, "": 1.0}, "a time, e.g. 10ms"),
        "s": ({"min": 60.0, "ms": 0.001, "h": 3600.0, "s": 1.0, "": 1.0}, "a duration, e.g. 90s or 5min"),
        "MB": ({"kb": 0.001, "mb": 1.0, "gb": 1000.0, "": 1.0}, "a size in kB, MB or GB, e.g. 6MB"),
    }
)


def parse_value(text: str, option: str, kind: Any, unit: str = "") -> Any:
    """Text as an int, a float (in ``unit``), a path or a string.

    Raises:
        InputError: it is none, or not finite.
    """
    if kind is int:
        return _parse_integer(text, option)
    if kind is float:
        return parse_quantity(text, option, unit) if unit else parse_number(text, option)
    return Path(text) if kind is Path else text


def parse_number(text: str, option: str) -> float:
    """A finite number; raises InputError for anything else."""
    try:
        value = number_of(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{option} is {text!r}; give {_finite(value)}")
    return value


def _parse_integer(text: str, option: str) -> int:
    try:
        return whole_number_of(text)
    except ValueError:
        raise InputError(f"{option} is {text!r}; give a whole number") from None


def parse_quantity(text: str, option: str, unit: str) -> float:
    """``10ms``, ``5min``, ``6MB`` or a plain number, in ``unit``.

    Raises:
        InputError: anything else.
    """
    factors, example = _UNITS[unit]
    lower = text.strip().lower()
    suffix = next(name for name in factors if lower.endswith(name))
    try:
        value = number_of(lower.removesuffix(suffix)) * factors[suffix]
    except ValueError:
        value = math.nan
    if not math.isfinite(value):  # also a number that its unit makes too large
        raise InputError(f"{option} is {text!r}; give {_finite(value)} with its unit: {example}")
    return value


def _finite(value: float) -> str:
    return "a finite number" if math.isinf(value) else "a number"


def parse_pairs(texts: Sequence[str] | None, option: str, lone: str = "") -> dict[str, str]:
    """``NAME=VALUE`` of a repeated option; ``lone`` is the value of a name that stands alone.

    Raises:
        InputError: no value, or a name twice.
    """
    pairs: dict[str, str] = {}
    for text in texts or ():
        name, sign, value = text.partition("=")
        value = value if sign else lone
        if not name or not value:
            raise InputError(f"{option} is {text!r}; give NAME=VALUE")
        if name in pairs:
            raise InputError(f"{option} names {name!r} twice; give it once")
        pairs[name] = value
    return pairs
