"""Ages as tables and headers write them, in years: ``57``, ``045Y``, ``6 months``, ``90+``, ``> 89 y``, ``60-69``."""

from __future__ import annotations

import math
import re

from medfm_compress.data.number_ranges import number_range
from medfm_compress.data.written_forms import normal_form

_OLDEST_YEARS = 125  # nobody on record was older than 122
_PER_YEAR = {"d": 365.25, "w": 365.25 / 7, "m": 12.0, "y": 1.0}
_UNIT = re.compile(
    r"(?<=[\d+])\s*(?:(d)(?:ays?)?|(w)(?:ks?|eeks?)?|(m)(?:o|os|on|ths?|onths?)?|(y)(?:rs?|ears?|o|/o)?)\b\.?(?: old)?"
)


def age_range(text: str) -> tuple[float, float]:
    """Least and greatest age in years that ``text`` says; infinite where it names no end, NaN where it is no age.

    Units are those of DICOM age strings (VR AS, PS3.5 6.2) and their English words; a number without one is of years.
    """
    if any(character.isnumeric() and not character.isdecimal() for character in text):  # raised digits, fractions
        return math.nan, math.nan
    form = re.sub(r"(?<=\d),(?=\d)", ".", normal_form(text))
    units = {next(filter(None, match.groups())) for match in _UNIT.finditer(form)}
    if len(units) > 1:
        return math.nan, math.nan
    low, high = number_range(_UNIT.sub("", form))
    per_year = _PER_YEAR[units.pop()] if units else 1.0
    return low / per_year, high / per_year


def is_possible(low: float, high: float) -> bool:
    """Whether a person can be so old; false for -1, 411, 999 and other stand-ins for no value, and for NaN."""
    return not math.isnan(low) and all(0 <= end <= _OLDEST_YEARS for end in (low, high) if math.isfinite(end))


def age_group(low: float, high: float) -> str:
    """``40-49`` for an age of 40 to below 50 years, else the range as it was meant: ``90+``, ``<18``, ``0-17``."""
    decade = int(max(low, 0)) // 10 * 10
    return f"{decade}-{decade + 9}" if high < decade + 10 else describe(low, high)


def describe(low: float, high: float) -> str:
    """A range of years in the way in which `number_range` reads it."""
    if math.isinf(high):
        return f"{low:g}+"
    if math.isinf(low):
        rounded = round(high, 9)  # what is below 18 ends a hair before it
        return f"<{rounded:g}" if high < rounded else f"<={rounded:g}"
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"
