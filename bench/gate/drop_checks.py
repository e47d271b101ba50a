"""The checks of a policy's ``robustness``: each comparison excludes its margin, or it does not.

As everywhere in the gate: **pass** where the interval excludes a loss beyond the teacher's of ``margin`` or more, each
at α; **fail** where the loss is significantly above the margin at α after Holm's adjustment over all of them;
**inconclusive** otherwise, and where a condition was not evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from medfm_compress.bench.evaluate.robustness import Asked
from medfm_compress.bench.stats.holm import holm
from medfm_compress.bench.types.metric import LOWER_IS_BETTER
from medfm_compress.bench.types.robustness import DropComparison
from medfm_compress.bench.types.verdict import Check

NOT_EVALUATED = "not evaluated on perturbed images; bench the bundle under this policy"


def check_drops(
    required: Sequence[Asked], variant: str, comparisons: Sequence[DropComparison], alpha: float
) -> list[Check]:
    """One check a required comparison of ``variant``."""
    found = {comparison.key: comparison for comparison in comparisons}
    judged = [comparison for comparison in comparisons if not comparison.too_few]
    adjusted = dict(zip((c.key for c in judged), holm([c.p_worse for c in judged]), strict=True)) if judged else {}
    return [
        _check(entry, found.get(entry.key(variant)), adjusted.get(entry.key(variant), 1.0), alpha) for entry in required
    ]


def _check(entry: Asked, comparison: DropComparison | None, p_worse: float, alpha: float) -> Check:
    if comparison is None:
        return Check(name=entry.name, outcome="inconclusive", reason=NOT_EVALUATED)
    if comparison.too_few:
        return Check(name=entry.name, outcome="inconclusive", reason=f"too few cases: {comparison.too_few}")
    interval = comparison.difference
    fits = comparison.margin == entry.margin and math.isclose(interval.level, 1 - 2 * alpha)
    if not fits or not all(map(math.isfinite, (interval.estimate, interval.low, interval.high))):
        reason = "the interval is not finite" if fits else "computed under another policy; compare again under this one"
        return Check(name=entry.name, outcome="inconclusive", reason=reason)
    figures = describe_drops(comparison)
    if comparison.largest_loss < entry.margin:
        return Check(name=entry.name, outcome="pass", reason=f"{figures}: a larger loss is ruled out")
    if p_worse <= alpha:
        return Check(name=entry.name, outcome="fail", reason=f"{figures}: it loses significantly more")
    return Check(name=entry.name, outcome="inconclusive", reason=f"{figures}: neither shown nor ruled out")


def describe_drops(comparison: DropComparison) -> str:
    """``teacher 0.9531 to 0.9322, bundle 0.9502 to 0.9210: 0.0083 more, 95% interval …, margin 0.02``."""
    more = comparison.difference.estimate * (1 if comparison.metric in LOWER_IS_BETTER else -1)
    interval = comparison.difference
    return (
        f"teacher {comparison.teacher[0]:.4f} to {comparison.teacher[1]:.4f}, bundle {comparison.bundle[0]:.4f} to "
        f"{comparison.bundle[1]:.4f}, {abs(more):.4f} {'more' if more >= 0 else 'less'} lost; difference "
        f"{interval.estimate:+.4f}, {100 * interval.level:.4g}% interval {interval.low:+.4f} to {interval.high:+.4f}, "
        f"margin {comparison.margin:.4g}"
    )
