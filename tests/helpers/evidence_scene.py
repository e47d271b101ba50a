"""A judged bundle whose report says nothing but what follows from its scores, and packs of it, honest and forged."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
from signing import Signer
from tiny_report import VARIANT, evaluation, write_report

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.fidelity import fidelity
from medfm_compress.bench.evaluate.paired_comparison import compare
from medfm_compress.bench.evaluate.robustness import PerturbedTables, compare_drops
from medfm_compress.bench.evidence.pack import PackRequest, pack_evidence
from medfm_compress.bench.gate.judge_report import JudgeRequest, judge_report, record_verdicts
from medfm_compress.bench.gate.policy_file import load_policy
from medfm_compress.bench.measure.speedup import speedup
from medfm_compress.bench.report import Report, Speedup, save_report
from medfm_compress.bench.types.measurement import Measurement

POLICY = """\
non_inferiority:
  - {metric: auroc, margin: 0.05}
  - {metric: sensitivity, margin: 0.2, subgroup: sex}
subgroups: [{column: sex}]
robustness: [{metric: auroc, margin: 0.2, perturbations: [blur], severities: [1]}]
budget: {p50_ms: 20}
resamples: 1000
"""
BUILDER, APPROVER = Signer.make("Build", "builder"), Signer.make("Chief", "approver")


def judged_bundle(tiny: Any, folder: Path, noise: float = 0.2, **options: Any) -> PackRequest:
    """Write bundle, policy and report, and record the verdict; what a pack of them asks for."""
    folder.mkdir(exist_ok=True)
    bundle = tiny.bundle(folder / "b.medfm", outcome=None, **options)
    (folder / "policy.yaml").write_text(POLICY)
    report = honest(write_report(tiny, folder, noise=noise), noise)
    save_report(report, folder / "report.json")
    data, policy = (folder / "report.json").read_bytes(), load_policy(folder / "policy.yaml")
    decision = judge_report(JudgeRequest(folder / "report.json", data, policy, bundle))
    record_verdicts(decision, data, bundle, bundle)
    return PackRequest(bundle, folder / "report.json", folder / "policy.yaml", salt=b"s" * 32)


def honest(report: Report, noise: float = 0.2) -> Report:
    """``report`` with the figures that follow from its scores and times."""
    teacher, other = evaluation("teacher"), evaluation(VARIANT, noise=noise)
    softer = tuple(
        EvaluationTable.from_evaluation(e) for e in (evaluation("teacher", noise=1.0), evaluation(VARIANT, noise=1.1))
    )
    perturbed = (PerturbedTables(perturbation="blur", severity=1, evaluations=softer),)
    times = [
        Measurement(
            name=name,
            target=target,
            session_ms=tuple(ms + 0.01 * n for n in range(120)),
            calls_per_round=20,
        )
        for name, target, ms in (("teacher", "torch:cpu:fp32:1", 30.0), (VARIANT, "onnxruntime:cpu:fp32:1", 10.0))
    ]
    return msgspec.structs.replace(
        report,
        evaluations=tuple(map(EvaluationTable.from_evaluation, (teacher, other))),
        comparisons=compare(teacher, other, report.policy),
        perturbed=perturbed,
        drops=compare_drops([teacher, other], perturbed, report.policy),
        fidelity=(fidelity(teacher, other, report.task),),
        measurements=tuple(times),
        speedups=(Speedup(name=VARIANT, baseline="teacher", ratio=speedup(*times)),),
        shipped=(VARIANT,),
    )


def pack(request: PackRequest, out: Path, signer: Signer = APPROVER) -> Path:
    """Pack what ``request`` asks for."""
    pack_evidence(request, out, signer.private)
    return out


def sha256(content: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(content).hexdigest()
