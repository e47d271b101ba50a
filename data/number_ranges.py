"""Numbers as tables write them where they are not exact: ``70-79``, ``90+``, ``≥ 90``, ``> 89``, ``< 1``."""

from __future__ import annotations

import math
import re

from medfm_compress.data.written_forms import normal_form
from medfm_compress.runtime.written_numbers import number_of

_N = r"(\d+(?:\.\d+)?)"
_RANGE = re.compile(rf"{_N}\s*(?:-|to)\s*{_N}")
_AT_LEAST = re.compile(
    rf"(?:>|≥|⩾|over|above|at least|from|more than|older than)\s*{_N}|"
    rf"{_N}\s*(?:\+|plus|(?:and|or) (?:over|above|up|more|older))"
)
_BELOW = re.compile(rf"(?:<|under|below|less than|younger than)\s*{_N}")
_AT_MOST = re.compile(rf"(?:≤|⩽|up to|at most)\s*{_N}|{_N} (?:and|or) (?:under|below|less|younger)")
_NONE = (math.nan, math.nan)


def number_range(text: str) -> tuple[float, float]:
    """Least and greatest number that ``text`` may stand for; infinite where it names no end, NaN where it is none.

    ``> 89`` is read as at least 89: in whole numbers it means 90 or more, and no cut between the two can be decided.
    """
    form = re.sub(r">\s*=|=\s*>", "≥", re.sub(r"<\s*=|=\s*<", "≤", normal_form(text)))
    if match := _RANGE.fullmatch(form):
        low, high = float(match[1]), float(match[2])
        return (low, high) if low <= high else _NONE
    if match := _AT_LEAST.fullmatch(form):
        return float(match[1] or match[2]), math.inf
    if match := _BELOW.fullmatch(form):
        return -math.inf, math.nextafter(float(match[1]), -math.inf)
    if match := _AT_MOST.fullmatch(form):
        return -math.inf, float(match[1] or match[2])
    try:
        number = number_of(form)
    except ValueError:
        return _NONE
    return (number, number) if math.isfinite(number) else _NONE
