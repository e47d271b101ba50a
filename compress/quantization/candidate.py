"""`Candidate`: one way to run the network that was tried, and what became of it."""

from __future__ import annotations

import msgspec

from medfm_compress.bench.types.interval import Interval


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run the network that was tried.

    Attributes:
        target: ``backend:device:precision``.
        variant: name of the variant it would be.
        method: how it was made, e.g. ``int8-minmax``; ``fp32`` for what it would replace.
        p50_ms: median session latency here, of fresh processes where there is an interval; 0 where it never ran.
        speedup: p50 of FP32 on the same backend / its own, both timed in turns.
        speedup_interval: 95 % of that ratio, from one interleaved run of fresh processes over the finalists of all
            targets, what ships beside them, and FP32; None for what was ranked in one process only, and for FP32.
        relative_logit_error: against FP32 on validation cases.
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
    relative_logit_error: float = 0.0
    accuracy_drop: float = 0.0
    changed_decisions: float = 0.0
    size_bytes: int = 0
    pareto: bool = False
    kept: bool = False
    reason: str = ""
