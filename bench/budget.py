"""Hard limits on what a variant may cost: each gives one `Check`, from the measurements of one bench run.

A budget without its measurement is inconclusive, never passed. p99 needs `CALLS_FOR_P99` calls: with fewer it would be
the largest value seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from medfm_compress.bench.report import TEACHER
from medfm_compress.bench.types import Budget, Check, Measurement

CALLS_FOR_P99 = 100


class _Limit(NamedTuple):
    """One limit and what was found; ``missing`` says why nothing was."""

    name: str
    unit: str
    limit: float
    found: float
    missing: str = ""
    at_least: bool = False


def check_budget(budget: Budget, variant: str, measurements: Sequence[Measurement]) -> tuple[Check, ...]:
    """Checks of every limit that ``budget`` sets, for the measurement called ``variant``.

    The teacher, for the two ratios, is the measurement called ``teacher``.
    """
    own = next((found for found in measurements if found.name == variant), None)
    teacher = next((found for found in measurements if found.name == TEACHER), None)
    limits = [*_absolute(budget, own), *_relative(budget, own, teacher)]
    return tuple(_check(limit, variant) for limit in limits)


def _absolute(budget: Budget, own: Measurement | None) -> list[_Limit]:
    calls = len(own.session_ms) if own else 0
    limits = []
    for name, limit, quantile, needed in (
        ("p50 latency", budget.p50_ms, 0.5, 1),
        ("p99 latency", budget.p99_ms, 0.99, CALLS_FOR_P99),
    ):
        if limit is not None:
            found = own.quantile_ms(quantile) if own and calls >= needed else 0.0
            missing = f"{calls} timed calls, {needed} are needed" if own and calls < needed else ""
            limits.append(_Limit(name, " ms", limit, found, missing))
    for name, most, bytes_found in (
        ("size", budget.size_bytes, own.size_bytes if own else 0),
        ("peak memory", budget.peak_rss_bytes, own.peak_rss_bytes if own else 0),
    ):
        if most is not None:
            limits.append(_Limit(name, " MB", most / 1e6, bytes_found / 1e6))
    return limits


def _relative(budget: Budget, own: Measurement | None, teacher: Measurement | None) -> list[_Limit]:
    limits = []
    if budget.min_speedup is not None:
        missing = _incomparable(own, teacher)
        timed = own and teacher and not missing
        ratio = _ratio(teacher.quantile_ms(0.5), own.quantile_ms(0.5)) if own and teacher and timed else 0.0
        limits.append(_Limit("speed-up at p50", "×", budget.min_speedup, ratio, missing, at_least=True))
    if budget.min_compression is not None:
        ratio = _ratio(teacher.size_bytes, own.size_bytes) if own and teacher else 0.0
        missing = "" if teacher else "the teacher was not measured"
        limits.append(_Limit("compression", "×", budget.min_compression, ratio, missing, at_least=True))
    return limits


def _incomparable(own: Measurement | None, teacher: Measurement | None) -> str:
    """Why the two latencies cannot be divided; empty where they can or ``own`` is absent."""
    if teacher is None or not teacher.session_ms:
        return "the teacher was not measured"
    if own is None or not own.session_ms:
        return ""
    device, threads = (("device", 1), ("threads", -1))
    for what, position in (device, threads):
        mine, theirs = (target.split(":")[position] for target in (own.target, teacher.target))
        if mine != theirs:
            return f"{own.target} and the teacher's {teacher.target} differ in {what}"
    return ""


def _check(limit: _Limit, variant: str) -> Check:
    reason = limit.missing or ("" if limit.found > 0 and math.isfinite(limit.found) else f"{variant} was not measured")
    if reason:
        return Check(name=limit.name, outcome="inconclusive", reason=f"not known: {reason}")
    holds = limit.found >= limit.limit if limit.at_least else limit.found <= limit.limit
    bound = "at least" if limit.at_least else "at most"
    reason = f"{limit.found:.4g}{limit.unit}, {bound} {limit.limit:.4g}{limit.unit} is allowed"
    return Check(name=limit.name, outcome="pass" if holds else "fail", reason=reason)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else 0.0
