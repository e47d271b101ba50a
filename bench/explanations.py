"""How far teacher and student look at the same places: agreement of their attribution maps on a sample of cases."""

from __future__ import annotations

import msgspec


class ExplanationAgreement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Agreement of two models' attribution maps, one value a case; 1 is identical.

    Attributes:
        variant: who is held against the teacher.
        finding: whose score was explained.
        method: of the maps, of teacher and variant, e.g. ``grad-cam / occlusion``.
        rank_correlation: Spearman's ρ over the pixels, in [-1, 1].
        overlap: share of the hottest tenth of the pixels that both have, in [0, 1].
        cases: position of each case in the report's tables.
    """

    variant: str
    finding: str
    method: str
    rank_correlation: tuple[float, ...]
    overlap: tuple[float, ...]
    cases: tuple[int, ...]
