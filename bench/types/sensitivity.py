"""What each group of channels, heads or blocks of a network costs in accuracy as more of it is removed.

    e(g, f) = |z' - z|_F / |z - mean z|_F

is the relative logit error with the fraction f of group g removed and all else kept, over cases and outputs: 0 is the
same answer, 1 is as far off as one answer for all cases. Groups are ranked by the error at the measured width nearest
to half. Aggregates only, nothing of a case or a patient.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from medfm_compress.runtime.errors import InputError


class SensitivityPoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One width that was tried, with everything else whole.

    Attributes:
        kept: how many of the group stay, 0 for a dropped block.
        error: relative logit error, >= 0.
        score: in [0, 1], or None where it was not measured.
        removed_ms: what it saves on the target, milliseconds an image, or None where it is not known.
    """

    kept: int
    error: float
    score: float | None = None
    removed_ms: float | None = None


class SensitivityCurve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group at every width that was tried.

    Attributes:
        name: of the group.
        kind: what it consists of.
        width: how many there are.
        points: at least one, ``kept`` below ``width`` and no two alike.
        chosen: how many stay in the allocation that was chosen, ``width`` where the group stays whole.
    """

    name: str
    kind: Literal["channels", "heads", "embedding", "block"]
    width: int
    points: tuple[SensitivityPoint, ...]
    chosen: int

    def __post_init__(self) -> None:
        kept = [point.kept for point in self.points]
        if not kept or len(set(kept)) < len(kept) or not all(0 <= width < self.width for width in kept):
            raise InputError(f"{self.name}: widths {kept} were tried; give different ones from 0 to {self.width - 1}")
        if not 0 <= self.chosen <= self.width:
            raise InputError(f"{self.name}: {self.chosen} were chosen; it must be 0 to {self.width}")
        for point in self.points:
            if not (math.isfinite(point.error) and point.error >= 0):
                raise InputError(f"{self.name}: the error with {point.kept} kept is {point.error}; it must be >= 0")

    @property
    def half(self) -> SensitivityPoint:
        """The point nearest to half of the width, the narrower one of two."""
        return min(self.points, key=lambda point: (abs(2 * point.kept - self.width), point.kept))

    def removed(self, kept: int) -> float:
        """Fraction that is gone where ``kept`` stay."""
        return 1 - kept / self.width

    def at(self, kept: int) -> SensitivityPoint | None:
        """The point at this width, None where it was not tried."""
        return next((point for point in self.points if point.kept == kept), None)


class SensitivityReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All groups of a model.

    Attributes:
        model: its name.
        target: whose milliseconds they are, ``openvino:cpu:int8:2``, or empty.
        metric: what accuracy means here and on which split, a sentence.
        cases: how many were used.
        curves: in the order of the network.
        allocation: how the chosen widths were found, a sentence; empty where none were chosen.
        score: of the whole model, None where it was not measured.
        score_name: what the score is, in words.
        cost: unit of the next two, ``ms``, ``MACs`` or ``bytes``; empty where there is none.
        cost_before: of the whole model.
        cost_after: with the chosen widths.
    """

    model: str
    target: str
    metric: str
    cases: int
    curves: tuple[SensitivityCurve, ...]
    allocation: str = ""
    score: float | None = None
    score_name: str = "AUROC"
    cost: str = ""
    cost_before: float = 0.0
    cost_after: float = 0.0

    def __post_init__(self) -> None:
        if not self.curves:
            raise InputError("a sensitivity report needs at least one group; this network has nothing to prune")

    def ranked(self) -> list[SensitivityCurve]:
        """Groups, those that hurt most first."""
        return sorted(self.curves, key=lambda curve: -curve.half.error)
