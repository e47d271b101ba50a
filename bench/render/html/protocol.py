"""Modification protocol: what was required beforehand, how it is judged, and how often the cases had been looked at."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from medfm_compress.bench.evaluate.test_set_log import LoggedEvaluation
from medfm_compress.bench.render.format import METRIC_NAMES, counted, megabytes, milliseconds
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.policy import Budget, ExplanationLimits, FidelityLimits, SubgroupRule

_MOST_EVALUATIONS = 12
_DEGREES = re.compile(r", t\(\d+\)")  # of freedom, which differ by row
_FLOOR = (
    "Such an interval allows for a loss in patients of a kind that happens to be missing among these cases, so it is "
    "wider than the cases alone would make it; AUPRC's most of all, which a few unseen patients can lower much."
)


class ProtocolView(NamedTuple):
    """Policy and statistics in words, and the log of evaluations of this split.

    Attributes:
        limits: of the policy, beside the required metrics.
        statistics: how it is judged.
        reuse: how often this split was evaluated.
        evaluations: how often, as a number.
        latest: the last of them.
    """

    limits: dict[str, str]
    statistics: dict[str, str]
    reuse: str
    evaluations: int
    latest: tuple[LoggedEvaluation, ...]


def protocol_view(report: Report) -> ProtocolView:
    """Policy, statistics, evaluations of the test split."""
    logged = report.test_set_evaluations
    return ProtocolView(
        _limits(report), _statistics(report), reuse_sentence(report), len(logged), logged[-_MOST_EVALUATIONS:]
    )


def reuse_sentence(report: Report) -> str:
    """How often this split has been looked at, plainly."""
    logged = report.test_set_evaluations
    if not logged:
        return "No log of evaluations is part of this report: how often this split has been looked at is not known."
    times = "once, for this report" if len(logged) == 1 else f"{len(logged)} times, this report included"
    scope = " That is what the log in this report's folder knows; looks that were logged elsewhere are not in it."
    models, policies = {entry.model_digest for entry in logged}, {entry.policy_sha256 for entry in logged}
    which = ""
    if len(logged) > 1:
        which = f" It saw {counted(len(models), 'model')} under {counted(len(policies), 'policy', 'policies')}."
    return f"This {report.split} split has been looked at {times}.{which}{scope}"


def _limits(report: Report) -> dict[str, str]:
    policy = report.policy
    return {
        "Cost": "; ".join(_budget(policy.budget)) or "no limit",
        "Case by case": "; ".join(_fidelity(policy.fidelity)) or "no limit",
        "Heat maps": "; ".join(_explanations(policy.explanations)) or "no limit",
        "Groups of patients": "; ".join(_rule(rule) for rule in policy.subgroups) or "none declared",
        "Least number of patients": f"{policy.min_positives} with the finding, {policy.min_negatives} without, "
        f"{policy.min_clusters} in all; fewer are inconclusive before any interval is computed",
    }


def _budget(budget: Budget) -> Iterator[str]:
    lines: tuple[tuple[str, float | None, Callable[[float], str]], ...] = (
        ("median at most {} ms", budget.p50_ms, milliseconds),
        ("99th percentile at most {} ms", budget.p99_ms, milliseconds),
        ("file to finding, median at most {} ms", budget.end_to_end_p50_ms, milliseconds),
        ("file to finding, 99th percentile at most {} ms", budget.end_to_end_p99_ms, milliseconds),
        ("first prediction after at most {} ms", budget.first_prediction_ms, milliseconds),
        ("at most {} on disk", budget.size_bytes, megabytes),
        ("at most {} of memory", budget.peak_rss_bytes, megabytes),
        ("at most {} of GPU memory", budget.peak_gpu_bytes, megabytes),
        ("at most {} mJ a call", budget.energy_mj, "{:g}".format),
        ("at most {}× as slow as the bundle before", budget.max_slowdown, "{:g}".format),
        ("at least {}× as fast as the teacher", budget.min_speedup, "{:g}".format),
        ("at least {}× smaller than the teacher", budget.min_compression, "{:g}".format),
    )
    return (words.format(write(value)) for words, value, write in lines if value is not None)


def _fidelity(limits: FidelityLimits) -> Iterator[str]:
    if limits.max_relative_logit_error is not None:
        yield f"relative logit error at most {limits.max_relative_logit_error:g}"
    if limits.min_agreement is not None:
        yield f"agreement of decisions at least {100 * limits.min_agreement:g}%"


def _explanations(limits: ExplanationLimits) -> Iterator[str]:
    if limits.min_rank_correlation is not None:
        yield f"median rank correlation with the teacher's at least {limits.min_rank_correlation:g}"
    if limits.min_overlap is not None:
        yield f"median overlap with the teacher's at least {limits.min_overlap:g}"


def _rule(rule: SubgroupRule) -> str:
    cuts = f", cut at {', '.join(f'{cut:g}' for cut in rule.cuts)}" if rule.cuts else ""
    small = "named only" if rule.when_too_few == "named" else "inconclusive"
    return f"{rule.column}{cuts} (a group that is too small: {small})"


def _statistics(report: Report) -> dict[str, str]:
    policy, used = report.policy, _interval_methods(report)
    return {
        "Difference": "Bundle minus teacher on the same cases, paired; patients, not images, are the independent unit.",
        "Pass": f"The {100 * (1 - 2 * policy.alpha):g}% interval of every required difference excludes its margin "
        f"(one-sided α = {policy.alpha:g} each; since all must hold, no correction is needed), and every limit holds.",
        "Fail": "A limit is broken, or a difference is significantly beyond its margin after Holm's correction.",
        "Inconclusive": "Everything else. It is not a pass.",
        "Intervals": f"{used}; {policy.resamples:,} resamples where a bootstrap is used, seed {policy.seed}"
        if used
        else "",
        "No shorter than the score's": _FLOOR if "no shorter than the score's" in used else "",
        "Teacher": f"Decides {report.teacher_decides}." if report.teacher_decides else "",
        "Inference": "Each case on its own (batch 1), in the engine and precision that the variant ships with.",
    }


def _interval_methods(report: Report) -> str:
    """``DeLong (AUROC); bootstrap (Sensitivity, F1 score)``."""
    methods: dict[str, dict[str, None]] = {}
    for comparison in report.comparisons:
        if not comparison.too_few and comparison.difference.method:
            method = _DEGREES.sub("", comparison.difference.method)
            methods.setdefault(method, {})[METRIC_NAMES[comparison.metric]] = None
    return "; ".join(f"{method} ({', '.join(names)})" for method, names in methods.items())
