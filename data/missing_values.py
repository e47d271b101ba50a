"""Words that mean "not recorded" in tables that other programs wrote."""

from __future__ import annotations

_WORDS = frozenset({"", "nan", "na", "n/a", "n.a.", "<na>", "#n/a", "null", "<null>", "nil", "nat"})


def is_missing(value: str) -> bool:
    """Whether ``value`` is empty or stands for no value, such as pandas' ``nan`` or Python's ``None``.

    ``none`` in lower case is left alone: it is also a usual name for nothing found.
    """
    return value.strip().lower() in _WORDS or value.strip() == "None"
