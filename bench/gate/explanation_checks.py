"""Do the variants look where the teacher looks? Limits on the agreement of their maps, as `explain` recorded it.

The figure is the median over the looked-at cases, of a patient with several their mean, so that the values are
independent. Its interval is that of order statistics (`stats.quantile_intervals`): whatever the distribution, and never
without width where too few were looked at. As of every such limit, it passes where the lower end reaches it, fails
where the whole interval lies below, and is inconclusive in between; without an agreement it is inconclusive.

A median is blind to a bad tail, so that the cases that agree least are named, whatever the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfm_compress.bench.evaluate.attribution_agreement import ExplanationAgreement
from medfm_compress.bench.stats.quantile_intervals import quantile_interval, values_needed
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.policy import ExplanationLimits
from medfm_compress.bench.types.verdict import Check
from medfm_compress.runtime.bundle.manifest import Outcome

CHECK_NAMES = {
    "min_rank_correlation": "rank correlation of heat maps",
    "min_overlap": "overlap of heat maps",
}
MISSING = (
    "no agreement of this variant's maps with this teacher's is in the report; run 'medfm-compress explain' with the "
    "same teacher, into the report's folder, then bench again"
)
_NAMED = 3


def check_explanations(
    limits: ExplanationLimits,
    variant: str,
    agreements: Sequence[ExplanationAgreement],
    clusters: Sequence[int],
    alpha: float,
) -> tuple[Check, ...]:
    """Checks of every limit that ``limits`` sets; inconclusive where no agreement of ``variant`` was recorded.

    Args:
        limits: of the policy.
        variant: that is judged.
        agreements: of the report.
        clusters: patient of each case of the report's tables, by number.
        alpha: one-sided.
    """
    asked = [(name, limit) for name in CHECK_NAMES if (limit := getattr(limits, name)) is not None]
    rows = [row for row in agreements if row.variant == variant and max(row.cases) < len(clusters)]
    if not rows:
        return tuple(Check(name=CHECK_NAMES[name], outcome="inconclusive", reason=MISSING) for name, _ in asked)
    return tuple(_check(name, limit, row, clusters, alpha) for name, limit in asked for row in rows)


def median_agreement(
    row: ExplanationAgreement, values: Sequence[float], clusters: Sequence[int], alpha: float
) -> Interval | None:
    """The median of ``values``, one a case of ``row``, over patients; None where these are too few for an interval."""
    _, patients = np.unique(np.array(clusters)[list(row.cases)], return_inverse=True)
    means = np.bincount(patients, weights=values) / np.bincount(patients)
    return quantile_interval(means.tolist(), 0.5, 1 - 2 * alpha)


def values_of(row: ExplanationAgreement, limit: str) -> tuple[float, ...]:
    """The values that ``limit``, a field of `ExplanationLimits`, is held against."""
    return row.overlap if limit == "min_overlap" else row.rank_correlation


def _check(name: str, limit: float, row: ExplanationAgreement, clusters: Sequence[int], alpha: float) -> Check:
    values = values_of(row, name)
    found = median_agreement(row, values, clusters, alpha)
    least = f"lowest: {_lowest(row, values)}"
    if found is None:
        needed = values_needed(0.5, 1 - 2 * alpha)
        reason = f"{len(row.cases)} cases were looked at, {needed} patients are needed for an interval; {least}"
        return Check(name=CHECK_NAMES[name], outcome="inconclusive", reason=reason)
    outcome: Outcome = "pass" if found.low >= limit else "fail" if found.high < limit else "inconclusive"
    reason = (
        f"median {found.estimate:.3f}, interval {found.low:.3f} to {found.high:.3f}, at least {limit:.4g} must be "
        f"shown ({row.finding}, {row.method}, {len(row.cases)} cases); {least}"
    )
    if outcome == "inconclusive":
        reason += "; look at more cases (explain --cases)"
    return Check(name=CHECK_NAMES[name], outcome=outcome, reason=reason)


def _lowest(row: ExplanationAgreement, values: Sequence[float]) -> str:
    order = np.argsort(values, kind="stable")[:_NAMED].tolist()
    return ", ".join(f"case {row.cases[number] + 1} ({values[number]:.2f})" for number in order)
