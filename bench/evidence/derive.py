"""From report, policy and manifest to the verdict and the documents: what writing and verifying a pack share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from medfm_compress.bench.evidence.change_report import change_report
from medfm_compress.bench.evidence.control_plan import control_plan
from medfm_compress.bench.evidence.figures import differing_figures
from medfm_compress.bench.evidence.model_card import model_card
from medfm_compress.bench.evidence.pack_file import (
    BASELINE_MANIFEST,
    BASELINE_REPORT,
    CARD,
    CHANGE,
    LIMITS,
    MANIFEST,
    PLAN,
    POLICY,
    REPORT,
    VERDICT,
    Environment,
)
from medfm_compress.bench.gate.decision import Decision, reuse_warnings
from medfm_compress.bench.gate.gate import judge_evidence, recompute, recorded_evidence
from medfm_compress.bench.gate.policy_file import LoadedPolicy, parse_policy
from medfm_compress.bench.report import Report, parse_report
from medfm_compress.bench.types.verdict import Verdict
from medfm_compress.runtime.bundle.bundle import contradiction, model_digest
from medfm_compress.runtime.bundle.manifest import Manifest
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import decode, encode


class Derived(NamedTuple):
    """What follows from the sources of a pack.

    Attributes:
        decision: the verdict from the figures as recorded, which were found to follow from the scores.
        manifest: of the bundle.
        documents: member → content.
    """

    decision: Decision
    manifest: Manifest
    documents: dict[str, bytes]


def derive(sources: Mapping[str, bytes]) -> Derived:
    """Everything that follows from ``sources``: report, policy, manifest, and where there are, limits and a baseline.

    Raises:
        InputError: a source is damaged, they are not of one another, or a figure does not follow.
    """
    report, manifest = parse_report(sources[REPORT], source=REPORT), read_manifest(sources[MANIFEST], MANIFEST)
    policy = _policy(sources[POLICY], report)
    cited = (hashlib.sha256(sources[REPORT]).hexdigest(), policy.sha256)
    _check_one_bundle(report, manifest, cited)
    decision = decide(report, policy)
    _check_recorded(decision.verdict, manifest, cited)
    return Derived(decision, manifest, _documents(decision, manifest, sources))


def decide(report: Report, policy: LoadedPolicy) -> Decision:
    """The verdict on ``report``, from its scores and from its figures, which must agree; raises InputError."""
    for figure in differing_figures(report):
        raise InputError(
            f"{REPORT} contradicts itself: {figure}; it was edited, or other statistics made it: bench again"
        )
    notes = reuse_warnings(report)
    evidence = recorded_evidence(report)
    verdict = judge_evidence(evidence, policy.policy, policy_sha256=policy.sha256, notes=notes)
    again = judge_evidence(recompute(report, policy.policy), policy.policy, policy_sha256=policy.sha256, notes=notes)
    if outcomes(again) != outcomes(verdict):
        raise InputError(f"{REPORT} contradicts itself: its figures and its scores give different verdicts")
    return Decision(verdict, evidence, policy.policy, report)


def outcomes(verdict: Verdict) -> dict[tuple[str, str], str]:
    """(variant, check) → outcome, with the whole under ("", "")."""
    checks = {(judged.variant, c.name): str(c.outcome) for judged in verdict.variants for c in judged.checks}
    variants = {(judged.variant, ""): str(judged.outcome) for judged in verdict.variants}
    return {("", ""): str(verdict.outcome), **variants, **checks}


def read_manifest(raw: bytes, source: str) -> Manifest:
    """A bundle's manifest on its own; raises InputError where it contradicts itself."""
    manifest = decode(raw, Manifest, source=source)
    reason = contradiction(manifest)
    if not reason and model_digest(msgspec.json.decode(raw)) != manifest.model_digest:
        reason = "its model digest does not match it"
    if reason:
        raise InputError(f"{source}: {reason}")
    return manifest


def all_libraries(manifest: Manifest, environment: Environment) -> dict[str, str]:
    """Name → version of what made the bundle, measured it and packed it; of a name in several, the last."""
    machines = (environment.measured_on, environment.packed_on)
    return dict(manifest.provenance.libraries) | {n: v for machine in machines for n, v in machine.libraries.items()}


def _policy(content: bytes, report: Report) -> LoadedPolicy:
    policy = parse_policy(content, source=POLICY)
    if policy.sha256 != report.policy_sha256:
        raise InputError(
            f"{POLICY} (sha256 {policy.sha256[:12]}) is not the policy that the report was made under "
            f"({report.policy_sha256[:12]})"
        )
    if policy.policy != report.policy:
        raise InputError(f"the policy that {REPORT} repeats is not that of {POLICY}")
    return policy


def _check_one_bundle(report: Report, manifest: Manifest, cited: tuple[str, str]) -> None:
    if report.model_digest != manifest.model_digest:
        raise InputError(
            f"{REPORT} is of model {report.model_digest[:12]}, the bundle's manifest of {manifest.model_digest[:12]}"
        )
    if cited not in {(verdict.report_sha256, verdict.policy_sha256) for verdict in manifest.verdicts}:
        raise InputError(
            f"no verdict in the bundle's manifest cites this report ({cited[0][:12]}) under this policy "
            f"({cited[1][:12]}); 'medfm-compress gate' records it with --bundle"
        )


def _check_recorded(verdict: Verdict, manifest: Manifest, cited: tuple[str, str]) -> None:
    """Hold the manifest's verdicts that cite this report and policy against the derived one; others are of others."""
    derived = {judged.variant: judged.outcome for judged in verdict.variants}
    for stored in manifest.verdicts:
        if (stored.report_sha256, stored.policy_sha256) != cited:
            continue
        if stored.model_digest != manifest.model_digest or derived.get(stored.variant) != stored.outcome:
            raise InputError(
                f"the bundle's manifest says that {stored.variant!r} of model {stored.model_digest[:12]} is "
                f"{stored.outcome}, and it is {derived.get(stored.variant, 'not in the report')} of model "
                f"{manifest.model_digest[:12]}"
            )


def _documents(decision: Decision, manifest: Manifest, sources: Mapping[str, bytes]) -> dict[str, bytes]:
    limits = sources.get(LIMITS, b"").decode("utf-8", "replace")
    baseline = sources.get(BASELINE_REPORT)
    documents = {
        VERDICT: encode(decision.verdict),
        CARD: model_card(decision, manifest, limits).encode(),
        PLAN: control_plan(decision, manifest, sources[POLICY], baseline is not None).encode(),
    }
    if baseline is not None:
        earlier = parse_report(baseline, source=BASELINE_REPORT)
        before = read_manifest(sources[BASELINE_MANIFEST], BASELINE_MANIFEST)
        if earlier.model_digest != before.model_digest:
            raise InputError("the baseline's report is not of the baseline bundle; give the two that belong together")
        documents[CHANGE] = change_report(decision, manifest, earlier, before).encode()
    return documents
