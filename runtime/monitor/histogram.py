"""Counts in bins that nobody can be recognised in: every bin of a reference holds at least 10 cases, or none."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Annotated

import msgspec

from medfm_compress.runtime.errors import InputError

MAX_COUNT = 10**12
"""No device sees so many images."""
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
BINS = 10
MIN_COUNT = 10
_DIGITS = 3
_ROOM, _SMALLEST = 0.02, 1e-3


class Histogram(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Counts between edges.

    Attributes:
        edges: k - 1 rising values; bin i holds what is at least edge i - 1 and below edge i, the outer ones are open.
        counts: k of them.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        if not rising or not all(map(math.isfinite, self.edges)) or len(self.counts) != len(self.edges) + 1:
            raise InputError(f"{len(self.counts)} counts do not fit {len(self.edges)} edges, which must rise")
        if (
            any(count < MIN_COUNT and count != 0 for count in self.counts)
            or sum(self.counts) <= 0
            or len(self.counts) > BINS
        ):
            raise InputError(f"a histogram has at most {BINS} bins, each empty or of at least {MIN_COUNT} cases")

    def bin_of(self, value: float) -> int:
        """Number of the bin of ``value``."""
        return bisect_right(self.edges, value)


def summarise(values: Sequence[float]) -> Histogram:
    """About ten bins of about as many values each; where they hardly vary, one around all between two empty ones.

    Edges lie between two values and are rounded to three digits, so that none is anybody's own value.
    """
    ordered = sorted(values)
    aim = max(MIN_COUNT, math.ceil(len(ordered) / BINS))
    edges: list[float] = []  # each is given when the bin below it is full, and the rest fills another
    begun = 0
    for i in range(1, len(ordered)):
        edge = _rounded((ordered[i - 1] + ordered[i]) / 2)
        if i - begun >= aim and len(ordered) - i >= MIN_COUNT and ordered[i - 1] < edge <= ordered[i]:
            edges.append(edge)
            begun = i
    if not edges:
        room = _ROOM * max(abs(ordered[0]), abs(ordered[-1]), _SMALLEST)
        edges = [_rounded(ordered[0] - room), _rounded(ordered[-1] + room)]
    counts = [0] * (len(edges) + 1)
    for value in ordered:
        counts[bisect_right(edges, value)] += 1
    return Histogram(edges=tuple(edges), counts=tuple(counts))


def total_variation(counts: Sequence[int], reference: Sequence[int]) -> float:
    """½ Σ |p − q| of two rows of counts, in [0, 1]."""
    total, expected = sum(counts), sum(reference)
    return sum(abs(a / total - b / expected) for a, b in zip(counts, reference, strict=True)) / 2


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
