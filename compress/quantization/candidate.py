"""`Candidate`: one way to run the network that was tried, and what became of it."""

from __future__ import annotations

import math

import msgspec

from medfm_compress.bench.types.interval import Interval
from medfm_compress.compress.quantization.candidate_trial import REFERENCE


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run the network that was tried.

    Attributes:
        target: ``backend:device:precision``.
        variant: name of the variant it would be.
        method: how it was made, e.g. ``int8-minmax``; ``fp32`` for what it would replace on a CPU.
        p50_ms: median session latency here, of fresh processes where there is an interval; without one, where others
            have one, that of FP32 over ``speedup``; 0 where it never ran.
        speedup: p50 of FP32 on the same backend / its own, both timed in turns.
        speedup_interval: 95 % of that ratio, from one interleaved run of fresh processes over the finalists of all
            targets, what ships beside them, and FP32; None for what was ranked in one process only, and for FP32.
        relative_logit_error: against FP32 on validation cases; NaN where the two were not compared.
        accuracy_drop: largest fall of a finding's AUROC, or of a structure's mean Dice, on the labelled ones among
            them; 0 where they cannot tell.
        changed_decisions: share of decisions on validation cases that differ from those of FP32 (see `fidelity`).
        size_bytes: of its files.
        pareto: no other candidate of this run that could run is both faster and more faithful.
        kept: it is in the new bundle.
        reason: why, or why not.
    """

    target: str
    variant: str
    method: str
    p50_ms: float = 0.0
    speedup: float = 0.0
    speedup_interval: Interval | None = None
    relative_logit_error: float = math.nan
    accuracy_drop: float = 0.0
    changed_decisions: float = 0.0
    size_bytes: int = 0
    pareto: bool = False
    kept: bool = False
    reason: str = ""

    @property
    def is_reference(self) -> bool:
        """It is what the others of its target would replace, and no candidate."""
        return self.method == REFERENCE and self.target.split(":")[1] == "cpu"

    @property
    def is_timed(self) -> bool:
        """It ran on an engine here."""
        return self.p50_ms > 0

    @property
    def is_judged(self) -> bool:
        """Its logits were compared with those of FP32, which of a variant for a GPU needs no engine here."""
        return not math.isnan(self.relative_logit_error)
