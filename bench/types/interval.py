"""`Interval`: a point estimate and how far the truth may be from it."""

from __future__ import annotations

import msgspec


class Interval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A point estimate with a two-sided interval; ``standard_error`` where the method gives one."""

    estimate: float
    low: float
    high: float
    level: float = 0.95
    method: str = ""
    standard_error: float | None = None
