"""How near a variant's outputs are to its teacher's, case by case.

    relative logit error = ‖z_v − z‖_F / ‖z − z̄‖_F ,   z̄ the per-output mean over the cases

For labels that exclude each other each case's mean logit is subtracted first, since a softmax does not see it.
Agreement counts patients, not cases: one patient's cases are no independent evidence.
"""

from __future__ import annotations

import numpy as np

from medfm_compress.bench.evaluate.evaluate import number_clusters
from medfm_compress.bench.evaluate.paired_comparison import check_same_cases
from medfm_compress.bench.stats.wilson import wilson
from medfm_compress.bench.types.evaluation import Evaluation, Fidelity
from medfm_compress.bench.types.policy import FidelityLimits
from medfm_compress.bench.types.verdict import Check
from medfm_compress.runtime.bundle.manifest import Outcome
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.task import Task


def fidelity(teacher: Evaluation, variant: Evaluation, task: Task, level: float = 0.95) -> Fidelity:
    """Hold ``variant`` against ``teacher``; ``level`` is of the agreement's two-sided interval.

    Raises:
        InputError: the two were not evaluated on the same cases.
    """
    check_same_cases(teacher, variant)
    flipped = (teacher.decisions != variant.decisions).any(axis=1)
    patients = np.bincount(number_clusters(teacher.clusters), weights=flipped)
    return Fidelity(
        variant=variant.name,
        # Of maps each case's peaks stand in the table: a row a case, of which nothing is to be taken off.
        relative_logit_error=relative_logit_error(variant.logits, teacher.logits, None if task.is_dense else task),
        agreement=wilson(float((patients == 0).sum()), float(len(patients)), level),
        flipped_cases=int(flipped.sum()),
        cases=len(flipped),
        largest_change=float(np.abs(variant.scores - teacher.scores).max()),
    )


def check_fidelity(limits: FidelityLimits, fidelity: Fidelity | None) -> tuple[Check, ...]:
    """Checks of every limit that ``limits`` sets; without a `Fidelity` they are inconclusive."""
    checks = []
    if limits.max_relative_logit_error is not None:
        checks.append(_check_error(limits.max_relative_logit_error, fidelity))
    if limits.min_agreement is not None:
        checks.append(_check_agreement(limits.min_agreement, fidelity))
    return tuple(checks)


def _check_error(limit: float, fidelity: Fidelity | None) -> Check:
    name = "relative logit error"
    if fidelity is None:
        return Check(name=name, outcome="inconclusive", reason="not evaluated")
    outcome: Outcome = "pass" if fidelity.relative_logit_error <= limit else "fail"
    return Check(
        name=name, outcome=outcome, reason=f"{fidelity.relative_logit_error:.4g}, at most {limit:.4g} is allowed"
    )


def _check_agreement(limit: float, fidelity: Fidelity | None) -> Check:
    name = "agreement of decisions"
    if fidelity is None:
        return Check(name=name, outcome="inconclusive", reason="not evaluated")
    near = fidelity.agreement
    outcome: Outcome = "pass" if near.low >= limit else "fail" if near.high < limit else "inconclusive"
    reason = f"{near.estimate:.4f}, interval {near.low:.4f} to {near.high:.4f}, at least {limit:.4g} must be shown"
    return Check(name=name, outcome=outcome, reason=reason)
