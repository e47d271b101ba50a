"""A report of simulated models for every section: two variants, an external one, groups, one of them too small."""

from __future__ import annotations

import functools

import msgspec
import numpy as np

from medfm_compress.bench.evaluate.attribution_agreement import RANDOMISED, ExplanationAgreement
from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.fidelity import fidelity
from medfm_compress.bench.evaluate.paired_comparison import compare
from medfm_compress.bench.evaluate.robustness import PerturbedTables, compare_drops, conditions
from medfm_compress.bench.evaluate.test_set_log import LoggedEvaluation
from medfm_compress.bench.measure.latency_regression import Slowdown
from medfm_compress.bench.measure.load_scenario import ScenarioResult
from medfm_compress.bench.measure.machine import Machine
from medfm_compress.bench.measure.speedup import speedup
from medfm_compress.bench.report import REPORT_SCHEMA_VERSION, Report, Speedup
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.bench.types.policy import Budget, NonInferiority, Policy, Robustness, SubgroupRule
from medfm_compress.bench.types.verdict import Check, VariantVerdict, Verdict
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.task import OperatingPoint, Task

VARIANTS = ("openvino-cpu-int8", "onnxruntime-cpu-int8")
EXTERNAL = "nncf-int8"
THRESHOLD = 0.44


def make_evaluation(name: str, findings: tuple[str, ...], noise: float = 0.0, cases: int = 624) -> Evaluation:
    """A model whose logit is the teacher's plus noise; its logits are too large by 1.5, which its temperature mends."""
    random = np.random.default_rng(0)
    truth = (random.random((cases, len(findings))) < 0.6).astype(np.int64)
    seen = truth * 2.9 + random.standard_normal(truth.shape) * 1.25 - 1.2
    base = 1.86 * (seen - 0.25) + 0.4  # the log odds that this distribution implies: calibrated
    logit = base + noise * np.random.default_rng(len(name)).standard_normal(truth.shape)
    scores, sharp = 1 / (1 + np.exp(-logit)), 1.5 * logit
    patients = np.arange(cases) * 400 // cases
    return Evaluation(
        name=name,
        images=tuple(f"case-{number}.png" for number in range(cases)),
        logits=np.hstack([-sharp / 2, sharp / 2]) if len(findings) == 1 else sharp,
        scores=scores,
        truth=truth,
        decisions=(scores >= THRESHOLD).astype(np.int64),
        clusters=tuple(f"patient-{number}" for number in patients),
        findings=findings,
        subgroups={
            "sex": tuple("FM"[number % 2] for number in patients),
            "age": tuple(str(1 + (7 * number) % 83) if number % 25 else "" for number in patients),
            "site": tuple("east" if number < 12 else "north" if number % 3 else "south" for number in patients),
        },
    )


def make_measurement(name: str, target: str, ms: float, mb: float, rss: float) -> Measurement:
    random = np.random.default_rng(len(name))
    samples = ms * (1 + 0.02 * random.standard_exponential(400)) + (random.random(400) > 0.98) * ms * 0.3
    parts = {"read": 1.9, "preprocess": 0.8, "infer": ms * 1.02, "postprocess": 0.05}
    stages = {stage: tuple((value * (1 + 0.03 * random.random(80))).tolist()) for stage, value in parts.items()}
    return Measurement(
        name=name,
        target=target,
        session_ms=tuple(samples.tolist()),
        end_to_end_ms=tuple(np.sum(list(stages.values()), axis=0).tolist()),
        stages_ms=stages,
        first_prediction_ms=400 + ms * 40,
        peak_rss_bytes=int(rss * 1e6),
        size_bytes=int(mb * 1e6),
        warm_up_calls=32,
        warm_up_stable=name != EXTERNAL,
        calls_per_round=20,
        energy_mj=ms * 21,
        energy_source="rapl",
    )


@functools.cache
def make_report(variants: tuple[str, ...] = VARIANTS, findings: tuple[str, ...] = ("pneumonia",)) -> Report:
    """Compared, timed and noted as a real run would; the same object for the same arguments."""
    policy, task = _policy(), _task(findings)
    teacher = make_evaluation("teacher", findings)
    others = [make_evaluation(name, findings, 0.3 + 0.25 * place) for place, name in enumerate((*variants, EXTERNAL))]
    perturbed = _perturbed(variants, findings, policy)
    measurements = (
        make_measurement("teacher", "torch:cpu:fp32:1", 25.3, 92.1, 402),
        *(
            make_measurement(name, f"{name.replace('-', ':')}:1", 1.62 + 0.5 * place, 5.1 + place, 164 - 40 * place)
            for place, name in enumerate(variants)
        ),
        make_measurement(EXTERNAL, "openvino:cpu:int8:1", 2.9, 23.4, 190),
        make_measurement("teacher in ONNX Runtime", "onnxruntime:cpu:fp32:1", 13.8, 61.9, 231),
        make_measurement("teacher in OpenVINO", "openvino:cpu:fp32:1", 12.9, 61.9, 290),
    )
    return Report(
        schema_version=REPORT_SCHEMA_VERSION,
        bundle_name="chest-xray-pneumonia",
        model_digest="3fa9c1d27b64e0c8" * 4,
        study_fingerprint="91d0b7a6c2f4e851" * 4,
        split="test",
        policy=policy,
        policy_sha256="0c5e8aa1d4f7b392" * 4,
        task=task,
        teacher_name="coatnet_nano_rw_224",
        evaluations=tuple(EvaluationTable.from_evaluation(evaluation) for evaluation in (teacher, *others)),
        measurements=measurements,
        perturbed=perturbed,
        drops=compare_drops([teacher, *others[: len(variants)]], perturbed, policy),
        comparisons=tuple(comparison for other in others for comparison in compare(teacher, other, policy)),
        speedups=tuple(
            Speedup(name=measurement.name, baseline="teacher", ratio=speedup(measurements[0], measurement))
            for measurement in measurements[1:]
        ),
        machine=_MACHINE,
        provenance=_PROVENANCE,
        created="2026-03-04T11:30:12Z",
        intended_use="Second reader for frontal chest radiographs, as a hint and never as the only finding.",
        tasks=dict.fromkeys(("teacher", *variants, EXTERNAL), task),
        teacher_operating_points=task.operating_points,
        shipped=variants,
        external_models=(EXTERNAL,),
        fidelity=tuple(fidelity(teacher, other, task) for other in others),
        notes=("The column age is not recorded for 25 of 624 cases; they are in no group of it.",),
        scenarios=_scenarios(variants),
        slowdowns=(
            Slowdown(
                variant=variants[0],
                baseline_digest="aa" * 32,
                baseline_p50_ms=(1.60, 1.61, 1.59),
                p50_ms=(1.63, 1.62, 1.61),
                ratio=Interval(estimate=1.013, low=0.99, high=1.037),
            ),
        ),
        explanations=_explanations(variants[0], findings[0]),
        test_set_evaluations=tuple(
            LoggedEvaluation(
                date=f"2026-03-0{day}T10:00:00Z",
                split="test",
                cases=624,
                policy_sha256=policy_sha256,
                model_digest=digest,
                study_fingerprint="91d0b7a6c2f4e851" * 4,
            )
            for day, policy_sha256, digest in (
                (2, "0c5e8aa1d4f7b392" * 4, "77aa" * 16),
                (4, "0c5e8aa1d4f7b392" * 4, "3fa9c1d27b64e0c8" * 4),
            )
        ),
    )


def _perturbed(variants: tuple[str, ...], findings: tuple[str, ...], policy: Policy) -> tuple[PerturbedTables, ...]:
    """Noise that grows with severity, a little more in the variants than in the teacher."""
    tables = []
    for perturbation, severity in conditions(policy):
        noises = (0.3 * severity, *(0.35 * severity + 0.25 * place for place in range(len(variants))))
        evaluations = (
            msgspec.structs.replace(make_evaluation(name, findings, noise), subgroups={})
            for name, noise in zip(("teacher", *variants), noises, strict=True)
        )
        made = tuple(EvaluationTable.from_evaluation(evaluation) for evaluation in evaluations)
        tables.append(PerturbedTables(perturbation=perturbation, severity=severity, evaluations=made))
    return tuple(tables)


def make_multiclass_report(classes: int) -> Report:
    """Labels that exclude each other: the teacher, two variants and an external model, decided by the largest score."""
    labels = tuple(f"label {number}" for number in range(classes))
    random = np.random.default_rng(0)
    truth = np.eye(classes, dtype=np.int64)[random.integers(0, classes, 200)]
    base = 2 * truth + random.standard_normal(truth.shape)

    def evaluation(name: str, noise: float) -> Evaluation:
        logits = base + noise * np.random.default_rng(len(name)).standard_normal(base.shape)
        scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return msgspec.structs.replace(
            make_evaluation(name, labels, cases=200),
            logits=logits,
            scores=scores,
            truth=truth,
            decisions=np.eye(classes, dtype=np.int64)[scores.argmax(axis=1)],
        )

    evaluations = (evaluation("teacher", 0.0), *(evaluation(name, 0.8) for name in (*VARIANTS, EXTERNAL)))
    policy = Policy(non_inferiority=(NonInferiority(metric="accuracy", margin=0.02),), resamples=1000)
    return msgspec.structs.replace(
        make_report(),
        task=Task(kind="multiclass", labels=labels),
        tasks={},
        teacher_operating_points=(),
        policy=policy,
        evaluations=tuple(EvaluationTable.from_evaluation(table) for table in evaluations),
        comparisons=tuple(
            comparison for other in evaluations[1:] for comparison in compare(evaluations[0], other, policy)
        ),
        fidelity=(),
    )


def make_verdict(report: Report, outcomes: tuple[str, ...] = ("pass", "pass")) -> Verdict:
    variants = tuple(
        VariantVerdict(
            variant=name,
            outcome=outcome,
            checks=(
                Check(
                    name="AUROC of pneumonia",
                    outcome=outcome,
                    reason="the difference is −0.002, 95% interval −0.011 to 0.007, margin 0.02",
                ),
                Check(name="speed-up", outcome="pass", reason="15.4× at the median; at least 10× is required"),
                Check(name="enough cases", outcome="pass", reason="390 positive, 234 negative, 400 patients"),
            ),
        )
        for name, outcome in zip(report.variants, outcomes, strict=False)
    )
    order = ("fail", "inconclusive", "pass")
    worst = min((variant.outcome for variant in variants), key=order.index)
    return Verdict(
        outcome=worst, variants=variants, policy_sha256=report.policy_sha256, model_digest=report.model_digest
    )


def hostile_report(report: Report, text: str) -> Report:
    """``report`` with ``text`` wherever a file could bring it in."""
    groups = {text: (text,) * len(report.teacher.clusters)}
    names = {old: f"{text}{place}" for place, old in enumerate(table.name for table in report.evaluations[1:])}
    rename = msgspec.structs.replace
    return rename(
        report,
        bundle_name=text,
        teacher_name=text,
        split=text,
        created=text,
        intended_use=text,
        policy_sha256=text,
        noise=(text,),
        notes=(text,),
        shipped=(text,),
        external_models=(names[EXTERNAL],),
        provenance=Provenance(teacher=text, steps=(text,), libraries={text: text}, date=text, teacher_licence=text),
        machine=rename(report.machine, cpu_model=text, libraries={text: text}),
        policy=rename(
            report.policy,
            subgroups=(SubgroupRule(column=text),),
            non_inferiority=(NonInferiority(metric="auroc", margin=0.02, finding=text, subgroup=text),),
        ),
        evaluations=tuple(
            rename(table, name=names.get(table.name, table.name), subgroups=groups) for table in report.evaluations
        ),
        measurements=tuple(
            rename(entry, name=names.get(entry.name, entry.name), stages_ms={text: (1.0,)}, energy_source=text)
            for entry in report.measurements
        ),
        comparisons=tuple(
            rename(entry, variant=names[entry.variant], subgroup=entry.subgroup and f"{text} = {text}")
            for entry in report.comparisons
        ),
        fidelity=tuple(rename(entry, variant=names[entry.variant]) for entry in report.fidelity),
        scenarios=tuple(rename(entry, name=text, target=text, note=text) for entry in report.scenarios),
        slowdowns=tuple(rename(entry, variant=text, baseline_digest=text) for entry in report.slowdowns),
        explanations=tuple(rename(entry, variant=text, finding=text, method=text) for entry in report.explanations),
        test_set_evaluations=tuple(
            rename(entry, date=text, model_digest=text, policy_sha256=text) for entry in report.test_set_evaluations
        ),
    )


def _policy() -> Policy:
    return Policy(
        non_inferiority=(
            NonInferiority(metric="auroc", margin=0.02, teacher_floor=0.9, bundle_floor=0.9),
            NonInferiority(metric="auroc", margin=0.04, subgroup="sex"),
            NonInferiority(metric="auroc", margin=0.05, subgroup="age"),
            NonInferiority(metric="sensitivity", margin=0.03),
            NonInferiority(metric="brier", margin=0.01),
            NonInferiority(metric="brier", margin=0.02, subgroup="sex"),
        ),
        robustness=(Robustness(margin=0.05, perturbations=("blur", "noise"), severities=(1, 3)),),
        budget=Budget(p50_ms=5, min_speedup=10, min_compression=10),
        subgroups=(
            SubgroupRule(column="sex"),
            SubgroupRule(column="age", cuts=(18, 65)),
            SubgroupRule(column="site", when_too_few="named"),
        ),
        min_positives=15,
        min_negatives=15,
        min_clusters=30,
        resamples=1000,
    )


def _task(findings: tuple[str, ...]) -> Task:
    points = tuple(
        OperatingPoint(
            label=finding,
            threshold=THRESHOLD,
            rule="youden",
            sensitivity=0.95,
            specificity=0.87,
            positives=210,
            negatives=90,
        )
        for finding in findings
    )
    binary = len(findings) == 1
    return Task(
        kind="binary" if binary else "multilabel",
        labels=("normal", *findings) if binary else findings,
        temperature=1.5,
        operating_points=points,
    )


def _scenarios(variants: tuple[str, ...]) -> tuple[ScenarioResult, ...]:
    return tuple(
        ScenarioResult(
            name=variants[0],
            target="openvino:cpu:int8:1",
            scenario=scenario,
            harness=harness,
            official=official,
            latencies_ms=(1.7,) * queries,
            duration_s=duration,
            queries_per_second=queries / duration,
            percentile=percentile,
            latency_ms=Interval(estimate=1.7, low=1.68, high=1.75),
            target_qps=400 if scenario == "server" else 0,
            note="" if official else "20 s in place of 600 s",
        )
        for scenario, harness, official, queries, duration, percentile in (
            ("single-stream", "loadgen", True, 1024, 620.0, 0.9),
            ("server", "plain", False, 300, 20.0, 0.99),
        )
    )


def _explanations(variant: str, finding: str) -> tuple[ExplanationAgreement, ...]:
    random = np.random.default_rng(5)
    return tuple(
        ExplanationAgreement(
            variant=name,
            finding=finding,
            method="grad-cam / occlusion",
            rank_correlation=tuple((middle + 0.1 * random.standard_normal(12)).clip(-1, 1).tolist()),
            overlap=tuple((middle - 0.1 + 0.1 * random.random(12)).clip(0, 1).tolist()),
            cases=tuple(range(12)),
        )
        for name, middle in ((variant, 0.71), (RANDOMISED, 0.12))
    )


_MACHINE = Machine(
    cpu_model="AMD EPYC 9R14",
    cpu_flags=("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "hypervisor"),
    logical_cpus=2,
    allowed_cpus=2,
    governor="",
    memory_bytes=25_000_000_000,
    system="Linux 6.1.0 x86_64",
    python="3.11.7",
    libraries={"medfm-compress": "0.1.0", "numpy": "2.3.4", "onnxruntime": "1.23.2", "openvino": "2025.4.0"},
    load_average=0.12,
)
_PROVENANCE = Provenance(
    teacher="coatnet_nano_rw_224 (sha256 5d2c…)",
    teacher_licence="Apache-2.0",
    student="repvit_m0_9 (sha256 77aa…)",
    study_fingerprint="91d0b7a6c2f4e851" * 4,
    steps=(
        "distilled for 12 epochs at temperature 4",
        "exported to ONNX, opset 18",
        "quantized to INT8, 300 cases",
    ),
    libraries={"torch": "2.9.1", "timm": "1.0.22", "nncf": "3.0.0"},
    date="2026-03-04T10:12:00Z",
)
