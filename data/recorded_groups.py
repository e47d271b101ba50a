"""Which values of a subgroup column are recorded: words for no value and impossible ages make no group."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from medfm_compress.data.dicom_header import age_in_years, decade, is_age
from medfm_compress.data.missing_values import is_missing

_AGE_COLUMN = re.compile(r"(patient)?[ _-]*age([ _-]*(in[ _-]*)?(y|yr|yrs|years?))?", re.IGNORECASE)
_SHOWN = 4


def recorded(column: str, value: str) -> str:
    """The group that ``value`` stands for; empty where it says that nothing was recorded, or cannot be.

    A column ``age`` of plain numbers (years) or DICOM age strings (``045Y``) is read as decades.
    """
    if is_missing(value):
        return ""
    if not _AGE_COLUMN.fullmatch(column):
        return value
    years = _years(value)
    if years is None:
        return value
    if not is_age(years):
        return ""
    return decade(years) if column == "age" else value


def unrecorded_remarks(rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> tuple[str, ...]:
    """One sentence for each column in which filled cells count as not recorded, with their values and counts."""
    unrecorded: dict[str, Counter[str]] = {column: Counter() for column in columns}
    for row in rows:
        for column, counts in unrecorded.items():
            value = row.get(column, "")
            if value and not recorded(column, value):
                counts[value] += 1
    return tuple(
        f"{column!r} counts as not recorded for {counts.total()} image(s): {_values(counts)}; leave such cells empty, "
        "or give the value another name if it is meant"
        for column, counts in unrecorded.items()
        if counts
    )


def _values(counts: Counter[str]) -> str:
    shown = ", ".join(f"{value!r} ({count})" for value, count in counts.most_common(_SHOWN))
    return shown + (" …" if len(counts) > _SHOWN else "")


def _years(text: str) -> float | None:
    try:
        years = float(text)
    except ValueError:
        return age_in_years(text)
    return years if math.isfinite(years) else math.inf
