"""Which values of a subgroup column are recorded: words for no value and impossible ages make no group."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from medfm_compress.data.ages import age_group, age_range, describe, is_possible
from medfm_compress.data.missing_values import is_missing, is_no_label
from medfm_compress.runtime.written_numbers import is_number

_AGE_COLUMN = re.compile(r"(patient)?[ _-]*age([ _-]*(in[ _-]*)?(y|yr|yrs|years?))?", re.IGNORECASE)
_SHOWN = 4


def is_age(column: str) -> bool:
    """Whether a column of this name is read as ages: ``age``, ``Patient Age``, ``age_years``."""
    return bool(_AGE_COLUMN.fullmatch(column))


def recorded(column: str, value: str) -> str:
    """The group that ``value`` stands for; empty where it says that nothing was recorded, or cannot be.

    A column ``age`` is read as decades, and as ``90+`` or ``<18`` where it names no other end; see `age_range`. What is
    no age, such as ``elderly``, stays as it is.
    """
    if is_missing(value):
        return ""
    if not is_age(column):
        return value
    low, high = age_range(value)
    if math.isnan(low):
        return "" if is_number(value) else value
    if not is_possible(low, high):
        return ""
    return age_group(low, high) if column == "age" else describe(low, high)


def unrecorded_remarks(rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> tuple[str, ...]:
    """One sentence for each column in which filled cells count as not recorded or are no age, with their values."""
    unrecorded: dict[str, Counter[str]] = {column: Counter() for column in columns}
    no_age: dict[str, Counter[str]] = {column: Counter() for column in columns if is_age(column)}
    for row in rows:
        for column, counts in unrecorded.items():
            value = row.get(column, "")
            if value and not recorded(column, value):
                counts[value] += 1
            elif value and column in no_age and not is_no_label(value) and math.isnan(age_range(value)[0]):
                no_age[column][value] += 1
    misread = tuple(
        f"{column!r} is no age for {counts.total()} image(s): {_values(counts)}; a policy's cuts put them into no "
        "group, so write such ages as 57, 045Y, 6 months, 60-69, 90+ or <1"
        for column, counts in no_age.items()
        if counts
    )
    return misread + tuple(
        f"{column!r} counts as not recorded for {counts.total()} image(s): {_values(counts)}; leave such cells empty, "
        "or give the value another name if it is meant"
        for column, counts in unrecorded.items()
        if counts
    )


def _values(counts: Counter[str]) -> str:
    shown = ", ".join(f"{value!r} ({count})" for value, count in counts.most_common(_SHOWN))
    return shown + (" …" if len(counts) > _SHOWN else "")
