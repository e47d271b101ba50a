"""What a bench run found, and the report that is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from medfm_compress.bench.evaluate.attribution_agreement import load_explanations
from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.fidelity import fidelity
from medfm_compress.bench.evaluate.paired_comparison import compare
from medfm_compress.bench.evaluate.robustness import PerturbedTables, compare_drops
from medfm_compress.bench.evaluate.test_set_log import read_log
from medfm_compress.bench.gate.policy_file import LoadedPolicy
from medfm_compress.bench.measure.latency import ModelUnderTest
from medfm_compress.bench.measure.latency_regression import Slowdown
from medfm_compress.bench.measure.load_scenario import ScenarioResult
from medfm_compress.bench.measure.machine import Machine
from medfm_compress.bench.measure.speedup import round_spread, speedup
from medfm_compress.bench.models import BUNDLES
from medfm_compress.bench.report import REPORT_SCHEMA_VERSION, Report, Speedup, teacher_beside
from medfm_compress.bench.types.evaluation import Comparison, Evaluation
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.runtime.bundle.bundle import Bundle, utc_date

_NOISY_SPREAD = 0.10


def noise_reasons(machine: Machine, measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """Why the timings should not be trusted; empty on a quiet machine."""
    reasons = []
    if machine.busy:
        reasons.append(f"the load was {machine.load_average:.1f} when the measurement began")
    for measurement in measurements:
        if not measurement.warm_up_stable:
            reasons.append(f"{measurement.name} had not settled after {measurement.warm_up_calls} warm-up calls")
        spread = round_spread(measurement)
        if measurement.throttling:
            reasons.append(f"the GPU was throttling while {measurement.name} ran ({measurement.throttling})")
        if spread > _NOISY_SPREAD:
            reasons.append(f"the rounds' medians of {measurement.name} spread by {100 * spread:.0f}%")
    return tuple(reasons)


class Results(NamedTuple):
    """Everything that a report is made of.

    Attributes:
        bundle: that was benched.
        policy: under which.
        teacher_name: architecture of the teacher.
        study_fingerprint: of the study.
        split: that was evaluated.
        machine: that it ran on.
        models: that were evaluated, the teacher first, with the temperatures and operating points that they had.
        teacher_decides: whose temperature and operating points the teacher has.
        external_models: names of those of them that other tools made.
        evaluations: theirs, in the same order.
        measurements: theirs, and of models that were only timed.
        scenarios: loads.
        slowdowns: against an earlier bundle.
        left_out: variant that was not evaluated → why its device is not to be had here.
        perturbed: evaluations of teacher and variants on perturbed images.
    """

    bundle: Bundle
    policy: LoadedPolicy
    teacher_name: str
    study_fingerprint: str
    split: str
    machine: Machine
    models: tuple[ModelUnderTest, ...]
    teacher_decides: str
    external_models: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    measurements: tuple[Measurement, ...]
    scenarios: tuple[ScenarioResult, ...]
    slowdowns: tuple[Slowdown, ...]
    left_out: Mapping[str, str] = MappingProxyType({})
    perturbed: tuple[PerturbedTables, ...] = ()


def build_report(results: Results, out: Path) -> Report:
    """The report of ``results``, with the maps and the log of evaluations that lie in ``out``."""
    manifest, measurements = results.bundle.manifest, results.measurements
    teacher, *others = results.evaluations
    tables = tuple(EvaluationTable.from_evaluation(evaluation) for evaluation in results.evaluations)
    judged = [evaluation for evaluation in results.evaluations if evaluation.name not in results.external_models]
    of_this_study = (results.study_fingerprint, results.split)
    return Report(
        schema_version=REPORT_SCHEMA_VERSION,
        bundle_name=manifest.name,
        model_digest=manifest.model_digest,
        study_fingerprint=results.study_fingerprint,
        split=results.split,
        policy=results.policy.policy,
        policy_sha256=results.policy.sha256,
        task=manifest.task,
        tasks={model.name: model.task for model in results.models},
        teacher_name=results.teacher_name,
        teacher_decides=results.teacher_decides,
        notes=_notes(results),
        left_out=dict(results.left_out),
        perturbed=results.perturbed,
        drops=compare_drops(judged, results.perturbed, results.policy.policy),
        teacher_operating_points=results.models[0].task.operating_points,
        external_models=results.external_models,
        evaluations=tables,
        measurements=measurements,
        comparisons=_comparisons(results.evaluations, results.policy),
        fidelity=tuple(fidelity(teacher, other, manifest.task) for other in others),
        speedups=_speedups(measurements),
        scenarios=results.scenarios,
        slowdowns=results.slowdowns,
        explanations=load_explanations(out, model_digest=manifest.model_digest, cases_sha256=tables[0].cases_sha256),
        test_set_evaluations=tuple(
            entry for entry in read_log(out) if (entry.study_fingerprint, entry.split) == of_this_study
        ),
        machine=results.machine,
        noise=noise_reasons(results.machine, measurements),
        provenance=manifest.provenance,
        intended_use=manifest.intended_use,
        created=utc_date(),
        shipped=tuple(variant.name for variant in manifest.variants),
    )


def _speedups(measurements: Sequence[Measurement]) -> tuple[Speedup, ...]:
    """Of everything that the teacher was timed beside, on the same kind of chip."""
    pairs = [(measurement, teacher_beside(measurements, measurement)) for measurement in measurements[1:]]
    return tuple(
        Speedup(name=measurement.name, baseline=beside.name, ratio=speedup(beside, measurement))
        for measurement, beside in pairs
        if beside is not None and beside is not measurement
    )


def _notes(results: Results) -> tuple[str, ...]:
    """What a reader must know of the cases, and which variants were left out."""
    decides = (f"the teacher decides {BUNDLES}",) if results.teacher_decides == BUNDLES else ()
    left_out = (f"{name} was not evaluated on its device: {reason}" for name, reason in results.left_out.items())
    return (*decides, *left_out)


def _comparisons(evaluations: Sequence[Evaluation], policy: LoadedPolicy) -> tuple[Comparison, ...]:
    teacher, *variants = evaluations
    return tuple(comparison for variant in variants for comparison in compare(teacher, variant, policy.policy))
