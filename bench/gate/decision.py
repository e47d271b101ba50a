"""A verdict with what it rests on, for everything that tells people of it: terminal, Markdown, SARIF."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import msgspec

from medfm_compress.bench.evaluate.fidelity import check_fidelity
from medfm_compress.bench.evaluate.robustness import asked
from medfm_compress.bench.gate.baseline_report import BaselineComparison
from medfm_compress.bench.gate.budget import check_budget
from medfm_compress.bench.gate.explanation_checks import CHECK_NAMES
from medfm_compress.bench.gate.gate import Evidence
from medfm_compress.bench.gate.margin_checks import Required
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.bench.types.policy import Budget, FidelityLimits, Policy
from medfm_compress.bench.types.verdict import Check, Verdict

PolicyKey = tuple[str | int, ...]


class Decision(NamedTuple):
    """One answer of the gate.

    Attributes:
        verdict: the answer.
        evidence: what was judged.
        policy: by which.
        report: where the evidence came from.
        earlier: an earlier report beside it, where one was given.
    """

    verdict: Verdict
    evidence: Evidence
    policy: Policy
    report: Report
    earlier: BaselineComparison | None = None

    def comparison(self, variant: str, check: Check) -> Comparison | None:
        """What ``check`` of ``variant`` judged; none for a floor, a limit, or what could not be compared."""
        comparisons = {_key(comparison): comparison for comparison in self.evidence.comparisons}
        for requirement in required_comparisons(self):
            if requirement.name == check.name:
                comparison = comparisons.get(requirement.key(variant))
                return None if comparison is None or comparison.too_few else comparison
        return None


def reuse_warnings(report: Report) -> tuple[str, ...]:
    """What must be said where the same cases were evaluated before: each look makes a pass by chance likelier."""
    logged = report.test_set_evaluations
    models, policies = {entry.model_digest for entry in logged}, {entry.policy_sha256 for entry in logged}
    if len(models) < 2 and len(policies) < 2:
        return ()
    return (
        f"these cases were evaluated {len(logged)} times (different models: {len(models)}, different policies: "
        f"{len(policies)}): the more often, the less a pass on them says",
    )


def policy_keys(decision: Decision) -> dict[str, PolicyKey]:
    """Name of each check that the policy can make → where the policy asks for it, e.g. ``("budget", "p50_ms")``."""
    keys: dict[str, PolicyKey] = {}
    for requirement in required_comparisons(decision):
        number = decision.policy.non_inferiority.index(requirement.entry)
        keys[requirement.name] = ("non_inferiority", number)
        for bound, whose in product(("floor", "ceiling"), ("teacher", "bundle")):
            keys[f"{requirement.name}, {bound} of the {whose}"] = ("non_inferiority", number, f"{whose}_floor")
    for number, wanted in enumerate(decision.policy.robustness):
        alone = msgspec.structs.replace(decision.policy, robustness=(wanted,))
        keys |= {drop.name: ("robustness", number) for drop in asked(alone, decision.evidence.findings_alone)}
    # What a limit is called is asked of the module that checks it.
    for limit in Budget.__struct_fields__:
        for check in check_budget(msgspec.structs.replace(Budget(), **{limit: 1}), "", ()):
            keys[check.name] = ("budget", limit)
    for limit in FidelityLimits.__struct_fields__:
        for check in check_fidelity(msgspec.structs.replace(FidelityLimits(), **{limit: 1.0}), None):
            keys[check.name] = ("fidelity", limit)
    keys |= {name: ("explanations", limit) for limit, name in CHECK_NAMES.items()}
    return keys


def required_comparisons(decision: Decision) -> list[Required]:
    """The policy's entries, each spelt out for one finding and one population."""
    policy, evidence = decision.policy, decision.evidence
    return [
        Required(entry, finding, population)
        for entry in policy.non_inferiority
        for population in evidence.populations
        if population.column == entry.subgroup
        for finding in evidence.findings
        if policy.requirement(entry.metric, finding, entry.subgroup) is entry
    ]


def _key(comparison: Comparison) -> tuple[str, str, str, str]:
    return (comparison.variant, comparison.metric, comparison.finding, comparison.subgroup)
