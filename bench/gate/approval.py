"""What an approver may sign: a verdict of the bundle that follows from its report and policy, here and now."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medfm_compress.bench.gate.judge_report import JudgeRequest, judge_report
from medfm_compress.bench.gate.policy_file import LoadedPolicy
from medfm_compress.bench.report import MAX_REPORT_BYTES
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.trust.signature import Cited


def approve(bundle: Bundle, report: Path, policy: LoadedPolicy) -> Cited:
    """What to cite for the verdicts of ``bundle`` on the report at ``report`` under ``policy``, judged again.

    Raises:
        InputError: no verdict of the bundle cites them, one says something else, or the report cannot be judged.
    """
    data = read_regular(report, MAX_REPORT_BYTES, "report")
    cited = Cited(report_sha256=hashlib.sha256(data).hexdigest(), policy_sha256=policy.sha256)
    recorded = {
        verdict.variant: verdict.outcome
        for variant in bundle.manifest.variants
        if (verdict := bundle.verdict(variant.name))
        and (verdict.report_sha256, verdict.policy_sha256) == (cited.report_sha256, cited.policy_sha256)
    }
    if not recorded:
        raise InputError(
            f"no verdict of {bundle.path.name} cites report {cited.report_sha256[:12]} under policy "
            f"{cited.policy_sha256[:12]}; record it with 'medfm-compress gate {report} --policy … --bundle …'"
        )
    decision = judge_report(JudgeRequest(report, data, policy, bundle.path, accept_changed_policy=None))
    derived = {judged.variant: judged.outcome for judged in decision.verdict.variants}
    for variant, outcome in recorded.items():
        if derived.get(variant) != outcome:
            raise InputError(
                f"{bundle.path.name} says that {variant!r} is {outcome}, and judged again from {report} it is "
                f"{derived.get(variant, 'not in it')}; do not sign it, and ask who wrote this verdict"
            )
    return cited
