"""An earlier report beside this one, for information: nothing of it is judged.

Only estimates on the same cases are held against each other. Stored timings of two runs are shown where one machine
made both, and decide nothing even there: ``bench --baseline-bundle`` runs both bundles again, in interleaved pairs.
"""

from __future__ import annotations

from typing import NamedTuple

from medfm_compress.bench.gate.gate import Evidence, recompute
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.bench.types.policy import Policy
from medfm_compress.runtime.errors import InputError

ANOTHER_MACHINE = "not compared: measured on another machine; re-run with bench --baseline-bundle"


class Change(NamedTuple):
    """One figure of one variant, then and now; medians in ms, or estimates in the metric's unit."""

    variant: str
    name: str
    before: float
    now: float


class BaselineComparison(NamedTuple):
    """What changed since an earlier report.

    Attributes:
        created: when the earlier report was made.
        model_digest: of the earlier bundle.
        estimates: of every comparison that the policy requires, the bundle's own value.
        medians_ms: session latency at p50; empty where ``untimed`` says why.
        untimed: why timings are not shown; empty where they are.
    """

    created: str
    model_digest: str
    estimates: tuple[Change, ...]
    medians_ms: tuple[Change, ...]
    untimed: str


def compare_to_baseline(report: Report, evidence: Evidence, earlier: Report, policy: Policy) -> BaselineComparison:
    """Hold ``evidence`` of ``report`` beside ``earlier``, whose comparisons are computed again under ``policy``.

    Raises:
        InputError: the two reports are of different cases.
    """
    _check_same_cases(report, earlier)
    then = {_key(comparison): comparison for comparison in recompute(earlier, policy).comparisons}
    same_machine = report.machine.fingerprint == earlier.machine.fingerprint
    return BaselineComparison(
        created=earlier.created,
        model_digest=earlier.model_digest,
        estimates=tuple(
            Change(
                comparison.variant,
                _name(comparison),
                then[_key(comparison)].bundle.estimate,
                comparison.bundle.estimate,
            )
            for comparison in evidence.comparisons
            if comparison.margin is not None and _key(comparison) in then
        ),
        medians_ms=_medians(report, earlier) if same_machine else (),
        untimed="" if same_machine else ANOTHER_MACHINE,
    )


def _check_same_cases(report: Report, earlier: Report) -> None:
    for what, now, before in (
        ("study", report.study_fingerprint, earlier.study_fingerprint),
        ("split", report.split, earlier.split),
        ("cases", report.teacher.cases_sha256, earlier.teacher.cases_sha256),
    ):
        if now != before:
            raise InputError(
                f"the baseline report has another {what} ({before[:12]!r}, this report {now[:12]!r}), and figures on "
                "different cases cannot be compared; give a report on the same study and split, or leave "
                "--baseline-report out"
            )


def _medians(report: Report, earlier: Report) -> tuple[Change, ...]:
    pairs = [(name, earlier.measurement(name), report.measurement(name)) for name in report.variants]
    return tuple(
        Change(name, "p50 latency", before.quantile_ms(0.5), now.quantile_ms(0.5))
        for name, before, now in pairs
        if before and now and before.session_ms and now.session_ms
    )


def _name(comparison: Comparison) -> str:
    name = (
        f"{comparison.metric} of {comparison.finding}" if comparison.finding else f"{comparison.metric} over all labels"
    )
    return f"{name}, {comparison.subgroup}" if comparison.subgroup else name


def _key(comparison: Comparison) -> tuple[str, str, str, str]:
    return (comparison.variant, comparison.metric, comparison.finding, comparison.subgroup)
